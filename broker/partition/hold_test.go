package partition_test

import (
	"errors"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/segment"
)

// link is what links still need, by topic.
type link struct {
	mu    sync.Mutex
	needs map[string]need
}

type need struct {
	from  int64
	class int
}

func (l *link) Needed(topic string, _ [16]byte, _ int32) (from int64, priority int, needed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, needed := l.needs[topic]
	return n.from, n.class, needed
}

func (l *link) set(topic string, from int64, class int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.needs[topic] = need{from, class}
}

func TestRetentionHoldsWhatALinkNeeds(t *testing.T) {
	const day = 24 * time.Hour
	for name, hold := range map[string]func(*partitiontest.World, int64){
		"retention.ms":    func(w *partitiontest.World, _ int64) { w.Topic.RetentionMS = day.Milliseconds() },
		"retention.bytes": func(w *partitiontest.World, size int64) { w.Topic.RetentionMS, w.Topic.RetentionBytes = -1, 2*size },
	} {
		t.Run(name, func(t *testing.T) {
			w := partitiontest.New(t)
			size := int64(len(partitiontest.Batch("0")))
			w.Topic.SegmentBytes = size // a segment for each record
			hold(w, size)
			w.Start()
			l := &link{needs: make(map[string]need)}
			w.Store.SetNeeds(l)
			p, other := w.Create("a"), w.Create("b")
			partitiontest.Fill(t, p, 10)
			partitiontest.Fill(t, other, 10)
			if name == "retention.ms" {
				w.Clock = w.Clock.Add(10 * day)
				partitiontest.Fill(t, p, 2)
				partitiontest.Fill(t, other, 2)
			}
			goes := int64(10) // offsets that retention lets go
			for _, step := range []struct {
				set   func()
				start int64
			}{
				{func() { l.set("a", 0, 0) }, 0},
				{func() { l.set("a", 4, 7) }, 4},
				{func() { l.set("a", 3, 7) }, 4}, // what is gone is gone
				{func() { l.set("a", 9, 0) }, 9},
				{func() { l.set("a", math.MaxInt64, 0) }, goes},
			} {
				step.set()
				r, err := p.Retain(w.Clock.UnixMilli())
				if name == "retention.bytes" {
					step.start = min(step.start, 8)
				}
				if err != nil || p.Start() != step.start || r.Needed != r.To {
					t.Fatalf("needed from %+v: start %d, want %d; %+v, %v", l.needs["a"], p.Start(), step.start, r, err)
				}
			}
			if r, err := other.Retain(w.Clock.UnixMilli()); err != nil || r.Segments < 8 {
				t.Errorf("what nobody needs: %+v, %v", r, err)
			}
			if p.StartCause() != segment.Retention {
				t.Errorf("it went for %s", p.StartCause())
			}
		})
	}
}

// A segment that is expired and that a link needs is not rolled: there would be a new file for nothing.
func TestAnExpiredSegmentThatIsNeededStaysOpen(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentMS = math.MaxInt64
	w.Start()
	l := &link{needs: make(map[string]need)}
	w.Store.SetNeeds(l)
	p := w.Create("a")
	partitiontest.Fill(t, p, 5)
	w.Clock = w.Clock.Add(1000 * time.Hour)
	for _, step := range []struct{ from, start int64 }{{2, 0}, {4, 0}, {5, 5}} {
		l.set("a", step.from, 0)
		if _, err := p.Retain(w.Clock.UnixMilli()); err != nil || p.Start() != step.start || segments(t, w, p) != 1 {
			t.Errorf("needed from %d on: start %d, %d segments, %v", step.from, p.Start(), segments(t, w, p), err)
		}
	}
}

// A client that deletes is obeyed, and the log knows that it was one.
func TestAClientMayDeleteWhatALinkNeeds(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 100
	w.Start()
	l := &link{needs: map[string]need{"a": {0, 0}}}
	w.Store.SetNeeds(l)
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	answer := make(chan error, 1)
	p.DeleteRecords(6, func(_ int64, err error) { answer <- err })
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if r, err := p.Retain(w.Clock.UnixMilli()); err != nil || r.Segments == 0 || p.Start() != 6 {
		t.Fatalf("%+v, %v, start %d", r, err, p.Start())
	}
	want := []partition.Gone{{First: 2, Last: 5, Cause: segment.ByClient}}
	for range 2 {
		if got := p.Gone(2); !slices.Equal(got, want) || p.StartCause() != segment.ByClient {
			t.Errorf("gone: %v, last for %s; want %v", got, p.StartCause(), want)
		}
		w.Restart()
		p = w.Partition("a")
	}
	if got := p.Gone(6); got != nil {
		t.Errorf("gone from the start on: %v", got)
	}
}

