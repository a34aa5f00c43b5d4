package contract

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"millrace/broker/disk"
)

// PerDayMin is the smallest budget of a day, in bytes. With less, logging in would be most of it.
const PerDayMin = 1 << 20

// ErrDaySpent is returned by a connection's Write and Read when the bytes of the day are spent, and a hundredth more. The
// connection is of no use then until the next day begins.
var ErrDaySpent = errors.New("the bytes of the day are spent")

const (
	perDayMax = 1 << 50
	// longestDay is the time of running after which a day has begun whatever the clock says: one of 25 hours, where the clock
	// is put back, is the longest.
	longestDay = 25 * time.Hour
	// stepMin is how far the clock must go on its own for that to be a jump.
	stepMin = time.Hour
	// noDay is before all dates.
	noDay = math.MinInt64
	// ranSave is how often the running time of a day that is spent is saved, so that it is not lost with the life.
	ranSave = time.Hour
	// retryAfter is how long a file that could not be written is left alone.
	retryAfter = 5 * time.Second
)

// BudgetConfig is what a Budget is made of.
type BudgetConfig struct {
	FS    disk.FS
	Path  string         // of its file, in a directory that there is
	Limit int64          // bytes a day, at least PerDayMin
	Zone  *time.Location // whose days these are; nil is UTC
	Now   func() Moment
}

// Budget is how many bytes a link may carry in a day, sent and received. What is spent is on the disk before it is
// spent, a hundredth of the limit ahead, so that a kill at any moment takes at most that hundredth away and gives nothing back; it is
// 100 to 130 writes for a day that is spent whole, and none for an idle one. A clean Close gives back what is left of the
// hundredth. Connections stop at the limit and a hundredth: who plans by Left stops at the limit, and the rest is
// for answers, commits and goodbyes.
//
// A day begins
//
//   - when the time is known and the date in Zone is later than that of the last day that began, unless the clock jumped there
//     by an hour or more in this life: then the day goes on under the new date;
//   - or after 25 hours of running since the last one began, where the time is not known or the date is earlier than one
//     that there was already: a board that never learns the time, or once believed in a date far ahead, sends all the same.
//
// So neither a jump, nor a step back and forth, nor a time that nobody vouches for gives a day away. What was sent before
// the time was known counts as the day's that the time then turns out to be. Where a board was off, its clock is believed.
//
// A file that is damaged counts as a day that is spent whole, until the next begins. A file that is not there is a new one.
// Safe for concurrent use; nil is no budget.
type Budget struct {
	cfg  BudgetConfig
	step int64

	mu    sync.Mutex
	file  *slots
	state state
	// used is what was sent and received since the day began.
	//
	// Invariant: used + held <= state.reserved, which is durable, whenever a byte goes out or a read begins; and then
	// used + held <= limit + limit/100.
	used int64
	held int64 // what reads that are under way may bring
	// last is the moment of the last look, from which a jump is told.
	last   Moment
	carry  bool          // it jumped to a later date, which the file does not say yet
	ranAt  time.Duration // Moment.Run up to which state.ran counts
	disk   state         // as it is in the file
	err    error         // why the file could not be written, or nil
	failed time.Duration // Moment.Run of that

	// seen is what Last goes by. It has a lock of its own, which nobody holds while the file is written.
	seenMu sync.Mutex
	seen   seen
}

// seen is how a budget was when it was last looked at.
type seen struct {
	day        int64
	used, left int64
	err        error
}

// state is what the file holds.
type state struct {
	day      int64         // the latest date that has begun, days since 1970, or noDay
	reserved int64         // bytes of it that may have been spent
	undated  int64         // those of them that were spent before the time was known
	ran      time.Duration // how long the program has been running in it
}

