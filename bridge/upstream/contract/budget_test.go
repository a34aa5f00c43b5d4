package contract

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

const mib = 1 << 20

// board is a clock and a disk that outlive the lives of the program.
type board struct {
	t     rapid.TB
	fs    *disktest.FS
	path  string
	limit int64
	zone  *time.Location
	now   Moment
	b     *Budget
}

func newBoard(t rapid.TB, dir string) *board {
	w := &board{t: t, fs: disktest.New(disk.OS{}), path: filepath.Join(dir, "hq.day"), limit: 10 * mib, zone: time.UTC}
	w.fs.Skip(pointBudget) // no power is cut here, and a kill loses nothing that was written
	w.now = Moment{Time: time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC), Known: true}
	return w
}

func (w *board) start() (damage error) {
	w.t.Helper()
	b, damage, err := OpenBudget(BudgetConfig{FS: w.fs, Path: w.path, Limit: w.limit, Zone: w.zone, Now: func() Moment { return w.now }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.b = b
	return damage
}

// kill ends a life without a word; the next begins with a running time of its own.
func (w *board) kill() {
	w.t.Helper()
	if err := w.b.file.close(); err != nil {
		w.t.Fatal(err)
	}
	w.now.Run = 0
}

func (w *board) stop() {
	w.t.Helper()
	if err := w.b.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.now.Run = 0
}

// pass lets time go by while the program runs.
func (w *board) pass(d time.Duration) {
	w.now.Time = w.now.Time.Add(d)
	w.now.Run += d
}

// send sends so many bytes, a piece at a time, and says how many went.
func (w *board) send(bytes int64) (sent int64) {
	w.t.Helper()
	for sent < bytes {
		n := min(bytes-sent, int64(w.b.piece()))
		if err := w.b.take(int(n)); err != nil {
			if !errors.Is(err, ErrDaySpent) {
				w.t.Fatal(err)
			}
			return sent
		}
		sent += n
	}
	return sent
}

func (w *board) left(want int64) {
	w.t.Helper()
	if got := w.b.Day().Left; got != want {
		w.t.Errorf("%d bytes are left, want %d", got, want)
	}
}

func (w *board) writes() int { return w.fs.Synced()[pointBudget] }

func TestADayIsSpentOnce(t *testing.T) {
	for _, limit := range []int64{PerDayMin, 10 * mib, 100 * mib, 5 << 30} {
		w := newBoard(t, t.TempDir())
		w.limit = limit
		w.start()
		before := w.writes()
		if got := w.send(math.MaxInt64); got > limit+limit/100 || got < limit+limit/100-int64(w.b.piece()) {
			t.Errorf("%d of %d bytes went", got, limit)
		}
		w.left(0)
		if n := w.writes() - before; n > 130 {
			t.Errorf("%d writes for %d bytes", n, limit)
		}
		w.pass(11*time.Hour + 59*time.Minute)
		if got := w.send(limit); got >= int64(w.b.piece()) {
			t.Errorf("%d bytes of a day that is spent", got)
		}
		if got := w.b.Day().Renews; !got.Equal(w.now.Time.Add(time.Minute)) {
			t.Errorf("renews at %v", got)
		}
		w.pass(time.Minute)
		w.left(limit)
		if got := w.send(1000); got != 1000 {
			t.Errorf("%d bytes of the next day", got)
		}
		w.left(limit - 1000)
		w.stop()
		w.start()
		w.left(limit - 1000) // a clean stop takes nothing away
	}
}

// Kills at random moments of several days, in lives that know the time and such that do not: of no date more than the limit and a
// hundredth goes, what is counted is never less than what went, and at most a hundredth more for each kill.
func TestKillsGiveNothingBack(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newBoard(t, dir)
		w.path = filepath.Join(dir, fmt.Sprint(n))
		w.limit = rapid.Int64Range(PerDayMin, 20*mib).Draw(t, "limit")
		w.start()
		sent, kills := make(map[int64]int64), make(map[int64]int64)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			day := dateOf(w.zone, w.now.Time)
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				w.pass(time.Duration(rapid.Int64Range(0, int64(9*time.Hour)).Draw(t, "time")))
			case 1:
				w.kill()
				kills[day]++
				if rapid.Bool().Draw(t, "off") {
					w.now.Time = w.now.Time.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(t, "for")))
				}
				w.start()
			default:
				sent[day] += w.send(rapid.Int64Range(1, w.limit/3).Draw(t, "bytes"))
				used := w.limit - w.b.Day().Left
				if more := used - sent[day]; used < w.limit && (more < 0 || more > kills[day]*(w.limit/100)) {
					t.Fatalf("%d sent, %d counted, after %d kills", sent[day], used, kills[day])
				}
				if sent[day] > w.limit+w.limit/100 {
					t.Fatalf("%d of %d bytes went", sent[day], w.limit)
				}
			}
		}
		w.kill()
	})
}

