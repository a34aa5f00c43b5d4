package pulse_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/purgatory"
	"millrace/platform/pulse"
)

var _ pulse.Source = (*purgatory.Purgatory[string])(nil)

// deadlines is a source of them.
type deadlines struct {
	mu  sync.Mutex
	at  []int64
	ran []int64 // when each was done
}

func (d *deadlines) add(at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, at)
}

func (d *deadlines) Next() (int64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, ok := int64(0), false
	for _, at := range d.at {
		if !ok || at < first {
			first, ok = at, true
		}
	}
	return first, ok
}

func (d *deadlines) Advance(now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []int64
	for _, at := range d.at {
		if at > now {
			left = append(left, at)
		} else {
			d.ran = append(d.ran, now)
		}
	}
	d.at = left
}

func (d *deadlines) times() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ran
}

func TestSleepsUntilTheEarliestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		var a, b deadlines
		a.add(30_000)
		b.add(5000)
		p.Register(&a)
		p.Register(&b)
		synctest.Wait()
		before := p.Wakes()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.times(); len(got) != 1 || got[0] != 30_000 {
			t.Errorf("a ran at %v", got)
		}
		if got := b.times(); len(got) != 1 || got[0] != 5000 {
			t.Errorf("b ran at %v", got)
		}
		if n := p.Wakes() - before; n != 2 {
			t.Errorf("woke %d times for two deadlines", n)
		}
	})
}

func TestWakesForAnEarlierDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		var d deadlines
		d.add(60_000)
		p.Register(&d)
		synctest.Wait()
		time.Sleep(time.Second)

		before := p.Wakes()
		d.add(70_000)
		p.Wake(70_000) // not earlier: nobody is woken
		synctest.Wait()
		if n := p.Wakes() - before; n != 0 {
			t.Errorf("woke %d times for a later deadline", n)
		}
		d.add(1500)
		p.Wake(1500)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if got := d.times(); len(got) != 1 || got[0] != 1500 {
			t.Errorf("ran at %v, want 1500", got)
		}
	})
}

func TestIdleReallyIdles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		p.Register(&deadlines{})
		timer := p.NewTimer(func() {})
		defer timer.Close()
		synctest.Wait()
		before := p.Wakes()
		time.Sleep(365 * 24 * time.Hour)
		synctest.Wait()
		if n := p.Wakes() - before; n != 0 {
			t.Errorf("woke %d times in an idle year", n)
		}
	})
}

func TestFarDeadlineIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		var d deadlines
		const year = 365 * 24 * 3600 * 1000
		d.add(year)
		d.add(1<<63 - 1)
		p.Register(&d)
		time.Sleep(year*time.Millisecond - time.Nanosecond)
		synctest.Wait()
		if got := d.times(); len(got) != 0 {
			t.Fatalf("ran at %v", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := d.times(); len(got) != 1 || got[0] != year {
			t.Errorf("ran at %v", got)
		}
	})
}

func TestTimerResetStopAndRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		var rang atomic.Int64
		timer := p.NewTimer(func() { rang.Store(p.Now()) })
		timer.Reset(10 * time.Second)
		timer.Reset(20*time.Second + time.Microsecond) // rounded up: never early
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if rang.Load() != 0 {
			t.Errorf("rang at %d though it was set again", rang.Load())
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if rang.Load() != 20_001 {
			t.Errorf("rang at %d, want 20001", rang.Load())
		}
		if timer.Stop() {
			t.Error("stopped after it rang")
		}
		timer.Reset(time.Second)
		if !timer.Stop() {
			t.Error("not stopped while it was set")
		}
		timer.Close()

		var times []int64
		var every *pulse.Timer
		every = p.NewTimer(func() {
			times = append(times, p.Now())
			every.Reset(time.Second)
		})
		start := p.Now()
		every.Reset(0)
		time.Sleep(3500 * time.Millisecond)
		p.Close() // and so times is ours
		if rang.Load() != 20_001 {
			t.Error("a stopped timer rang")
		}
		if len(times) != 4 || times[3] != start+3000 {
			t.Errorf("rang at %v from %d on, want every second", times, start)
		}
	})
}

func TestUnregisteredAndClosedDoNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		var gone, kept deadlines
		gone.add(1000)
		kept.add(2000)
		p.Register(&gone)
		p.Register(&kept)
		p.Unregister(&gone)
		time.Sleep(1500 * time.Millisecond)
		p.Close()
		p.Close()
		p.Wake(0) // nobody listens, nobody hangs
		time.Sleep(time.Hour)
		if len(gone.times()) != 0 || len(kept.times()) != 0 {
			t.Errorf("ran at %v and %v", gone.times(), kept.times())
		}
	})
}

// The wheel behind a purgatory, the purgatory behind the pulse: a fetch of 500 ms waits that long.
func TestPurgatoryExpiresByThePulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New(time.Now)
		defer p.Close()
		waits := purgatory.New[string](purgatory.Config{Ops: 10, Keys: 10, Cost: 10, NowMS: p.Now, Wake: p.Wake})
		p.Register(waits)
		time.Sleep(time.Second)
		done := make(chan int64, 1)
		if _, err := waits.Watch(fetch(func() { done <- p.Now() }), []string{"a"}, 500); err != nil {
			t.Fatal(err)
		}
		if at := <-done; at != 1500 {
			t.Errorf("expired at %d, want 1500", at)
		}
	})
}

type fetch func()

func (f fetch) Ready() bool   { return false }
func (f fetch) Complete(bool) { f() }
func (f fetch) Cost() int64   { return 1 }