// Damage that takes the oldest records, or all of them, is told as what it is.
func TestDamageIsACause(t *testing.T) {
	for name, hurt := range map[string]func(*testing.T, *partitiontest.World){
		"a segment": func(t *testing.T, w *partitiontest.World) {
			if err := os.Remove(logFile(w, "a", 4)); err != nil {
				t.Fatal(err)
			}
		},
		"the directory": func(t *testing.T, w *partitiontest.World) {
			if err := os.RemoveAll(filepath.Dir(logFile(w, "a", 0))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := partitiontest.New(t)
			w.Topic.SegmentBytes = int64(len(partitiontest.Batch("0")))
			w.Start()
			p := w.Create("a")
			partitiontest.Fill(t, p, 10)
			for range 4 {
				if r, err := p.DropOldest(0); err != nil || r.Segments != 1 {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			w.Stop()
			hurt(t, w)
			w.Start()
			p = w.Partition("a")
			want := []partition.Gone{{First: 1, Last: 3, Cause: segment.DiskFull}, {First: 4, Last: p.Start() - 1, Cause: segment.Damage}}
			if name == "the directory" {
				want[0].Cause = segment.Unknown // what knew it went with it
			}
			for range 2 {
				if got := p.Gone(1); p.Start() <= 4 || !slices.Equal(got, want) {
					t.Errorf("start %d, gone %v, want %v", p.Start(), got, want)
				}
				w.Stop()
				w.Start()
				p = w.Partition("a")
			}
		})
	}
}

func TestCausesThatCannotBeReadAreNotKnown(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = int64(len(partitiontest.Batch("0")))
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	if _, err := p.DropOldest(0); err != nil {
		t.Fatal(err)
	}
	w.Stop()
	flip(t, filepath.Join(filepath.Dir(logFile(w, "a", 0)), segment.CausesName), 3)
	w.Start()
	if p = w.Partition("a"); p.Start() != 1 || p.StartCause() != segment.Unknown || len(w.Report.Lost) != 0 {
		t.Errorf("start %d, cause %s, lost %v", p.Start(), p.StartCause(), w.Report.Lost)
	}
}

// What waits for a commit keeps nobody from giving up what lies in the same segment and is committed: of a class that goes
// first, all goes first.
func TestAppendsUnderWayDoNotSaveASegment(t *testing.T) {
	w := partitiontest.New(t).Start()
	l := &link{needs: map[string]need{"a": {0, 3}}}
	w.Store.SetNeeds(l)
	p := w.Create("a")
	partitiontest.Fill(t, p, 3)
	w.Journal.Hold()
	done := make(chan error, 1)
	p.Append(partitiontest.Batch("3"), partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { done <- r.Err })
	dropped := make(chan partition.Retained, 1)
	go func() {
		r, err := p.DropOldest(3)
		if err != nil {
			t.Error(err)
		}
		dropped <- r
	}()
	for rolled := false; !rolled; runtime.Gosched() { // then nothing can be offered until the commit
		_, ok := p.Offer()
		rolled = !ok
	}
	if len(dropped) > 0 {
		t.Fatalf("dropped before the commit: %+v", <-dropped)
	}
	w.Journal.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r := <-dropped; r.Segments != 1 || r.To != 4 || r.Needed != 0 || p.Start() != r.To {
		t.Errorf("%+v, start %d", r, p.Start())
	}
	w.Check()
	partitiontest.Fill(t, p, 2)
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, []string{"4=4", "5=5"}) {
		t.Errorf("after a restart: %v", got)
	}
}

// box is a disk of so many bytes: what the files of a directory have is what is used.
type box struct {
	disk.OS
	dir   string
	total int64
}

func (b *box) Usage(string) (disk.Usage, error) {
	used := int64(0)
	err := filepath.WalkDir(b.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			used += info.Size()
		}
		return err
	})
	return disk.Usage{Total: b.total, Free: b.total - used}, err
}