// OpenBudget reads the file, or makes it. A damaged one is reported in damage, and the day counts as spent; err is of a disk that
// does not work or a configuration that makes no sense.
func OpenBudget(cfg BudgetConfig) (b *Budget, damage, err error) {
	if cfg.Limit < PerDayMin || cfg.Limit > perDayMax {
		return nil, nil, fmt.Errorf("%d bytes a day: at least %d are needed, and at most %d", cfg.Limit, PerDayMin, int64(perDayMax))
	}
	if cfg.Zone == nil {
		cfg.Zone = time.UTC
	}
	s, file, whole, err := openSlots(cfg.FS, cfg.Path)
	if err != nil {
		return nil, nil, err
	}
	b = &Budget{cfg: cfg, step: cfg.Limit / 100, file: file, last: cfg.Now()}
	b.ranAt = b.last.Run
	switch whole {
	case 0:
		damage = fmt.Errorf("%s is damaged: the bytes of the day count as spent", cfg.Path)
		s = state{day: noDay, reserved: b.hard(), undated: b.hard()}
	case 1:
		// The other slot may have covered a step more: torn by a power cut it did not, rotten it did.
		s.reserved += b.step
	}
	b.disk, b.state, b.used = s, s, s.reserved
	if damage != nil {
		if err := b.settleDay(); err != nil {
			return nil, nil, errors.Join(err, file.close())
		}
	}
	b.show()
	return b, damage, nil
}

// settleDay has the file say which day is spent, so that a later life does not take the damage for another day's.
func (b *Budget) settleDay() error {
	s, used, _ := b.look()
	s.reserved = used
	return b.store(s, used)
}

// piece is how much may be sent or read in one go: little enough that some of them are no part of a hundredth.
func (b *Budget) piece() int { return int(min(max(b.cfg.Limit/2048, pieceMin), pieceMax)) }

// hard is where connections stop.
func (b *Budget) hard() int64 { return b.cfg.Limit + b.cfg.Limit/100 }

// take takes n bytes that are about to go out.
func (b *Budget) take(n int) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.show()
	if err := b.cover(int64(n)); err != nil {
		return err
	}
	b.spend(int64(n))
	return nil
}

// hold keeps n bytes for a read that is about to begin; settle says how many they were.
func (b *Budget) hold(n int) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.show()
	if err := b.cover(int64(n)); err != nil {
		return err
	}
	b.held += int64(n)
	return nil
}

// settle does not look at the date: what was held is the day's in which the read began, where its bytes are durable.
func (b *Budget) settle(held, n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.show()
	b.held -= int64(held)
	b.spend(int64(n))
}

func (b *Budget) spend(n int64) {
	b.used += n
	if !b.last.Known {
		b.state.undated += n
	}
}

// cover sees to it that n bytes more are durable. Holds mu.
func (b *Budget) cover(n int64) error {
	s, used, changed := b.look()
	need := used + b.held + n
	spent := need > b.hard()
	switch {
	case changed || !spent && need > b.state.reserved:
		if b.err != nil && b.last.Run-b.failed < retryAfter {
			return b.err
		}
		if s.reserved = used + b.held; !spent {
			s.reserved = min(max(need, used+b.step), b.hard())
		}
		if err := b.store(s, used); err != nil {
			return err
		}
	default:
		b.state.undated = s.undated
	}
	if spent {
		return fmt.Errorf("%d of %d bytes: %w", used, b.cfg.Limit, ErrDaySpent)
	}
	return nil
}

// look is what the state should be now, and how much of its day is used; changed is one that the file has to say before
// another byte goes out. Holds mu, and keeps only what it has seen of the time.
func (b *Budget) look() (s state, used int64, changed bool) {
	now := b.cfg.Now()
	jumped := b.last.Known && now.Known && now.Time.Sub(b.last.Time)-(now.Run-b.last.Run) >= stepMin
	s, used = b.state, b.used
	s.ran += max(now.Run-b.ranAt, 0)
	b.state.ran, b.ranAt, b.last = s.ran, now.Run, now
	date := int64(noDay)
	if now.Known {
		date = dateOf(b.cfg.Zone, now.Time)
	}
	if b.carry = date > s.day && (jumped || b.carry); b.carry { // until it is stored
		s.day = date
		return s, used, true
	}
	switch {
	case date > s.day:
		return state{day: date}, s.undated, true
	case date == s.day && now.Known:
		s.undated = 0
		return s, used, b.disk.undated > 0
	case s.ran >= longestDay:
		// The latest date stays unless a known one takes its place, which gives nothing away: a whole day has passed.
		if now.Known {
			s.day = date
		}
		return state{day: s.day}, 0, true
	}
	return s, used, false
}

