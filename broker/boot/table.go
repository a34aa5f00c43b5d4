// Package boot keeps the time of a board that may have no clock of its own. It stamps what arrives, never below what the
// time is known to have reached; it counts the age of things by a clock that nobody can set; and it keeps a durable table
// of the stretches, eras, in which stamps were not to be trusted, by which they are put right when they leave the board.
// Records on the board never change. platform/adr/0019-the-time-of-a-board.md has the reasons.
//
// All times are milliseconds since 1970. There are two: stamps, which follow the wall clock and jump to the right time
// when it becomes known; and ages, which begin with a life of the board at what the time had reached for certain, and only
// run.
package boot

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// unknown is the ceiling of an era that was over before nobody knows what.
const unknown = math.MaxInt64

// future is how far ahead of its time a stamp of somebody else's clock may be and still be exported, ms.
const future = 3_600_000

// earliest is 2020-01-01: nothing was written before there was a Millrace.
const earliest = 1_577_836_800_000

// Place names a partition for good.
type Place struct {
	Topic     [16]byte
	Partition int32
}

// Range is the offsets First to End-1 of a partition.
type Range struct {
	Place
	First, End int64
}

// Kind says what is known of an era.
type Kind uint8

const (
	// Life is a life of the board, or a part of one between two steps of its clock.
	Life Kind = iota
	// Before is all that was written before there was a table.
	Before
	// Merged are several eras of which the table had no room for each.
	Merged
)

// Era is a stretch of time in which stamps, or the system's clock, were wrong or may have been.
type Era struct {
	Kind Kind
	Boot int64 // number of the life
	// Wall is what the system's clock said when the era began: files are dated by it.
	Wall int64
	// From is the stamp it began with.
	//
	// Invariant: From >= Floor, or the era is Known: a time that was believed wrongly before may lie ahead.
	From int64
	// Floor is what the time had reached for certain when it began: its age.
	Floor int64
	// Length is how long it lasted; -1: it goes on, or was cut short.
	Length int64
	// Correction is what is to be added to its stamps, once it is Known.
	Correction int64
	Known      bool
	// Ceiling is a time that is known to have come after it; unknown as long as there is none.
	Ceiling int64
	// Open says that Ranges have no end yet. Partitions that are not listed then are new: they are in it from offset 0.
	Open   bool
	Ranges []Range
}

// Table is what is kept on the disk.
type Table struct {
	Boot  int64 // the life that wrote it last
	Floor int64 // the time that had been reached then
	Eras  []Era // oldest first; only one is open
}

// check says what is wrong with a table, nil for nothing.
func (t *Table) check() error {
	open := 0
	for i, e := range t.Eras {
		switch {
		case e.Kind > Merged:
			return fmt.Errorf("era %d is of kind %d", i, e.Kind)
		case e.Floor < 0 || e.From < 0 || e.From < e.Floor && !e.Known || e.Length < -1 || e.From > math.MaxInt64/4 || e.Length > math.MaxInt64/4:
			return fmt.Errorf("era %d begins at %d with floor %d and lasts %d", i, e.From, e.Floor, e.Length)
		case e.Open:
			open++
		}
		for _, r := range e.Ranges {
			if r.First < 0 || !e.Open && r.End <= r.First {
				return fmt.Errorf("era %d has offsets %d to %d of a partition", i, r.First, r.End)
			}
		}
	}
	if open > 1 {
		return fmt.Errorf("%d eras are open", open)
	}
	return nil
}

// span is a Range as it is looked up.
type span struct {
	first, end int64
	era        int
}

// index is a table to be looked up in, with what this life knows. It does not change.
type index struct {
	eras  []Era
	spans map[Place][]span // by era, oldest first
	open  int              // the era that is open, -1: none
	fresh map[Place]int64  // where partitions begin in it

	boot  int64
	first int64 // the age this life began with
	lag   int64 // by how much ages are behind the right time
	known bool  // it has become known in this life
}

func newIndex(t *Table, boot, first, lag int64, known bool) *index {
	x := &index{eras: slices.Clone(t.Eras), open: -1, spans: map[Place][]span{}, boot: boot, first: first, lag: lag, known: known}
	for i, e := range x.eras {
		if e.Open {
			x.open, x.fresh = i, make(map[Place]int64, len(e.Ranges))
			for _, r := range e.Ranges {
				x.fresh[r.Place] = r.First
			}
			continue
		}
		for _, r := range e.Ranges {
			x.spans[r.Place] = append(x.spans[r.Place], span{r.First, r.End, i})
		}
	}
	return x
}

