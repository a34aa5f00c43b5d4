package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/disk"
)

// Source is who vouches for a time.
type Source int32

// The sources, the better ones later.
const (
	None Source = iota // nobody: the board had no power, and has asked nobody yet
	RTC                // a real-time clock with a battery
	NTP                // the kernel says that its wall clock is disciplined
)

var sourceNames = [...]string{None: "none", RTC: "rtc", NTP: "ntp"}

// String is the source as logs and metrics name it.
func (s Source) String() string { return sourceNames[s] }

// Reading is what a source says. With NTP the time is the wall clock's, and Time is not looked at.
type Reading struct {
	Source Source
	Time   time.Time
}

const (
	// step is by how much a clock has to jump, or two to differ, that more than a correction of its rate is the matter, ms.
	step = 10_000
	// stepEvery is how often steps of a clock that nobody vouches for are followed, ms: each is a write.
	stepEvery = 60_000
	// writing is how long a table may take to get to the disk, ms: until it is there stamps are given as before.
	writing = 60_000
)

// Config says where a Clock lives and what it goes by. Zero values mean what the comments say.
type Config struct {
	FS   disk.FS          // nil: disk.OS
	Dir  string           // the data directory
	Wall func() time.Time // reads the system's clock; nil: time.Now
	// SetWall sets it; nil: nobody does. Open calls it, once, with the time of a real-time clock that it believes.
	SetWall func(time.Time) error
	// Elapsed is a clock that nobody sets. It is read for every stamp. nil: the monotonic part of time.Now
	Elapsed func() time.Duration
	// Running is another, which goes on while the board sleeps; nil: Elapsed.
	Running func() time.Duration
	// Build is when the program was built: it is not earlier than that. Zero: 2020.
	Build time.Time
	// SaveEvery is how often, at most, Save writes what the time has come to. 0: 10 minutes
	SaveEvery time.Duration
	Logger    *slog.Logger // nil: discard
}

// anchor ties stamps and ages to one reading of Elapsed.
type anchor struct {
	at         time.Duration
	stamp, age int64
}

// Clock is the time of one life of the board. It is safe for concurrent use; Now and AgeMS cost a reading of the clock.
type Clock struct {
	cfg    Config
	anchor atomic.Pointer[anchor]
	index  atomic.Pointer[index]
	source atomic.Int32
	known  atomic.Bool
	steps  atomic.Int64
	floor  atomic.Int64 // as saved

	mu      sync.Mutex
	files   files
	fresh   bool // there was no table
	news    bool // what is in table is not on the disk
	table   Table
	ends    func() []Range
	current Era  // that it is now
	listed  bool // current is the last of table.Eras
	first   int64
	lag     int64
	wall    int64         // what the system's clock said when it was last looked at
	at, ran time.Duration // what Elapsed and Running did
	saved   time.Duration // of Running, when the table was last written
	stepped time.Duration // of Running, when a step was last followed
	refused bool          // the disk did not take the table, and that was told
}

