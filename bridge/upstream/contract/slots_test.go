package contract

import (
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

// A jump that is seen while the disk fails is not forgotten until the file says so.
func TestAJumpWhileTheDiskFails(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.start()
	w.send(math.MaxInt64)
	w.now.Time = w.now.Time.Add(72 * time.Hour)
	w.fs.FailWrite(func(string) bool { return true }, errors.New("broken"), 2)
	for range 3 {
		w.left(0)
		w.pass(retryAfter)
	}
	w.left(0)
	w.kill()
	w.start()
	w.left(0)
	w.kill()
}

// Rot in the slot that was written last takes the step that it covered out of the count, and it is put in again.
func TestARottenSlotGivesNothingBack(t *testing.T) {
	w := newBoard(t, t.TempDir())
	for range 4 {
		w.start()
		before := w.b.used
		w.send(w.limit / 25)
		used, at := w.b.used, int64((w.b.file.next-1)&1)*slotApart
		w.kill()
		f, err := os.OpenFile(w.path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rot"), at+20); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if damage := w.start(); damage != nil || w.b.used < used || w.b.used > used+2*w.limit/100 || used == before {
			t.Errorf("%d used, %d counted, damage %v", used, w.b.used, damage)
		}
		w.kill()
	}
}

func TestADamagedFileIsASpentDay(t *testing.T) {
	for _, known := range []bool{true, false} {
		w := newBoard(t, t.TempDir())
		w.start()
		w.send(3 * mib)
		w.stop()
		raw, err := os.ReadFile(w.path)
		if err != nil {
			t.Fatal(err)
		}
		spoil := func(at ...int) {
			p := append([]byte{}, raw...)
			for _, i := range at {
				p[i] ^= 4
			}
			if err := os.WriteFile(w.path, p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// One slot alone is what a power cut tears: a hundredth is taken for it.
		spoil(20)
		if damage := w.start(); damage != nil {
			t.Error(damage)
		}
		if left := w.b.Day().Left; left > w.limit-3*mib || left < w.limit-3*mib-2*w.limit/100 {
			t.Errorf("%d are left", left)
		}
		w.kill()
		w.now.Known = known
		spoil(20, slotApart+20)
		if damage := w.start(); damage == nil {
			t.Error("the damage is not reported")
		}
		w.left(0)
		if w.send(1) != 0 {
			t.Error("a byte was sent")
		}
		w.kill()
		if damage := w.start(); damage != nil {
			t.Errorf("the damage is reported again: %v", damage)
		}
		w.left(0)
		w.pass(25 * time.Hour)
		w.left(w.limit)
		w.kill()
		for name, p := range map[string][]byte{"empty": nil, "short": raw[:11], "zeros": make([]byte, len(raw))} {
			if err := os.WriteFile(w.path, p, 0o600); err != nil {
				t.Fatal(err)
			}
			if damage := w.start(); damage == nil {
				t.Errorf("%s: the damage is not reported", name)
			}
			w.left(0)
			w.kill()
		}
	}
}

// While the file cannot be written nothing is sent beyond what it covers, and when it can, all goes on by itself.
func TestADiskThatFails(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.fs = disktest.New(disk.OS{})
	w.start()
	w.send(1)
	broken := errors.New("broken")
	for _, fail := range []func(){
		func() { w.fs.FailSync(pointBudget, broken, 3) },
		func() { w.fs.FailWrite(func(string) bool { return true }, broken, 3) },
	} {
		fail()
		var err error
		covered := w.b.state.reserved - w.b.used
		sent := int64(0)
		for err == nil {
			if err = w.b.take(1000); err == nil {
				sent += 1000
			}
		}
		if !errors.Is(err, broken) || sent > covered || sent < covered-1000 {
			t.Fatalf("%d sent of %d that were covered: %v", sent, covered, err)
		}
		if d := w.b.Day(); !errors.Is(d.Err, broken) {
			t.Errorf("it does not say why: %v", d.Err)
		}
		for range 20 { // not asked at every write
			if err := w.b.take(w.b.piece()); !errors.Is(err, broken) {
				t.Fatal(err)
			}
		}
		for range 3 {
			w.pass(retryAfter)
			w.b.Day()
		}
		if d := w.b.Day(); d.Err != nil {
			t.Errorf("still %v", d.Err)
		}
		if n := w.send(mib); n != mib {
			t.Errorf("%d went", n)
		}
	}
	used := w.b.used
	w.kill()
	w.start()
	if w.b.used < used || w.b.used > used+w.limit/100 {
		t.Errorf("%d used, %d counted", used, w.b.used)
	}
	w.kill()
}

func FuzzDecodeSlot(f *testing.F) {
	f.Add(encodeSlot(state{day: 20000, reserved: 100, undated: 10, ran: time.Hour}, 7))
	f.Add([]byte("MRDB"))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, sequence, err := decodeSlot(p)
		if err != nil {
			return
		}
		if again := encodeSlot(s, sequence); string(again) != string(p) {
			t.Fatalf("%x is read as %+v, which is %x", p, s, again)
		}
		if s.reserved < 0 || s.undated > s.reserved || s.ran < 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// Who tells of a budget does not wait while the disk takes its time, and hears of a new day when somebody has looked.
func TestLastWaitsForNoDisk(t *testing.T) {
	w := newBoard(t, t.TempDir())
	w.fs = disktest.New(disk.OS{})
	w.start()
	w.send(w.limit / 50)
	w.left(w.b.Last().Left)
	reached, let := make(chan struct{}), make(chan struct{})
	w.fs.FailWrite(func(string) bool {
		close(reached)
		<-let
		return true // with no error
	}, nil, 1)
	taken := make(chan error, 1)
	go func() { taken <- w.b.take(int(w.limit / 50)) }()
	<-reached
	told := make(chan Day, 1)
	go func() { told <- w.b.Last() }()
	select {
	case d := <-told:
		if d.Limit != w.limit || d.Used != w.limit/50 || d.Left != w.limit-w.limit/50 || d.Renews.IsZero() || d.Err != nil {
			t.Errorf("%+v", d)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for the disk")
	}
	close(let)
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	if d := w.b.Last(); d.Used != 2*(w.limit/50) {
		t.Errorf("%+v", d)
	}
	w.pass(24 * time.Hour)
	w.left(w.limit)
	if d := w.b.Last(); d.Used != 0 || d.Left != w.limit || !d.Renews.After(w.now.Time) {
		t.Errorf("on the next day: %+v", d)
	}
	w.stop()
}