// The clock comes and goes, jumps and steps back: over all of it, no more days are given than have certainly begun. The true time is the
// board's own of a day; a true day may see the rest of one day of the counter and one whole more, since days that
// nobody dates begin at any hour.
func TestNoDayIsGivenAway(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newBoard(t, dir)
		w.path, w.limit = filepath.Join(dir, fmt.Sprint(n)), PerDayMin
		w.now.Known = rapid.Bool().Draw(t, "known")
		w.start()
		truth := time.Duration(0) // since the start, at noon
		var sent int64
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0: // the clock is set, within a life
				w.now.Time = w.now.Time.Add(time.Duration(rapid.Int64Range(int64(-2000*time.Hour), int64(2000*time.Hour)).Draw(t, "jump")))
			case 1:
				w.now.Known = true // and stays so, as on a board
			case 2:
				w.b.Day()
			default:
				d := time.Duration(rapid.Int64Range(0, int64(6*time.Hour)).Draw(t, "time"))
				truth += d
				w.pass(d)
			}
			sent += w.send(math.MaxInt64)
			// One day to begin with, one more by the first date that is known, one for each midnight and for 25 hours.
			days := int64(2 + (truth+12*time.Hour)/(24*time.Hour) + 1)
			if sent > days*(w.limit+w.limit/100) {
				t.Fatalf("%d days' bytes within %v", sent/w.limit, truth)
			}
		}
		w.kill()
	})
}

func TestWhenADayBegins(t *testing.T) {
	const day = 24 * time.Hour
	all := func(w *board) (sent int64) { // the day is spent
		w.t.Helper()
		if sent = w.send(math.MaxInt64); sent < int64(w.b.piece()) {
			w.t.Error("nothing is left to send")
		}
		return sent
	}
	none := func(w *board) {
		w.t.Helper()
		if n := w.send(w.limit); n >= int64(w.b.piece()) { // less than a piece is what all left over
			w.t.Errorf("%d bytes were given away", n)
		}
	}
	for name, tell := range map[string]func(w *board){
		"the clock jumps ahead": func(w *board) {
			all(w)
			w.now.Time = w.now.Time.Add(9 * day)
			none(w)
			w.kill()
			w.start()
			none(w)
			w.pass(day)
			all(w)
		},
		"a jump that is seen before use": func(w *board) {
			all(w)
			w.now.Time = w.now.Time.Add(9 * day)
			w.b.Day()
			w.b.Day()
			none(w)
			w.pass(day)
			all(w)
		},
		"it steps back, and forth again": func(w *board) {
			all(w)
			w.now.Time = w.now.Time.Add(-9 * day)
			none(w)
			w.now.Time = w.now.Time.Add(9 * day)
			none(w)
			w.pass(day)
			all(w)
		},
		"back by a day, over a restart": func(w *board) {
			all(w)
			w.kill()
			w.now.Time = w.now.Time.Add(-2 * day)
			w.start()
			none(w)
			w.pass(day)
			none(w)
			w.pass(time.Hour)
			all(w)
		},
		"a date far ahead was believed": func(w *board) {
			w.kill()
			w.now.Time = w.now.Time.AddDate(9, 0, 0)
			w.start()
			all(w)
			w.kill()
			w.now.Time = w.now.Time.AddDate(-9, 0, 0)
			w.start()
			none(w)
			w.pass(25 * time.Hour)
			all(w)
			none(w)
			w.pass(day)
			all(w)
		},
		"nobody ever knows": func(w *board) {
			w.now.Known = false
			all(w)
			w.pass(day)
			none(w)
			w.pass(time.Hour)
			all(w)
			none(w)
		},
		"it becomes known, the same day": func(w *board) {
			w.send(100)
			w.kill()
			w.now.Known = false
			w.start()
			all(w)
			w.now.Known = true
			none(w)
			w.pass(day)
			all(w)
		},
		"it becomes known, a later day": func(w *board) {
			w.send(w.limit / 2)
			w.kill()
			w.now.Known = false
			w.pass(day)
			w.start()
			n := all(w)
			w.now.Known = true
			w.left(w.limit - n)
		},
		"known late, over a kill": func(w *board) {
			w.kill()
			w.now.Known = false
			w.pass(day)
			w.start()
			all(w)
			w.kill()
			w.now.Known = true
			w.start()
			none(w)
		},
		"a spent day goes on over a kill": func(w *board) { all(w); w.kill(); w.start(); none(w) },
		"off for days":                    func(w *board) { all(w); w.kill(); w.now.Time = w.now.Time.Add(3 * day); w.start(); all(w) },
		"running time adds up over lives": func(w *board) {
			w.now.Known = false
			all(w)
			for range 9 {
				for range 31 {
					w.pass(5 * time.Minute)
					w.b.Day()
				}
				w.kill()
				w.start()
				none(w)
			}
			for range 9 { // an hour's worth at most is lost with each life
				w.pass(time.Hour)
				w.b.Day()
			}
			all(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newBoard(t, t.TempDir())
			w.limit = PerDayMin
			w.start()
			tell(w)
			w.kill()
		})
	}
}

