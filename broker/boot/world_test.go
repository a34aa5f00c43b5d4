package boot

import (
	"os"
	"testing"
	"time"

	"millrace/broker/disk"
)

// fatal is what a world needs of a test, rapid's or testing's.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// kept is a record of a world, and when it really came.
type kept struct {
	place         Place
	offset, stamp int64
	truth         int64
	life          int
}

// world is a board, and the time as it really is.
type world struct {
	t      fatal
	dir    string
	fs     disk.FS
	truth  time.Time
	wall   time.Duration // of the system's clock, ahead of the truth
	up     time.Duration // since the kernel started
	ends   map[Place]Range
	clock  *Clock
	life   int
	lives  map[int]bool // whether the time was known at their end
	log    []kept
	writes int
}

var build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// disks counts syncs.
type disks struct {
	disk.OS
	w *world
}

type counted struct {
	disk.File
	w *world
}

func (d disks) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := d.OS.OpenFile(name, flag, perm)
	return counted{f, d.w}, err
}

func (c counted) Sync(p disk.Point) error {
	c.w.writes++
	return c.File.Sync(p)
}

func newWorld(t fatal, dir string) *world {
	w := &world{t: t, dir: dir, truth: build.Add(20 * 24 * time.Hour), ends: map[Place]Range{}, lives: map[int]bool{}}
	w.fs = disks{w: w}
	return w
}

func place(n byte) Place { return Place{Topic: [16]byte{n}, Partition: int32(n)} }

func (w *world) rtc() Reading { return Reading{RTC, w.truth} }

// boot starts the board with a system's clock that says so.
func (w *world) boot(wall time.Time, first Reading) {
	w.t.Helper()
	w.up, w.wall = 10*time.Second, wall.Sub(w.truth)
	w.life++
	w.clock = Open(Config{
		FS: w.fs, Dir: w.dir, Build: build,
		Wall:    func() time.Time { return w.truth.Add(w.wall) },
		Elapsed: func() time.Duration { return w.up },
	}, first)
	if err := w.clock.Begin(w.list); err != nil {
		w.t.Fatalf("begin: %v", err)
	}
}

func (w *world) list() (list []Range) {
	for _, r := range w.ends {
		list = append(list, r)
	}
	return list
}

// pass lets time go by in small steps, with a look at what the source says after each.
func (w *world) pass(d time.Duration, source Source) {
	w.t.Helper()
	for d > 0 {
		part := min(d, 10*time.Second)
		if d > time.Hour {
			part = d - time.Hour
		}
		w.truth, w.up, d = w.truth.Add(part), w.up+part, d-part
		w.look(source)
	}
}

func (w *world) look(source Source) {
	w.t.Helper()
	if err := w.clock.Observe(Reading{source, w.truth}); err != nil {
		w.t.Fatalf("observe: %v", err)
	}
}

// add appends a record stamped by the board.
func (w *world) add(n byte) kept {
	p := place(n)
	r, ok := w.ends[p]
	if !ok {
		r.Place = p
	}
	k := kept{p, r.End, w.clock.Now().UnixMilli(), w.truth.UnixMilli(), w.life}
	r.End++
	w.ends[p] = r
	w.log = append(w.log, k)
	return k
}

// cut ends the life without a word.
func (w *world) cut() {
	w.lives[w.life] = w.clock.Known()
	w.clock = nil
}

func (w *world) stop() {
	w.t.Helper()
	if err := w.clock.Close(); err != nil {
		w.t.Fatalf("close: %v", err)
	}
	w.cut()
}

// off is time without power.
func (w *world) off(d time.Duration) { w.truth = w.truth.Add(d) }

// ntp sets the system's clock right.
func (w *world) ntp() {
	w.t.Helper()
	w.wall = 0
	w.look(NTP)
}

// export is how a record leaves the board now.
func (w *world) export(k kept) (time.Time, bool) {
	at, unsure := w.clock.View().Export(k.place, k.offset, k.stamp)
	return time.UnixMilli(at).UTC(), unsure
}

func (w *world) exact(k kept) {
	w.t.Helper()
	if at, unsure := w.export(k); at.UnixMilli() != k.truth || unsure {
		w.t.Errorf("a record of %v, stamped %v, leaves as %v, unsure %v", time.UnixMilli(k.truth).UTC(), time.UnixMilli(k.stamp).UTC(), at, unsure)
	}
}

// kept is how long the board thinks that it has a record.
func (w *world) age(k kept) time.Duration {
	v := w.clock.View()
	return time.Duration(v.Age()-v.Arrived(k.place, k.offset, k.stamp)) * time.Millisecond
}

func year(n int) time.Time { return time.Date(n, 6, 1, 0, 0, 0, 0, time.UTC) }

func alone(t *testing.T) *world { return newWorld(t, t.TempDir()) }