// Open reads the table and decides by what first says which time it is. Now, AgeMS and View may be used from then on, and
// Begin is called when the partitions are open. Damage is told and survived: what a lost table knew is not known then.
func Open(cfg Config, first Reading) *Clock {
	if cfg.FS == nil {
		cfg.FS = disk.OS{}
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	if cfg.Elapsed == nil {
		start := time.Now()
		cfg.Elapsed = func() time.Duration { return time.Since(start) }
	}
	if cfg.Running == nil {
		cfg.Running = cfg.Elapsed
	}
	if cfg.SaveEvery == 0 {
		cfg.SaveEvery = 10 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Clock{cfg: cfg, files: files{fs: cfg.FS, dir: cfg.Dir}}
	t, bad := c.files.open()
	for _, err := range bad {
		c.cfg.Logger.Error("a boot table cannot be read; the other one counts, if there is one", "err", err)
	}
	if t == nil {
		t, c.fresh = &Table{}, true
	}
	c.table = *t
	c.table.Boot++
	c.floor.Store(max(c.table.Floor, c.build()))

	c.wall, c.at, c.ran = c.cfg.Wall().UnixMilli(), c.cfg.Elapsed(), c.cfg.Running()
	c.saved, c.stepped = c.ran, c.ran-stepEvery*time.Millisecond
	a := &anchor{at: c.at}
	if truth, ok := c.believe(first, c.wall); ok {
		a.stamp, a.age = truth, truth
		c.known.Store(true)
		c.source.Store(int32(first.Source))
		c.news = c.ceilings(truth)
		c.setWall(first)
	} else {
		a.age = c.floor.Load()
		a.stamp = max(c.wall, a.age)
	}
	c.first = a.age
	c.anchor.Store(a)
	c.publish()
	c.cfg.Logger.Info("clock", "source", c.Source().String(), "time", time.UnixMilli(a.stamp).UTC(), "reached", time.UnixMilli(a.age).UTC())
	return c
}

// setWall has the system's clock go right too: files are dated by it, and other programs go by it. What was not believed
// never gets there.
func (c *Clock) setWall(r Reading) {
	if r.Source == RTC && c.cfg.SetWall != nil {
		if err := c.cfg.SetWall(r.Time); err != nil {
			c.cfg.Logger.Error("the system's clock keeps its time", "err", err)
		}
		c.wall = c.cfg.Wall().UnixMilli()
	}
}

func (c *Clock) build() int64 {
	if c.cfg.Build.IsZero() {
		return earliest
	}
	return max(earliest, c.cfg.Build.UnixMilli())
}

// believe is the time a source tells, unless it cannot be: before the program was built, or, of a real-time clock, before
// what the time is known to have reached. NTP is believed against what was saved: one wrong answer must not last for ever.
func (c *Clock) believe(r Reading, wall int64) (truth int64, ok bool) {
	switch r.Source {
	case NTP:
		return wall, wall >= c.build()
	case RTC:
		truth = r.Time.UnixMilli()
		return truth, truth >= max(c.floor.Load(), c.build())-step
	}
	return 0, false
}

// ceilings says that eras of earlier lives were over by then, and whether that is news.
func (c *Clock) ceilings(then int64) (news bool) {
	c.table.Eras = slices.Clone(c.table.Eras)
	for i := range c.table.Eras {
		if e := &c.table.Eras[i]; e.Boot != c.table.Boot && !e.Known && e.Ceiling == unknown {
			e.Ceiling, news = max(then, e.Floor), true
		}
	}
	return news
}

// publish lets everybody see the table. Holds mu, or is alone.
func (c *Clock) publish() {
	c.index.Store(newIndex(&c.table, c.table.Boot, c.first, c.lag, c.known.Load()))
}

// Now is the time that stamps carry: right where somebody has vouched for it in this life, and never before what the time
// is known to have reached. It does not follow a wall clock that is set unless somebody vouches for that, or nobody for
// anything. It has no monotonic part.
func (c *Clock) Now() time.Time {
	a := c.anchor.Load()
	return time.UnixMilli(a.stamp + (c.cfg.Elapsed() - a.at).Milliseconds())
}

// AgeMS is a time that only runs: it begins with what the time is known to have reached when this life began, and is behind
// the right one where that became known later. What is kept for a while is kept by it.
func (c *Clock) AgeMS() int64 {
	a := c.anchor.Load()
	return a.age + (c.cfg.Elapsed() - a.at).Milliseconds()
}

// View is the table as it is now.
func (c *Clock) View() View {
	v := View{x: c.index.Load(), age: c.AgeMS()}
	v.now = v.age + v.x.lag
	return v
}

// FileAge implements partition.Clock.
func (c *Clock) FileAge(topic [16]byte, partition int32, offset, dateMS int64) int64 {
	return c.View().FileArrived(Place{topic, partition}, offset, dateMS)
}

// Date implements partition.Clock.
func (c *Clock) Date(ageMS int64) time.Time {
	if x := c.index.Load(); ageMS > x.first {
		ageMS += x.lag
	}
	return time.UnixMilli(ageMS)
}

// Arrived is View.Arrived now.
func (c *Clock) Arrived(topic [16]byte, partition int32, offset, stampMS int64) int64 {
	return c.View().Arrived(Place{topic, partition}, offset, stampMS)
}

// Source is who vouches for the time now, Known whether anybody has in this life.
func (c *Clock) Source() Source { return Source(c.source.Load()) }

// Known says whether the time has become known in this life.
func (c *Clock) Known() bool { return c.known.Load() }

// Figures are what metrics show.
type Figures struct {
	Source     Source
	Known      bool
	Correction time.Duration // of the ages of this life
	Eras       int           // in the table
	Floor      time.Time     // as saved
	Steps      int64         // of the clock that were seen
}

// Figures are those of this moment.
func (c *Clock) Figures() Figures {
	x := c.index.Load()
	return Figures{
		Source: c.Source(), Known: c.Known(), Correction: time.Duration(x.lag) * time.Millisecond, Eras: len(x.eras),
		Floor: time.UnixMilli(c.floor.Load()), Steps: c.steps.Load(),
	}
}

// Begin is called once, when the partitions are open and before anything is appended. ends tells of every partition the
// first offset there is and the one after the last, math.MaxInt64 where a partition is offline; it is called again
// whenever an era ends. An error is of the disk: the clock goes on, and tries again.
func (c *Clock) Begin(ends func() []Range) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends = ends
	changed := c.fresh || c.news
	now := ends()
	if i := c.open(); i >= 0 {
		c.close(i, now)
		changed = true
	}
	if before := grown(nil, now); c.fresh && len(before) > 0 {
		e := Era{Kind: Before, Floor: earliest, From: earliest, Length: -1, Ceiling: unknown, Ranges: before}
		if c.known.Load() {
			e.Ceiling = c.first
		}
		c.table.Eras = append(c.table.Eras, e)
	}
	a := c.anchor.Load()
	c.enter(*a, c.wall, now)
	if !changed && !c.listed {
		c.publish()
		return nil
	}
	return c.write(now)
}

// open is the era that is open, -1: none.
func (c *Clock) open() int { return slices.IndexFunc(c.table.Eras, func(e Era) bool { return e.Open }) }

// close gives an era its ends.
func (c *Clock) close(i int, ends []Range) {
	c.table.Eras = slices.Clone(c.table.Eras)
	e := &c.table.Eras[i]
	e.Ranges, e.Open = grown(e.Ranges, ends), false
}

// enter begins an era, which goes into the table unless stamps and the system's clock are right in it.
func (c *Clock) enter(a anchor, wall int64, ends []Range) {
	known := c.known.Load()
	c.current = Era{Boot: c.table.Boot, Wall: wall, From: a.stamp, Floor: a.age, Length: -1, Known: known, Ceiling: unknown, Ranges: begun(ends)}
	c.listed = !known || abs(wall-a.stamp) >= step
	if c.listed {
		if i := c.open(); i >= 0 {
			c.close(i, ends)
		}
		c.current.Open = true
		c.table.Eras = append(slices.Clone(c.table.Eras), c.current)
	}
}

// leave says how long the current era was, of which the next begins with a stamp. It stays open in the table for a while:
// what it has stamped is still on its way, and until the table is on the disk it stamps on.
func (c *Clock) leave(stamp, next int64) {
	if i := c.open(); c.listed && i >= 0 {
		c.table.Eras = slices.Clone(c.table.Eras)
		c.table.Eras[i].Length = max(0, stamp-c.current.From) + min(writing, abs(next-stamp)/2)
	}
	c.listed = false
}

// write makes the table durable and lets it be seen. Where the disk refuses, it is not seen either.
func (c *Clock) write(ends []Range) error {
	starts := make(map[Place]int64, len(ends))
	for _, r := range ends {
		starts[r.Place] = r.First
	}
	c.table.trim(starts)
	reached := c.AgeMS() + c.lag
	c.table.Floor = reached
	if err := c.files.write(&c.table); err != nil {
		if !c.refused {
			c.cfg.Logger.Error("the boot table cannot be written; it is tried again", "err", err)
		}
		c.refused = true
		return fmt.Errorf("boot table: %w", err)
	}
	c.refused = false
	c.saved = c.cfg.Running()
	c.floor.Store(max(reached, c.build()))
	c.publish()
	return nil
}

// Save writes down what the time has come to, if that was not done lately: it is called when something is written anyway,
// so that an idle board writes nothing.
func (c *Clock) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil || c.cfg.Running()-c.saved < c.cfg.SaveEvery {
		return nil
	}
	return c.save()
}

