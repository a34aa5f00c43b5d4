package boot

import (
	"os"
	"testing"
	"time"

	"millrace/broker/disk"
)

// slow is a disk on which something happens while a file is synced, once.
type slow struct {
	disk.OS
	meanwhile func()
}

type slowFile struct {
	disk.File
	fs *slow
}

func (s *slow) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := s.OS.OpenFile(name, flag, perm)
	return slowFile{f, s}, err
}

func (f slowFile) Sync(p disk.Point) error {
	if then := f.fs.meanwhile; then != nil {
		f.fs.meanwhile = nil
		then()
	}
	return f.File.Sync(p)
}

// What is stamped while the table is on its way to the disk has a stamp of before, and is put right like the rest.
func TestWhatIsStampedWhileTheTableIsWrittenIsPutRight(t *testing.T) {
	for _, way := range []struct {
		name string
		off  time.Duration // how far the system's clock is from the truth
	}{{"by years", -20 * 365 * day}, {"by an hour", -time.Hour}} {
		t.Run(way.name, func(t *testing.T) {
			w := alone(t)
			fs := &slow{}
			w.fs = fs
			w.boot(w.truth.Add(way.off), Reading{})
			w.pass(time.Minute, None)
			before := w.add(1)
			var meanwhile []kept
			fs.meanwhile = func() {
				for range 3 {
					w.truth, w.up = w.truth.Add(5*time.Second), w.up+5*time.Second
					meanwhile = append(meanwhile, w.add(1), w.add(2))
				}
			}
			w.ntp()
			if len(meanwhile) == 0 {
				t.Fatal("the table was not written")
			}
			after := w.add(1)
			for range 2 {
				w.exact(before)
				for _, k := range meanwhile {
					w.exact(k)
				}
				w.pass(time.Hour, NTP)
				w.cut()
				w.boot(time.Unix(5, 0), Reading{})
			}
			if at, unsure := w.export(after); unsure || time.UnixMilli(after.truth).Sub(at).Abs() > time.Second {
				t.Errorf("what came after it leaves as %v, unsure %v", at, unsure)
			}
		})
	}
}