// A disk of 256 MiB, and the link is away for five weeks: for as long as there is room nothing is lost that it needs,
// though retention is a week. Then what was delivered goes, then all that the lower class has, and only then the oldest of
// class 0; a topic that says reject keeps what it has. Clients' records are taken all the time, and after restarts, clean and
// not, each partition can tell what went and why.
func TestFiveWeeksWithoutTheLink(t *testing.T) {
	const mib = 1 << 20
	w := partitiontest.New(t)
	b := &box{dir: w.Dir, total: 256 * mib}
	w.FS = b
	w.Topic.SegmentBytes, w.Topic.DropOldest, w.Topic.RetentionMS = 4*mib, true, (7 * 24 * time.Hour).Milliseconds()
	l := &link{needs: make(map[string]need)}
	logs := make(map[string]*partition.Partition)
	var space *disk.Space
	var c *cleaner.Cleaner
	start := func() {
		var err error
		if space, err = disk.NewSpace(disk.SpaceConfig{FS: b, Path: w.Dir, Reserve: 32 * mib, Floor: 8 * mib}); err != nil {
			t.Fatal(err)
		}
		w.Config.Space = space
		if w.Start(); w.Report.Gaps > 0 {
			t.Fatal(w.Report.Lost)
		}
		w.Store.SetNeeds(l)
		for _, name := range []string{"alarms", "climate", "power", "local", "kept"} {
			logs[name] = w.Create(name)
		}
		cfg := w.Topic
		cfg.DropOldest = false
		logs["kept"].SetConfig(cfg)
		c = cleaner.New(cleaner.Config{
			Partitions: func() iter.Seq[cleaner.Partition] {
				return func(yield func(cleaner.Partition) bool) {
					for p := range w.Store.All() {
						if !yield(p) {
							return
						}
					}
				}
			},
			Space: space, Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return 0 }, Headroom: 8 * mib,
		})
	}
	// What a link lost of a topic, by the causes that are told.
	lost := func(name string) (n int64) {
		for _, g := range logs[name].Gone(l.needs[name].from) {
			if g.Cause != segment.DiskFull {
				t.Errorf("%s: %+v", name, g)
			}
			n += g.Last - g.First + 1
		}
		return n
	}
	var sacrificed int64
	pass := func() {
		t.Helper()
		alarms, others := lost("alarms"), lost("climate")+lost("power")
		records, bytes := c.Sacrificed()
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		alarms, others = lost("alarms")-alarms, lost("climate")+lost("power")-others
		for _, name := range []string{"local", "climate", "power"} { // in the order in which they go
			if p := logs[name]; (alarms > 0 || name == "local" && others > 0) && p.Start() != p.High() {
				t.Fatalf("%d alarms and %d others were given up, and %s has %d to %d", alarms, others, name, p.Start(), p.High())
			}
		}
		now, more := c.Sacrificed()
		if now-records != alarms+others || (more > bytes) != (now > records) {
			t.Fatalf("%d records and %d bytes are counted, %d were given up", now-records, more-bytes, alarms+others)
		}
		sacrificed += now - records
	}
	var refused, records int
	fill := func(name string, kib int) {
		t.Helper()
		p := logs[name]
		if p.Config().DropOldest {
			records++
		}
		_, err := partitiontest.Append(p, string(make([]byte, kib<<10)))
		if errors.Is(err, partition.ErrDiskFull) && p.Config().DropOldest { // the client tries again
			refused++
			pass()
			_, err = partitiontest.Append(p, string(make([]byte, kib<<10)))
		}
		if err != nil && (p.Config().DropOldest || !errors.Is(err, partition.ErrDiskFull)) {
			t.Fatalf("append to %s: %v", p, err)
		}
	}
	start()
	hour := 0
	for stage := "room"; hour < 5*7*24; hour++ {
		w.Pass(time.Hour)
		fill("alarms", 320)
		fill("climate", 120)
		fill("power", 80)
		fill("local", 60)
		if hour%24 == 0 {
			fill("kept", 300)
		}
		if hour < 48 { // the link is there at first
			for name, class := range map[string]int{"alarms": 0, "climate": 1, "power": 1, "kept": 2} {
				l.set(name, logs[name].High(), class)
			}
		}
		if hour%24 == 12 {
			pass()
		}
		switch hour {
		case 500:
			w.Restart()
			start()
		case 750:
			w.Stop()
			start()
		}
		alarms, climate, power := lost("alarms"), lost("climate"), lost("power")
		if delivered := logs["local"].Size(); alarms+climate+power > 0 && stage == "room" {
			stage = "class 1"
			t.Logf("hour %d: the first record is lost that the link needs; of what nobody needs %d bytes are left", hour, delivered)
		}
		if stage == "class 1" && alarms > 0 {
			stage = "class 0"
			t.Logf("hour %d: the first alarm is lost", hour)
		}
		if lost("kept") > 0 {
			t.Fatalf("hour %d: a topic that says reject has lost something", hour)
		}
		if space.Refresh(0); space.Free() < 8*mib {
			t.Fatalf("%d bytes are free", space.Free())
		}
	}
	alarms, climate, power := lost("alarms"), lost("climate"), lost("power")
	t.Logf("%d records were taken, %d at the second try; lost %d alarms, %d of climate, %d of power", records, refused, alarms, climate, power)
	if alarms == 0 || climate == 0 || power == 0 || sacrificed != alarms+climate+power {
		t.Errorf("%d records were given up; without some of each class nothing is proved", sacrificed)
	}
	for name, p := range logs {
		if got, err := partitiontest.Values(p); err != nil || int64(len(got)) != p.High()-p.Start() {
			t.Errorf("%s: %d records from %d to %d, %v", name, len(got), p.Start(), p.High(), err)
		}
	}
}
