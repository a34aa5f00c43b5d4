package health

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// dog counts its feeds.
type dog struct {
	timeout time.Duration
	fed     atomic.Int64
	last    atomic.Int64
	bit     atomic.Bool
}

func (d *dog) Name() string           { return "dog" }
func (d *dog) Timeout() time.Duration { return d.timeout }

func (d *dog) Feed() error {
	now := time.Now().UnixNano()
	if was := d.last.Swap(now); was != 0 && time.Duration(now-was) > d.timeout {
		d.bit.Store(true)
	}
	d.fed.Add(1)
	return nil
}

// silent says whether the dog has not been fed for its timeout.
func (d *dog) silent() bool { return time.Duration(time.Now().UnixNano()-d.last.Load()) > d.timeout }

func feeding(t *testing.T, dogs ...Watchdog) (m *Monitor, stopped *atomic.Pointer[error]) {
	m, stopped = New(time.Now, slog.New(slog.DiscardHandler)), new(atomic.Pointer[error])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Feed(ctx, dogs, func(err error) { stopped.Store(&err) })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m, stopped
}

func TestFedWhileEveryPartGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dog{timeout: 15 * time.Second}
		m, stopped := feeding(t, d)
		a, b := m.Part("a", 5*time.Second), m.Part("b", 30*time.Second)
		for range 100 {
			time.Sleep(4 * time.Second)
			a.Beat()
			b.Beat()
		}
		if d.bit.Load() || d.silent() || stopped.Load() != nil {
			t.Errorf("it bit: %v, silent: %v, stopped: %v", d.bit.Load(), d.silent(), stopped.Load())
		}
	})
}

func TestNotFedWhenOnePartStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dog{timeout: 15 * time.Second}
		m, stopped := feeding(t, d)
		a, _ := m.Part("a", 5*time.Second), m.Part("the committer", 20*time.Second)
		began := time.Now()
		synctest.Wait() // fed for the first time
		for !d.silent() {
			time.Sleep(time.Second)
			a.Beat()
			if time.Since(began) > time.Hour {
				t.Fatal("fed all the time")
			}
		}
		if took := time.Since(began); took < 20*time.Second || took > (20+15+4)*time.Second {
			t.Errorf("silent after %v", took)
		}
		err := stopped.Load()
		if err == nil || !errors.Is(*err, ErrStill) || !strings.Contains((*err).Error(), "the committer") || strings.Contains((*err).Error(), "a for") {
			t.Errorf("told %v", err)
		}
	})
}

// Who is told is waited for, but not longer than the watchdogs can do without being fed.
func TestWhoIsToldIsWaitedForAndHearsTheNewestLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dog{timeout: 16 * time.Second}
		m := New(time.Now, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		takes := make(chan time.Duration)
		var told []error // by one goroutine at a time
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Feed(ctx, []Watchdog{d}, func(err error) {
				time.Sleep(<-takes)
				told = append(told, err)
			})
		}()
		p := m.Part("p", 5*time.Second)
		for range 3 { // it stands still, and goes on: each time the disk, which takes its time, has not heard the last
			time.Sleep(10 * time.Second)
			p.Beat()
			time.Sleep(4 * time.Second)
		}
		if d.bit.Load() {
			t.Error("it was not fed while somebody was told")
		}
		takes <- time.Second
		takes <- 2 * time.Second
		synctest.Wait()
		cancel()
		began := time.Now()
		<-done
		if waited := time.Since(began); waited != 2*time.Second {
			t.Errorf("waited %v, want the two seconds that the last one takes", waited)
		}
		if len(told) != 2 || told[0] == nil || told[1] != nil {
			t.Errorf("told %v, want why first and that it goes on last", told)
		}
	})
}

func TestWhoHangsIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dog{timeout: 16 * time.Second}
		m := New(time.Now, slog.New(slog.DiscardHandler))
		m.Part("p", time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		hang := make(chan struct{})
		defer close(hang)
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Feed(ctx, []Watchdog{d}, func(error) { <-hang })
		}()
		time.Sleep(time.Minute)
		cancel()
		began := time.Now()
		<-done
		if waited := time.Since(began); waited != d.timeout/2 {
			t.Errorf("waited %v, half of the timeout is %v", waited, d.timeout/2)
		}
	})
}

func TestAPartThatEndsOrGoesOnAgainIsFed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dog{timeout: 15 * time.Second}
		m, _ := feeding(t, d)
		ends, again := m.Part("ends", time.Second), m.Part("again", time.Second)
		time.Sleep(8 * time.Second)
		if m.Check() == nil {
			t.Fatal("both stand still, and it is healthy")
		}
		ends.End()
		again.Beat()
		if err := m.Check(); err != nil {
			t.Error(err)
		}
		again.End()
		time.Sleep(time.Hour)
		synctest.Wait()
		if d.bit.Load() || d.silent() {
			t.Error("nothing is watched, and it bites")
		}
	})
}

func TestAListenerBeatsWhileItsLoopAccepts(t *testing.T) {
	m := New(time.Now, slog.New(slog.DiscardHandler))
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, end := m.Listen(plain, "listener", 300*time.Millisecond)
	accepted := make(chan net.Conn)
	leave, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
			<-leave // the loop stands still
		}
	}()
	for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if err := m.Check(); err != nil {
			t.Fatalf("nobody comes: %v", err)
		}
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other := <-accepted
	for until := time.Now().Add(time.Minute); m.Check() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("its loop stands still, and it is healthy")
		}
	}
	close(leave)
	for until := time.Now().Add(time.Minute); m.Check() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("its loop goes on, and it is not healthy")
		}
	}
	if err := errors.Join(conn.Close(), other.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	<-left
	for until := time.Now().Add(time.Minute); m.Check() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("its loop has ended, and it is healthy")
		}
	}
	end()
	if err := m.Check(); err != nil {
		t.Errorf("it was meant to end: %v", err)
	}
}