// store writes s, and makes it the state. Holds mu.
func (b *Budget) store(s state, used int64) error {
	w := s
	if !b.last.Known {
		w.undated += s.reserved - used // what is reserved is spent in the same ignorance
	}
	if err := b.file.write(w); err != nil {
		b.err = fmt.Errorf("the bytes of the day cannot be counted: %w", err)
		b.failed = b.last.Run
		return b.err
	}
	b.err, b.state, b.disk, b.used, b.carry = nil, s, w, used, false
	return nil
}

// Day is how a day's budget stands.
type Day struct {
	Limit, Used int64     // bytes
	Left        int64     // bytes, not below 0
	Renews      time.Time // when the next day begins; zero where nobody knows
	Err         error     // why the file cannot be written, so that nothing may be sent; nil where it can
}

// Day is how the budget stands now. Without a budget Left is all there is. It is to be asked now and then where the day is
// spent, once a minute say: the running time of a day is kept by it.
func (b *Budget) Day() Day {
	if b == nil {
		return Day{Limit: math.MaxInt64, Left: math.MaxInt64}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, used, changed := b.look()
	d := Day{Limit: b.cfg.Limit, Used: used, Left: max(b.cfg.Limit-used-b.held, 0), Renews: b.renews(b.last, s.day), Err: b.err}
	retry := b.err == nil || b.last.Run-b.failed >= retryAfter
	// A fresh day can wait for its first byte. What would be lost with this life cannot.
	if retry && (b.err != nil || changed && used > 0 || d.Left == 0 && d.Renews.IsZero() && s.ran-b.disk.ran >= ranSave) {
		s.reserved = max(s.reserved, used+b.held)
		d.Err = b.store(s, used)
	}
	b.showAs(seen{s.day, d.Used, d.Left, d.Err}) // a fresh day is not stored yet
	return d
}

// renews is when the day after a date begins, as seen at a moment; zero where nobody knows.
func (b *Budget) renews(now Moment, day int64) time.Time {
	if !now.Known || dateOf(b.cfg.Zone, now.Time) < day {
		return time.Time{}
	}
	return dayEnd(b.cfg.Zone, now.Time)
}

// Last is how the budget stood when it was last asked, or used: for who tells of it. It does not wait for the disk, on which the
// others may be writing, and writes nothing, so that a day that has begun since is not in it before Day is asked.
func (b *Budget) Last() Day {
	if b == nil {
		return Day{Limit: math.MaxInt64, Left: math.MaxInt64}
	}
	b.seenMu.Lock()
	is := b.seen
	b.seenMu.Unlock()
	return Day{Limit: b.cfg.Limit, Used: is.used, Left: is.left, Renews: b.renews(b.cfg.Now(), is.day), Err: is.err}
}

// show has Last see how it is. Holds mu.
func (b *Budget) show() {
	b.showAs(seen{b.state.day, b.used, max(b.cfg.Limit-b.used-b.held, 0), b.err})
}

func (b *Budget) showAs(is seen) {
	b.seenMu.Lock()
	defer b.seenMu.Unlock()
	b.seen = is
}

// Close saves what was used exactly, where that is less than what was reserved. The connections must be closed before.
func (b *Budget) Close() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, used, _ := b.look()
	var err error
	if s.reserved = used + b.held; s != b.disk {
		err = b.store(s, used)
	}
	return errors.Join(err, b.file.close())
}
