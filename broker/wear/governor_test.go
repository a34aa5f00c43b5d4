package wear

import (
	"math"
	"testing"
	"time"
)

const (
	tick = 10 * time.Second
	mib  = 1 << 20
	gib  = 1 << 30
)

// board is what is written: the payload whatever the interval is, and a cost of each commit.
type board struct {
	g       *Governor
	now     time.Duration
	written float64
	commit  float64 // bytes each commit costs beside its payload

	reversals int // of the interval's direction
	direction int
	jump      float64 // the largest factor of one step, beside those from and to nothing
}

func newBoard(c Config, commit float64) *board {
	return &board{g: NewGovernor(c), commit: commit, jump: 1}
}

// live passes the time with a load: records a second, of bytes each.
func (b *board) live(d time.Duration, records, bytes float64) {
	for end := b.now + d; b.now < end; {
		was := b.g.Interval()
		// With no interval a commit begins as soon as the last one is over; and there are no more commits than records.
		commits := min(1/max(was.Seconds(), 0.005), records)
		b.written += (records*bytes + commits*b.commit) * tick.Seconds()
		b.now += tick
		is := b.g.Step(b.now, int64(b.written))
		if is < b.g.c.Min || is > max(b.g.c.Max, b.g.c.Min) {
			panic("out of bounds: " + is.String())
		}
		if was >= first && is >= first {
			b.jump = max(b.jump, float64(is)/float64(was), float64(was)/float64(is))
		}
		if direction := int(is - was); direction != 0 {
			if (direction > 0) != (b.direction > 0) && b.direction != 0 {
				b.reversals++
			}
			b.direction = direction
		}
	}
}

func TestWithinTheBudgetNothingWaits(t *testing.T) {
	b := newBoard(Config{Budget: 2 * gib, Max: time.Second}, 8<<10)
	for range 3 * 24 * 60 {
		b.live(time.Minute, 2, 200)
		if b.g.Interval() != 0 {
			t.Fatalf("waits %v at %v with %d MiB of 2 GiB a day", b.g.Interval(), b.now, b.g.PerDay()/mib)
		}
	}
}

func TestTheBudgetOfEveryDayIsKept(t *testing.T) {
	for name, records := range map[string]func(hour int) float64{
		"steady":        func(int) float64 { return 60 },
		"day and night": func(h int) float64 { return 40 + 35*math.Sin(float64(h)/24*2*math.Pi) },
		"bursts":        func(h int) float64 { return float64(10 + 200*(h%6/5)) },
	} {
		t.Run(name, func(t *testing.T) {
			const budget = 2 * gib
			b := newBoard(Config{Budget: budget, Max: time.Second}, 8<<10)
			b.g.Step(0, 0)
			for d := range 5 {
				before := b.written
				for h := range 24 {
					b.live(time.Hour, records(h), 200)
				}
				if w := b.written - before; w > budget || w < budget/2 {
					t.Errorf("day %d: %.0f MiB of 2,048", d, w/mib)
				}
			}
			if b.jump > grow+1e-6 {
				t.Errorf("the interval jumped by a factor of %.2f", b.jump)
			}
		})
	}
}

func TestASteadyLoadSettles(t *testing.T) {
	b := newBoard(Config{Budget: 2 * gib, Min: 10 * time.Millisecond, Max: time.Second}, 8<<10)
	b.live(20*time.Hour, 60, 200)
	if b.reversals > 6 {
		t.Errorf("the interval turned %d times in 20 hours of a steady load", b.reversals)
	}
	if b.g.Interval() <= b.g.c.Min || b.g.Interval() >= b.g.c.Max {
		t.Errorf("settled at %v", b.g.Interval())
	}
	b.live(2*time.Hour, 1, 200) // it is quiet
	if b.g.Interval() != b.g.c.Min {
		t.Errorf("waits %v with %d MiB a day", b.g.Interval(), b.g.PerDay()/mib)
	}
}

func TestABudgetThatCannotBeKept(t *testing.T) {
	b := newBoard(Config{Budget: 100 * mib, Max: time.Second}, 8<<10)
	b.live(30*time.Minute, 100, 2000)
	if b.g.Interval() != time.Second || !b.g.Strained() {
		t.Errorf("waits %v, strained %v", b.g.Interval(), b.g.Strained())
	}
	b.live(48*time.Hour, 0, 0) // the next day is a new one
	if b.g.Interval() != 0 || b.g.Strained() || b.g.Spent() != 0 {
		t.Errorf("waits %v, strained %v, spent %d", b.g.Interval(), b.g.Strained(), b.g.Spent())
	}
}

func TestTheBudgetIsChangedWhileItRuns(t *testing.T) {
	b := newBoard(Config{Max: time.Second}, 8<<10)
	b.live(time.Hour, 100, 200)
	if b.g.Interval() != 0 || b.g.PerDay() < 60*gib {
		t.Errorf("without a budget it waits %v, %d MiB a day", b.g.Interval(), b.g.PerDay()/mib)
	}
	b.g.Configure(Config{Budget: 20 * gib, Max: time.Second})
	b.live(time.Hour, 100, 200)
	was := b.g.Interval()
	if was == 0 {
		t.Fatal("with a budget it does not wait")
	}
	b.g.Configure(Config{Budget: 20 * gib, Max: was / 2})
	if b.g.Interval() != was/2 {
		t.Errorf("over the new bound: %v", b.g.Interval())
	}
	b.g.Configure(Config{Budget: 20 * gib, Min: was, Max: 2 * was})
	if b.g.Interval() != was {
		t.Errorf("under the new bound: %v", b.g.Interval())
	}
	b.g.Configure(Config{Min: time.Millisecond, Max: time.Second})
	if b.g.Interval() != time.Millisecond {
		t.Errorf("without a budget again: %v", b.g.Interval())
	}
}

func TestOddReadingsDoNoHarm(t *testing.T) {
	g := NewGovernor(Config{Budget: gib, Max: time.Second})
	g.Step(5*time.Second, 1000)
	g.Step(5*time.Second, 1<<60) // no time has passed
	if g.PerDay() != 0 || g.Spent() != 0 {
		t.Errorf("counted %d", g.Spent())
	}
	g.Step(15*time.Second, 500) // a counter that went back
	if g.PerDay() != 0 || g.Interval() != 0 {
		t.Errorf("%d a day, waits %v", g.PerDay(), g.Interval())
	}
	g.Rebase(1 << 50)
	g.Step(25*time.Second, 1<<50+1<<20)
	if g.Spent() != 1<<20 {
		t.Errorf("after another counter took over: %d", g.Spent())
	}
	g.Step(15*24*time.Hour, 1<<50+2<<20) // asleep for two weeks
	if g.Spent() != 1<<20 || g.Interval() > time.Second {
		t.Errorf("spent %d, waits %v", g.Spent(), g.Interval())
	}
	g.Step(math.MaxInt64/2, math.MaxInt64)
	if g.PerDay() < 0 || g.Interval() < 0 {
		t.Errorf("%d a day, waits %v", g.PerDay(), g.Interval())
	}
}