func (c *Clock) save() error {
	ends := c.ends()
	if i := c.open(); i >= 0 && !c.listed { // left a while ago: what it had stamped has arrived
		c.close(i, ends)
	}
	return c.write(ends)
}

// Close writes down how long the last era was.
func (c *Clock) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		return nil
	}
	now := c.Now().UnixMilli()
	c.leave(now, now)
	return c.save()
}

// Observe is called every few seconds with what the sources say. An error is of the disk: what it kept from being written
// down has not happened, and is tried again with the next call.
func (c *Clock) Observe(r Reading) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends == nil {
		return errors.New("the clock has not begun")
	}
	wall, at, ran := c.cfg.Wall().UnixMilli(), c.cfg.Elapsed(), c.cfg.Running()
	passed := max(ran-c.ran, at-c.at).Milliseconds()
	jump := wall - c.wall - passed
	a := *c.anchor.Load()
	a.stamp, a.age, a.at = a.stamp+(at-a.at).Milliseconds(), a.age+(at-a.at).Milliseconds(), at
	if slept := (ran - c.ran - at + c.at).Milliseconds(); slept >= 1000 {
		a.stamp, a.age = a.stamp+slept, a.age+slept
		c.anchor.Store(&a)
	}
	c.at, c.ran = at, ran
	truth, believed := c.believe(r, wall)
	c.vouched(r.Source, believed)
	var err error
	set := abs(jump) >= step
	switch off := abs(truth - a.stamp); {
	case believed && (!c.known.Load() || r.Source == NTP && off >= step):
		err = c.learn(truth, wall, a)
	case set && ran-c.stepped < stepEvery*time.Millisecond:
		c.wall += passed // seen again with the next call
		return nil
	default:
		if believed && r.Source == NTP { // what it corrects in passing
			a.stamp = truth
			c.anchor.Store(&a)
		}
		if set {
			err = c.follow(wall, a)
		}
	}
	if err != nil {
		c.wall += passed
		return err
	}
	if c.wall = wall; set {
		c.stepped = ran
		c.steps.Add(1)
		c.cfg.Logger.Warn("the system's clock was set", "by", time.Duration(jump)*time.Millisecond, "to", time.UnixMilli(wall).UTC(), "vouched for", believed)
	}
	return nil
}

