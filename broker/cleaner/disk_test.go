package cleaner_test

import (
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition/partitiontest"
)

type tight struct{ room int64 }

func (s *tight) Refresh(int64)     {}
func (s *tight) Low(int64) bool    { return false }
func (s *tight) Room(n int64) bool { return n <= s.room }

// A full disk, told of or met, ends a compaction without a trace, and it goes on when there is room.
func TestAFullDiskEndsACompactionCleanly(t *testing.T) {
	topic := compacted()
	w := partitiontest.New(t)
	fs := disktest.New(disk.OS{})
	w.FS, w.Topic = fs, topic
	w.Start()
	p := w.Create("a")
	for i := range 50 {
		put(t, w, p, fmt.Sprint("k=", i))
	}
	roll(t, w, p)
	before := list(t, p)
	space := &tight{}
	c := cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) { yield(p) }
		},
		Space: space, Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return 0 },
	})
	pass(t, c)
	expect(t, p, before...)
	space.room = 1 << 30
	fs.FailWrite(func(name string) bool { return strings.Contains(name, ".log.cleaned") }, syscall.ENOSPC, 1)
	pass(t, c)
	expect(t, p, before...)
	left, err := filepath.Glob(filepath.Join(w.Dir, "topics", "a-0", "*.cleaned"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	pass(t, c)
	expect(t, p, "49 k=49")
}

// Whichever step of a swap the disk refuses, readers go on, and the next pass ends it.
func TestADiskThatRefusesASwap(t *testing.T) {
	for _, refused := range []string{"rename .log.cleaned", "rename .log.swap", "remove", "rename .index.cleaned"} {
		for _, merged := range []bool{false, true} {
			t.Run(fmt.Sprint(refused, " merged ", merged), func(t *testing.T) {
				w := partitiontest.New(t)
				fail := false
				w.FS = &disktest.Failing{FS: disk.OS{}, Fault: func(op, name string) error {
					words := strings.Fields(refused)
					if fail && op == words[0] && (len(words) == 1 || strings.HasSuffix(name, words[1])) {
						return syscall.EIO
					}
					return nil
				}}
				w.Topic = compacted()
				w.Start()
				p := w.Create("a")
				put(t, w, p, "a=1", "b=1")
				if merged {
					roll(t, w, p)
				}
				put(t, w, p, "a=2")
				roll(t, w, p)
				c := sweeper(w, 0, 0)
				fail = true
				err := c.Pass(t.Context())
				if used := merged || refused != "rename .log.swap"; used != (err != nil) {
					t.Errorf("the pass says %v", err)
				}
				got := list(t, p)
				if last := got[len(got)-1]; !strings.HasSuffix(last, " a=2") || !slices.Contains(got, "1 b=1") {
					t.Errorf("meanwhile the log has %v", got)
				}
				fail = false
				put(t, w, p, "c=1")
				roll(t, w, p)
				pass(t, c)
				pass(t, c)
				check := func() {
					t.Helper()
					got := list(t, p)
					if slices.Contains(got, "0 a=1") || !slices.Contains(got, "1 b=1") || len(got) != 3 {
						t.Errorf("the log has %v", got)
					}
				}
				check()
				w.Kill()
				w.Start()
				p = w.Partition("a")
				check()
			})
		}
	}
}