// What was sent before the time was known, and then turned out to be of the day that the file had, is no burden for the next one.
func TestWhatIsDatedLaterBurdensNoOtherDay(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.start()
	w.send(100)
	w.kill()
	w.now.Known = false
	w.start()
	w.send(5 * mib)
	w.now.Known = true
	w.send(1)
	w.kill()
	w.now.Time = w.now.Time.Add(24 * time.Hour)
	w.start()
	w.left(w.limit)
	w.kill()
}

// Days are the zone's, also those of 23 and 25 hours.
func TestDaysAreTheZones(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.zone = zone(t, "Europe/Berlin")
	w.now.Time = time.Date(2027, 10, 30, 23, 0, 0, 0, w.zone)
	w.start()
	w.send(mib)
	w.pass(time.Hour)
	w.left(w.limit)
	w.send(mib)
	w.pass(25*time.Hour - time.Second)
	w.left(w.limit - mib)
	w.pass(time.Second)
	w.left(w.limit)
	w.kill()
}

// A read keeps what it may bring until it has; one that is under way at midnight counts where it began.
func TestReadsAreHeld(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.start()
	if err := w.b.hold(5000); err != nil {
		t.Fatal(err)
	}
	w.left(w.limit - 5000)
	w.b.settle(5000, 10)
	w.left(w.limit - 10)
	if err := w.b.hold(5000); err != nil {
		t.Fatal(err)
	}
	w.pass(12 * time.Hour)
	w.b.settle(5000, 5000)
	w.kill()
	w.start()
	w.left(w.limit)
	w.send(math.MaxInt64)
	if err := w.b.hold(w.b.piece()); !errors.Is(err, ErrDaySpent) {
		t.Errorf("a read of a spent day: %v", err)
	}
	w.kill()
}

// Reads that are all under way at once are durable before they begin, so a kill right after them forgets none.
func TestManyReadsAtOnce(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.start()
	n := int(3 * w.limit / 100 / int64(w.b.piece()))
	for range n {
		if err := w.b.hold(w.b.piece()); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		w.b.settle(w.b.piece(), w.b.piece())
	}
	used := w.b.used
	w.kill()
	w.start()
	if used != int64(n*w.b.piece()) || w.b.used < used {
		t.Errorf("%d used, %d counted", used, w.b.used)
	}
	w.kill()
}

func TestAConnectionStopsWhenTheDayIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBoard(t, t.TempDir())
		w.limit = PerDayMin
		w.start()
		m, raw := meter(t, 0, w.b), &wire{}
		c := m.Conn(raw)
		n, err := c.Write(make([]byte, 2*PerDayMin))
		if !errors.Is(err, ErrDaySpent) || int64(n) != m.Sent() || n > PerDayMin+PerDayMin/100 || n < PerDayMin {
			t.Errorf("wrote %d, counted %d: %v", n, m.Sent(), err)
		}
		if _, err := c.Read(make([]byte, 100_000)); !errors.Is(err, ErrDaySpent) {
			t.Errorf("read: %v", err)
		}
		w.pass(12 * time.Hour)
		n, err = c.Read(make([]byte, 100_000))
		if err != nil || n != w.b.piece() {
			t.Errorf("read %d: %v", n, err)
		}
		w.left(w.limit - int64(n))
		w.stop()
	})
}

func TestBudgetsThatMakeNoSense(t *testing.T) {
	w := newBoard(t, t.TempDir())
	for _, limit := range []int64{-1, 0, PerDayMin - 1, math.MaxInt64} {
		if _, _, err := OpenBudget(BudgetConfig{FS: w.fs, Path: w.path, Limit: limit, Now: func() Moment { return w.now }}); err == nil {
			t.Errorf("%d bytes a day are taken", limit)
		}
	}
	w.path = filepath.Join(w.path, "nowhere")
	if _, _, err := OpenBudget(BudgetConfig{FS: w.fs, Path: w.path, Limit: PerDayMin, Now: func() Moment { return w.now }}); err == nil {
		t.Error("a directory that there is not")
	}
	var none *Budget
	if err := errors.Join(none.take(1<<30), none.hold(1<<30), none.Close()); err != nil {
		t.Error(err)
	}
	none.settle(1, 1)
	if none.Day().Left != math.MaxInt64 {
		t.Error("no budget is a budget")
	}
}