// find is the era that a record was written in, nil where the time was right. A truncated log may have written an offset
// twice: the later era counts.
func (x *index) find(p Place, offset int64) *Era {
	if x.open >= 0 && offset >= x.fresh[p] {
		return &x.eras[x.open]
	}
	spans := x.spans[p]
	for i := len(spans) - 1; i >= 0; i-- {
		if s := spans[i]; offset >= s.first && offset < s.end {
			return &x.eras[s.era]
		}
	}
	return nil
}

// View is the table at one moment. Its methods are pure; it may be kept and used concurrently.
type View struct {
	x   *index
	now int64 // the best that is known of the time
	age int64
}

// Now is the moment of the view, as well as it is known.
func (v View) Now() int64 { return v.now }

// Age is the age of the moment.
func (v View) Age() int64 { return v.age }

// Export is the stamp that a record leaves the board with, and whether its time is not known: then it is a lower bound,
// which the receiver has to be told.
//
//   - Where the time was right, and where a correction is known, it is exact.
//   - Where the time never became known, the era begins at its floor, so that order and distances within it stay.
//   - A stamp that the board's clock of that era cannot have given is of a client's clock: it is left as it is, unless it
//     lies below the floor or in the future.
func (v View) Export(p Place, offset, stamp int64) (at int64, unsure bool) {
	e := v.x.find(p, offset)
	if e == nil {
		return stamp, false
	}
	floor, last := e.Floor, max(e.Floor, min(e.Ceiling, v.now))
	most := last - floor
	if e.Boot != v.x.boot && e.Ceiling == unknown {
		most = unknown // it was cut short, and may have been longer than anybody has written down
	}
	switch own := e.gave(stamp, most); {
	case e.Kind != Life:
		return min(max(stamp, floor), last), true
	case own && e.Known:
		return stamp + e.Correction, false
	case own:
		return min(floor+stamp-e.From, last), true
	}
	if e.Known { // what came after it is in the same range as long as that is open
		floor, last = min(floor, e.From+e.Correction), unknown
		if v.x.known {
			last = max(v.now, floor)
		}
	}
	switch {
	case stamp < floor:
		return floor, true
	case stamp > last && stamp-last > future:
		return last, true
	}
	return stamp, false
}

// gave says whether the board's clock can have given that stamp in the era, which lasted most where it is not known.
func (e *Era) gave(stamp, most int64) bool {
	if e.Length >= 0 {
		most = e.Length
	}
	return stamp >= e.From && stamp-e.From <= most
}

// Arrived is the age at which a record that the board has stamped came, or the latest one it can have come at. What is to
// be kept for a while is counted from it, against Age.
func (v View) Arrived(p Place, offset, stamp int64) int64 {
	e := v.x.find(p, offset)
	switch {
	case e == nil:
		return v.ageOf(stamp)
	case e.Kind == Life && e.gave(stamp, unknown):
		return v.placed(e, stamp-e.From)
	case e.Kind == Life:
		return v.ageOf(stamp) // stamped just after the era's end
	}
	return v.vague(e, stamp)
}

// FileArrived is Arrived by the date the system's clock gave a file whose last record has that offset.
func (v View) FileArrived(p Place, offset, date int64) int64 {
	e := v.x.find(p, offset)
	switch {
	case e == nil && date < earliest:
		return v.x.first
	case e == nil:
		return min(v.ageOf(date), v.age)
	case e.Kind != Life:
		return min(v.vague(e, date), v.age)
	}
	most := e.Length
	if most < 0 {
		most = math.MaxInt64 / 2
	}
	const jitter = 10_000 // the kernel dates files by its own tick, and some a while after they were written
	if since := date - e.Wall; since >= -jitter && since <= most+jitter {
		return min(v.placed(e, max(since, 0)), v.age)
	}
	if e.Ceiling == unknown { // another era's, or nobody's
		return min(max(v.ageOf(date), e.Floor), v.x.first)
	}
	return min(max(v.ageOf(date), e.Floor), v.ageOf(e.Ceiling), v.age)
}

