package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
	"millrace/platform/config"
)

const (
	// dayFile ends the name of the file in which a link counts the bytes of a day.
	dayFile = ".day"
	// deliveredFile ends that of the file in which it keeps how far each partition was delivered.
	deliveredFile = ".delivered"
	// cursorsFile ends that of the file in which it keeps the cursors that are upstream.
	cursorsFile = ".cursors"
	// deliveredMax bounds what is read of either, in bytes.
	deliveredMax = 4 << 20
	// waitMax is how long a link waits for its contract where nobody knows until when. What comes sooner, step tells of.
	waitMax = 12 * time.Hour
	// dayLeast is what of a day's bytes is too little for another transaction.
	dayLeast = 4 << 10
	// batchMax is about the largest request a link makes, in bytes.
	batchMax = 1 << 20
	// growthOver is over how long what comes in is averaged.
	growthOver = 2 * time.Minute
)

// line is what a link reaches its other end by, and what it may send there when. It implements upstream.Remote,
// upstream.Patient and upstream.Scheduler.
type line struct {
	u        *config.Upstream
	contract *contract.Contract
	zone     *time.Location
	budget   *contract.Budget // nil: none
	meter    *contract.Meter
	backoff  *contract.Backoff
	moment   func() contract.Moment
	kafka    upstream.Remote
	source   upstream.Source // of a link that goes down

	mu    sync.Mutex
	speed contract.Speed
	// last is how things were at the last step.
	last struct {
		raw, records, behind, wire int64
		run                        time.Duration
		allowed                    contract.Set // what was let through
		known                      bool         // there was one
	}
	growth float64 // records a second that come in
	// filling is what each lane has put into the transaction that it makes, which began then. No byte of it is on the wire.
	filling [upstream.Backfill + 1]struct {
		began time.Time
		bytes int64
	}
}

// newLine makes that of a link.
func (l *links) newLine(u *config.Upstream) (_ *line, err error) {
	k := &line{u: u, moment: l.moment, backoff: &contract.Backoff{Min: u.Backoff, Max: u.BackoffMax, Random: rand.Int64N}}
	if k.zone, err = contract.Zone(u.TimeZone); err != nil {
		return nil, err
	}
	if k.contract, err = contract.New(terms(u, k.zone)); err != nil {
		return nil, err
	}
	if u.RateDay > 0 {
		dir := filepath.Join(l.b.dir(), linksDir)
		if err := l.b.config.FS.MkdirAll(dir, 0o750); err != nil {
			return nil, err
		}
		if err := l.b.config.FS.SyncDir(l.b.dir(), pointMetaDir); err != nil {
			return nil, err
		}
		var damage error
		if k.budget, damage, err = contract.OpenBudget(contract.BudgetConfig{
			FS: l.b.config.FS, Path: filepath.Join(dir, u.Name+dayFile), Limit: u.RateDay, Zone: k.zone, Now: l.moment,
		}); err != nil {
			return nil, fmt.Errorf("rate.bytes.per.day: %w", err)
		}
		if damage != nil {
			l.log.Error("what a link has used of its day is not known", "link", u.Name, "err", damage)
		}
	}
	if k.meter, err = contract.NewMeter(u.RateSecond, k.budget); err != nil {
		return nil, errors.Join(err, k.close())
	}
	way := &reach{u: u, dial: dialer(k.meter.Dial((&net.Dialer{Timeout: contract.DialTimeout(u.RateSecond)}).DialContext)), now: l.b.clock.Now}
	k.kafka, k.source = way, way
	if l.b.config.remote != nil {
		k.kafka = l.b.config.remote(u)
		k.source, _ = k.kafka.(upstream.Source)
	}
	return k, nil
}

// terms are the settings as the contract has them.
func terms(u *config.Upstream, zone *time.Location) contract.Config {
	c := contract.Config{Windows: u.Windows, Zone: zone, Metered: u.Metered}
	for _, k := range u.Classes {
		c.Classes = append(c.Classes, contract.Class{
			Topics: k.Topics, Priority: k.Priority, MinimumShare: k.MinimumShare, Windows: k.Windows, Metered: k.Metered, Linger: k.Linger,
		})
	}
	return c
}

// CheckLink tells what is wrong with what a link may send when; nil where nothing is.
func CheckLink(u *config.Upstream) error {
	zone, err := contract.Zone(u.TimeZone)
	if err != nil {
		return err
	}
	_, err = contract.New(terms(u, zone))
	return err
}

// CheckZone tells what is wrong with the name of a time zone, CheckWindow with a window.
func CheckZone(name string) error {
	_, err := contract.Zone(name)
	return err
}

// CheckWindow tells what is wrong with a window of the day.
func CheckWindow(text string) error {
	_, err := contract.ParseSchedule([]string{text}, nil)
	return err
}

// moment is what the board knows of the time.
func (l *links) moment() contract.Moment {
	return contract.Moment{Time: l.b.clock.Now(), Known: l.b.clock.Known(), Run: time.Duration(l.b.pulse.Now()) * time.Millisecond}
}

// close gives back what the line holds. Nothing uses it any more.
func (k *line) close() error { return k.budget.Close() }

// Open implements upstream.Remote. A link that may send nothing now does not log in for it either.
func (k *line) Open(ctx context.Context, transactionalID string) (upstream.Session, error) {
	if why := k.held(k.budget.Day()); why != "" {
		return nil, errors.New(why)
	}
	return k.kafka.Open(ctx, transactionalID)
}