// vouched notes who vouches for the time now.
func (c *Clock) vouched(by Source, believed bool) {
	if !believed {
		by = None
	}
	if was := Source(c.source.Swap(int32(by))); was != by {
		c.cfg.Logger.Info("who vouches for the time has changed", "from", was.String(), "to", by.String())
	}
}

// learn is told the right time: the correction of what this life has stamped is known from then on. It is durable before
// anything is stamped with the right time.
func (c *Clock) learn(truth, wall int64, a anchor) error {
	m, ends := c.remember(), c.ends()
	c.lag = truth - a.age
	if c.known.Load() && !c.listed { // it was believed, and was wrong
		e := c.current
		e.Length, e.Ranges = max(0, a.stamp-e.From), grown(e.Ranges, ends)
		if i := c.open(); i >= 0 {
			c.close(i, ends)
		}
		c.table.Eras = append(slices.Clone(c.table.Eras), e)
	}
	c.leave(a.stamp, truth)
	c.ceilings(c.first + c.lag) // a copy of the eras, too
	for i := range c.table.Eras {
		if e := &c.table.Eras[i]; e.Boot == c.table.Boot && e.Kind == Life {
			e.Known, e.Correction = true, e.Floor+c.lag-e.From
		}
	}
	c.known.Store(true)
	to := anchor{at: a.at, stamp: truth, age: a.age}
	c.enter(to, wall, ends)
	if err := c.write(ends); err != nil {
		c.restore(m)
		return err
	}
	c.anchor.Store(&to)
	c.cfg.Logger.Warn("the time is known now; what was stamped before is put right when it leaves the board",
		"correction", time.Duration(truth-a.stamp)*time.Millisecond, "time", time.UnixMilli(truth).UTC())
	return nil
}

// follow begins an era with a system's clock that was set: files are dated by it, and stamps go by it where nobody knows
// better.
func (c *Clock) follow(wall int64, a anchor) error {
	m, ends := c.remember(), c.ends()
	was := a.stamp
	if !c.known.Load() {
		a.stamp = max(wall, a.age)
	}
	c.leave(was, a.stamp)
	c.enter(a, wall, ends)
	if err := c.write(ends); err != nil {
		c.restore(m)
		return err
	}
	c.anchor.Store(&a)
	return nil
}

func abs(n int64) int64 { return max(n, -n) }