// placed is the age of what came so long after an era began.
func (v View) placed(e *Era, since int64) int64 {
	switch {
	case e.Boot == v.x.boot:
		return e.Floor + since
	case e.Known:
		return v.ageOf(e.From + since + e.Correction)
	case e.Ceiling == unknown: // ages have only run since
		return min(e.Floor+since, v.x.first)
	}
	return v.ageOf(e.Ceiling)
}

func (v View) vague(e *Era, at int64) int64 {
	last := min(e.Ceiling, v.x.first)
	if e.Ceiling != unknown {
		last = v.ageOf(e.Ceiling)
	}
	if e.Kind == Merged || at < e.Floor || at > last {
		return last
	}
	return at
}

// ageOf is the age of a time that is right: this life's are behind by the time the board was off, which is nobody's fault
// that was kept in it.
func (v View) ageOf(t int64) int64 {
	if t <= v.x.first {
		return t
	}
	return max(v.x.first, t-v.x.lag)
}

// grown are the ranges of an era that began with from, now that partitions are as in ends. What is offline has no end that
// is known.
func grown(from, ends []Range) (list []Range) {
	at := make(map[Place]int64, len(from))
	for _, r := range from {
		at[r.Place] = r.First
	}
	for _, r := range ends {
		if first := max(at[r.Place], r.First); r.End > first {
			list = append(list, Range{r.Place, first, r.End})
		}
	}
	return list
}

// begun is where partitions are, as the beginning of an era: what is offline is in none until the next.
func begun(ends []Range) []Range {
	list := make([]Range, len(ends))
	for i, r := range ends {
		list[i] = Range{Place: r.Place, First: r.End}
	}
	return list
}

// The limits of a table: what a board has that is switched off every night, and never knows the time, in most of a year.
const (
	erasMax   = 256
	rangesMax = 4096
)

// trim forgets eras whose records are all gone, and merges the oldest while there are more than the limits. starts says
// where partitions begin.
func (t *Table) trim(starts map[Place]int64) {
	total := 0
	t.Eras = slices.DeleteFunc(slices.Clone(t.Eras), func(e Era) bool {
		return !e.Open && !slices.ContainsFunc(e.Ranges, func(r Range) bool {
			start, there := starts[r.Place]
			return there && r.End > start
		})
	})
	for i, e := range t.Eras {
		if !e.Open {
			t.Eras[i].Ranges = slices.DeleteFunc(slices.Clone(e.Ranges), func(r Range) bool {
				start, there := starts[r.Place]
				return !there || r.End <= start
			})
			total += len(t.Eras[i].Ranges)
		}
	}
	for (len(t.Eras) > erasMax || total > rangesMax) && len(t.Eras) > 1 && !t.Eras[0].Open && !t.Eras[1].Open {
		a, b := t.Eras[0], t.Eras[1]
		m := merge(a, b)
		total += len(m.Ranges) - len(a.Ranges) - len(b.Ranges)
		t.Eras = append([]Era{m}, t.Eras[2:]...)
	}
}

// merge is what is known of both: they came after the first one's floor and before the second one's ceiling.
func merge(a, b Era) Era {
	floor := a.Floor
	if a.Known {
		floor = min(floor, a.From+a.Correction)
	}
	m := Era{Kind: Merged, Boot: b.Boot, Wall: a.Wall, From: floor, Floor: max(floor, 0), Length: -1, Ceiling: b.Ceiling}
	m.From = m.Floor
	if b.Known && b.Length >= 0 {
		m.Ceiling = b.From + b.Length + b.Correction
	}
	at := map[Place]Range{}
	for _, r := range slices.Concat(a.Ranges, b.Ranges) {
		if old, ok := at[r.Place]; ok {
			r.First, r.End = min(r.First, old.First), max(r.End, old.End)
		}
		at[r.Place] = r
	}
	for _, r := range at {
		m.Ranges = append(m.Ranges, r)
	}
	slices.SortFunc(m.Ranges, func(x, y Range) int {
		return cmp.Or(slices.Compare(x.Topic[:], y.Topic[:]), cmp.Compare(x.Partition, y.Partition))
	})
	return m
}

// memory is what a change that the disk refused is taken back to.
type memory struct {
	table   Table
	current Era
	listed  bool
	known   bool
	lag     int64
}

func (c *Clock) remember() memory { return memory{c.table, c.current, c.listed, c.known.Load(), c.lag} }

func (c *Clock) restore(m memory) {
	c.table, c.current, c.listed, c.lag = m.table, m.current, m.listed, m.lag
	c.known.Store(m.known)
}