var _ upstream.Patient = (*line)(nil)

// Patience implements upstream.Patient.
func (k *line) Patience(d time.Duration) {
	if p, is := k.kafka.(upstream.Patient); is {
		p.Patience(d)
	}
}

// held is why nothing may be sent now, with that left of the day, "" where something may.
func (k *line) held(day contract.Day) string {
	now := k.moment()
	switch {
	case day.Err != nil:
		return day.Err.Error()
	case spent(day) && day.Renews.IsZero():
		return "the bytes of the day are spent, and nobody knows the time: until the next start, or a day of running"
	case spent(day):
		return "the bytes of the day are spent; the next begins " + day.Renews.In(k.zone).Format(time.RFC3339)
	}
	if k.contract.Allowed(now) != 0 {
		return ""
	}
	switch at, ok := k.contract.Next(now); {
	case ok:
		return "no window is open; the next opens " + at.In(k.zone).Format(time.RFC3339)
	case !now.Known:
		return "no window opens before the time is known"
	}
	return "the link is metered, and no class goes over one that is"
}

// Classes implements upstream.Scheduler.
func (k *line) Classes() int { return k.contract.Classes() }

// Class implements upstream.Scheduler.
func (k *line) Class(topic string) int { return k.contract.Class(topic) }

// Priority implements upstream.Scheduler.
func (k *line) Priority(class int) int { return k.contract.Priority(class) }

// Linger implements upstream.Scheduler.
func (k *line) Linger(class int, usual time.Duration) time.Duration {
	own := k.contract.Linger(class, usual)
	if own < usual && !k.contract.Allowed(k.moment()).Has(class) {
		return usual
	}
	return own
}

// Sent implements upstream.Scheduler.
func (k *line) Sent(at time.Time, lane upstream.Lane, class, bytes int) {
	k.contract.Sent(class, int64(bytes))
	k.mu.Lock()
	defer k.mu.Unlock()
	f := &k.filling[lane]
	if f.began != at {
		f.began, f.bytes = at, 0
	}
	f.bytes += int64(bytes)
}

// Next implements upstream.Scheduler. What the transaction has already is taken off the day's bytes: else one is made that
// is larger than what is left, and can never be committed.
func (k *line) Next(at time.Time, lane upstream.Lane, ready []bool) (class, bytes int, wait time.Duration) {
	now, day := k.moment(), k.budget.Day()
	var pending contract.Set
	for i, is := range ready {
		if is {
			pending = pending.With(i)
		}
	}
	k.mu.Lock()
	measured := k.speed.PerSecond()
	if f := k.filling[lane]; f.began == at {
		day.Left = max(day.Left-f.bytes, 0)
	}
	k.mu.Unlock()
	class, room, _ := k.contract.Turn(now, pending, contract.TransactionBytes(k.u.RateSecond, measured), day)
	switch at, ok := k.contract.Next(now); {
	case class >= 0:
		return class, int(min(room, math.MaxInt32)), 0
	case spent(day):
		return -1, 0, until(now, day.Renews, !day.Renews.IsZero())
	default:
		return -1, 0, until(now, at, ok)
	}
}

var _ upstream.Gate = (*line)(nil)

// Held implements upstream.Gate.
func (k *line) Held(class int) (why string, bytes int) {
	day := k.budget.Day()
	if why = k.held(day); why != "" {
		return why, 0
	}
	if !k.contract.Allowed(k.moment()).Has(class) {
		return "nothing of its class may go now: no window of it is open, or the link is metered", 0
	}
	k.mu.Lock()
	measured := k.speed.PerSecond()
	k.mu.Unlock()
	return "", int(min(contract.TransactionBytes(k.u.RateSecond, measured), day.Left))
}

// spent says whether nothing more may be sent of a day.
func spent(d contract.Day) bool { return d.Err != nil || d.Left < dayLeast }

// until is how long to wait for a time, at most waitMax.
func until(now contract.Moment, at time.Time, ok bool) time.Duration {
	if !ok {
		return waitMax
	}
	return min(max(at.Sub(now.Time), time.Millisecond), waitMax)
}

// step is called now and then with the link's status. It says whether something is let through that was not before.
func (k *line) step(is *upstream.Status) (again bool) {
	allowed := k.contract.Allowed(k.moment())
	if k.held(k.budget.Day()) != "" {
		allowed = 0
	}
	wire, run := k.meter.Sent()+k.meter.Received(), k.moment().Run
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &k.last
	again = l.known && allowed&^l.allowed != 0
	if raw := is.Sent.Bytes - l.raw; raw > 0 && is.Rate > 0 {
		k.speed.Add(raw, wire-l.wire, time.Duration(float64(raw)/is.Rate*float64(time.Second)))
	}
	if over := run - l.run; l.known && over > 0 {
		came := float64(max(is.Records-l.behind+is.Sent.Records-l.records, 0)) / over.Seconds()
		keep := math.Exp(-over.Seconds() / growthOver.Seconds())
		k.growth = keep*k.growth + (1-keep)*came
	}
	l.raw, l.records, l.behind, l.wire, l.run, l.allowed, l.known = is.Sent.Bytes, is.Sent.Records, is.Records, wire, run, allowed, true
	return again
}
