package diskfull

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/broker"
	"millrace/broker/disk"
)

func TestFullTenTimes(t *testing.T) {
	if testing.Short() {
		*rounds = min(*rounds, 2)
	}
	dir := filepath.Join(volume(t, 96), "data")
	b := start(t, dir)
	c := dial(t, b)
	defer func() { c.close() }()
	l := newLedger("data")
	if err := c.create("data", "reject"); err != nil {
		t.Fatal(err)
	}
	for round := range *rounds {
		taken := c.fill(l)
		t.Logf("round %d: %d KiB taken", round, taken>>10)
		if taken < 20*mib {
			t.Fatalf("round %d: only %d bytes were taken before the disk was full; what was freed is not used again", round, taken)
		}
		full := false
		for range 1000 { // what a checkpoint lets go of the journal, and a fresh look at the disk, may make room for some
			if code := publish(t, b, 20_000); code == 0x97 {
				full = true
				break
			} else if code > 0x10 {
				t.Fatalf("PUBACK %#x, want 0x97", code)
			}
		}
		if !full {
			t.Fatal("MQTT publishes are taken without an end")
		}
		if round == *rounds/2 {
			c.close()
			b.close()
			b.open()
			c = dial(t, b)
			c.fill(l)
		}
		c.readable(b, l)
		if err := c.create(topicName(round), "reject"); err != nil {
			t.Fatalf("create a topic on a full disk: %v", err)
		}
		if round%3 == 2 {
			c.delete("data")
			if err := c.create("data", "reject"); err != nil {
				t.Fatal(err)
			}
			*l = *newLedger("data")
			c.close()
			c = dial(t, b) // the old one knows the topic by its old id, and may try nothing twice
		} else {
			c.deleteRecords(l, l.start+(l.next-l.start)*3/4)
		}
		c.delete(topicName(round))
		c.until("append after space was freed", func() error { return c.produce(l, 900<<10) })
		c.readable(b, l)
	}
	c.close()
	b.close()
	whole(t, dir)
}

// whole has fsck look at a stopped board.
func whole(t *testing.T, dir string) {
	t.Helper()
	if r, err := broker.Fsck(disk.OS{}, dir, nil); err != nil || r.Damaged() {
		t.Errorf("fsck: %+v, %v", r, err)
	}
}

func TestDropOldestNextToReject(t *testing.T) {
	dir := filepath.Join(volume(t, 96), "data")
	b := start(t, dir)
	c := dial(t, b)
	defer func() { c.close() }()
	kept, recent := newLedger("kept"), newLedger("recent")
	if err := errors.Join(c.create("kept", "reject"), c.create("recent", "drop-oldest")); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := c.produce(kept, 900<<10); err != nil {
			t.Fatal(err)
		}
	}
	for range 120 { // more than the disk holds
		c.until("append where the oldest are dropped", func() error { return c.produce(recent, 900<<10) })
	}
	parts, _ := b.Topic("recent")
	if recent.start = parts[0].Start(); recent.start == 0 || recent.start > recent.next-5 {
		t.Errorf("recent begins at offset %d of %d", recent.start, recent.next)
	}
	for o := range recent.sums {
		if o < recent.start {
			delete(recent.sums, o)
		}
	}
	c.readable(b, kept)
	c.readable(b, recent)
	if parts, _ := b.Topic("kept"); parts[0].Start() != 0 {
		t.Errorf("records were dropped where the topic says reject: the start is %d", parts[0].Start())
	}
	c.close()
	b.close()
	whole(t, dir)
}

// Another program fills the disk down to the last byte under the broker's hands, past reserve and floor.
func TestNoSpaceAtAll(t *testing.T) {
	at := volume(t, 96)
	dir := filepath.Join(at, "data")
	b := start(t, dir)
	c := dial(t, b)
	defer func() { c.close() }()
	l := newLedger("data")
	if err := c.create("data", "reject"); err != nil {
		t.Fatal(err)
	}
	for round := 0; round < 3 || b.nospace.Load() == 0 && round < 10; round++ {
		for range 1 + round {
			c.until("append", func() error { return c.produce(l, 100<<10) })
		}
		ballast := filepath.Join(at, "ballast")
		exhaust(t, ballast)
		// At once, while the broker still goes by its last look at the disk.
		seen := false
		for range 50 {
			if err := c.produce(l, 100<<10); err != nil {
				refused(t, err)
				seen = true
			}
		}
		if !seen {
			t.Error("nothing was refused on a disk without a free byte")
		}
		c.readable(b, l)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		c.until("append after the other program has gone", func() error { return c.produce(l, 100<<10) })
		if err := c.create("after", "reject"); err != nil {
			t.Errorf("create a topic: %v", err)
		}
		c.delete("after")
		c.readable(b, l)
	}
	if n := b.nospace.Load(); n == 0 {
		t.Error("no write of the broker's met a disk without space: nothing was proved")
	} else {
		t.Logf("%d writes met a disk without space", n)
	}
	c.close()
	b.close()
	whole(t, dir)
	b.open()
	c = dial(t, b)
	c.readable(b, l)
}

// exhaust makes a file of all the space there is.
func exhaust(t *testing.T, name string) {
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	for at := int64(0); ; {
		u, err := disk.OS{}.Usage(filepath.Dir(name))
		if err != nil {
			t.Fatal(err)
		}
		if u.Free == 0 {
			return
		}
		if err := unix.Fallocate(int(f.Fd()), 0, at, u.Free); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		at += u.Free
	}
}
