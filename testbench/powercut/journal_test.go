package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
)

// The journal alone, without partitions behind it: thousands of cuts in seconds, and a failure here names the culprit.
func TestJournalAlone(t *testing.T) {
	n, first := max(*cuts/4, 500), *seed
	if first == 0 {
		first = rand.Uint64() >> 1
	}
	t.Logf("%d cuts from seed %d", n, first)
	var sum logTally
	for i := 0; i*worldCuts < n; i++ {
		tally, err := journalWorld(scratch(t), first+uint64(i), "", worldCuts)
		if err != nil {
			t.Fatalf("%v\nagain: go test ./testbench/powercut -run %s -seed %d -cuts 1 -v", err, t.Name(), first+uint64(i))
		}
		sum.acked += tally.acked
		sum.survived += tally.survived
		sum.drops += tally.drops
		sum.reused += tally.reused
		sum.inRecovery += tally.inRecovery
	}
	t.Logf("%+v", sum)
	if n >= 500 && (sum.acked == 0 || sum.survived == 0 || sum.drops == 0 || sum.reused == 0 || sum.inRecovery == 0) {
		t.Errorf("nothing proved: %+v", sum)
	}
}

type logTally struct {
	acked, survived, drops, inRecovery int
	reused                             int64 // files of the journal used again
	front                              frontTally
}

// logWorld is a journal and what it has promised: group by group, in the order they were staged.
type logWorld struct {
	rng    *rand.Rand
	groups []group // by id
	mark   journal.Mark
	tally  logTally
	front  *frontWorld // nil: the journal has none
}

type group struct {
	value  []byte
	acked  bool // or replayed after a start: there for good
	failed bool // refused before the cut: must never be there
	frame  bool // the mark is past it: may be dropped
}

func journalWorld(dir string, seed uint64, skip disk.Point, cuts int) (logTally, error) {
	w := &logWorld{rng: rand.New(rand.NewPCG(seed, 77))}
	return w.live(dir, seed, skip, cuts)
}

// live is a journal's life of so many cuts.
func (w *logWorld) live(dir string, seed uint64, skip disk.Point, cuts int) (logTally, error) {
	at := filepath.Join(dir, "disk-0")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return w.tally, err
	}
	for i := range cuts {
		fs := disktest.New(disk.OS{})
		if skip != "" {
			fs.Skip(skip)
		}
		if err := fs.Record(at); err != nil {
			return w.tally, err
		}
		fs.WAL(filepath.Join(at, "journal"))
		fs.StopAt(int64(1 + w.rng.IntN(80)))
		err := w.session(fs, at)
		fs.Stop()
		if err != nil {
			return w.tally, fmt.Errorf("seed %d, cut %d: %w", seed, i, err)
		}
		old := at
		at = filepath.Join(dir, fmt.Sprintf("disk-%d", i+1))
		if err := fs.Cut(w.rng, at); err != nil {
			return w.tally, err
		}
		if err := os.RemoveAll(old); err != nil {
			return w.tally, err
		}
	}
	return w.tally, os.RemoveAll(dir)
}

func (w *logWorld) session(fs *disktest.FS, root string) error {
	stopped := func() bool {
		select {
		case <-fs.Stopped():
			return true
		default:
			return false
		}
	}
	options := journal.Options{
		Dir: filepath.Join(root, "journal"), FS: fs, SegmentBytes: 6 << 10, InlineMax: 1 << 20, FrameMax: 4 << 10,
	}
	if w.front != nil {
		if err := w.front.begin(w.rng, fs, &options); err != nil {
			return err
		}
	}
	j, err := journal.Open(options, w.mark)
	if err != nil {
		if stopped() {
			w.tally.inRecovery++
			return nil
		}
		return fmt.Errorf("open: %w", err)
	}
	found, err := w.replay(j)
	if err == nil {
		err = j.Start()
	}
	if err != nil {
		if err2 := j.Close(); !stopped() {
			return fmt.Errorf("start: %w", errors.Join(err, err2))
		}
		w.tally.inRecovery++
		return nil
	}
	for id := range w.groups {
		g := &w.groups[id]
		switch {
		case found[id]:
			if !g.acked {
				w.tally.survived++
			}
			g.acked = true
		case !g.acked:
			g.failed = true // it was not there: it must not come later
		}
	}

	answers := make(chan func(), 1024)
	open := 0
	collect := func(all bool) {
		for open > 0 {
			if all {
				(<-answers)()
				open--
				continue
			}
			select {
			case answer := <-answers:
				answer()
				open--
			default:
				return
			}
		}
	}
	faulted := false
	var failure error
	for range 60 {
		if stopped() || failure != nil {
			break
		}
		switch n := w.rng.IntN(20); {
		case n < 14:
			id := len(w.groups)
			g := group{value: value(uint64(id)+1, 20+w.rng.IntN(900))}
			w.groups = append(w.groups, g)
			open++
			j.Stage([]journal.Entry{{Kind: journal.Append, Base: int64(id), Length: int32(len(g.value)), Bytes: g.value}}, func(err error) {
				cut := stopped()
				answers <- func() {
					g := &w.groups[id]
					switch {
					case err == nil:
						g.acked = true
						w.tally.acked++
						// In doubt while the journal could not cut them off; it has, before it acknowledged this one.
						for before := id - 1; before >= 0 && !w.groups[before].acked && !w.groups[before].failed; before-- {
							w.groups[before].failed = true
						}
					case !cut:
						g.failed = !errors.Is(err, journal.ErrUnavailable)
						if !faulted {
							failure = fmt.Errorf("group %d refused for no reason: %w", id, err)
						}
					}
				}
			})
		case n < 17:
			collect(true)
		case n < 18:
			faulted = true
			if w.front != nil && w.rng.IntN(3) == 0 {
				w.front.fail()
				break
			}
			points := []disk.Point{"journal.commit", "journal.roll", "journal.cut", "journal.restart"}
			fs.FailSync(points[w.rng.IntN(len(points))], syscall.EIO, 1+w.rng.IntN(2))
		default: // a checkpoint: everything answered so far is elsewhere
			collect(true)
			w.mark = j.Mark()
			for id := range w.groups {
				w.groups[id].frame = true
			}
			if err := j.Drop(w.mark); err != nil && !faulted && !stopped() {
				failure = err
			}
			w.tally.drops++
		}
		collect(false)
	}
	fs.Stop()
	err = j.Close() // its error is the cut's
	w.tally.reused += j.Stats().Reused
	if w.front != nil {
		w.tally.front.add(j.Stats(), w.front)
	}
	collect(true)
	if err == nil && failure == nil {
		return nil
	}
	return failure
}

// replay compares the frames with what was promised.
func (w *logWorld) replay(j *journal.Journal) (map[int]bool, error) {
	found := make(map[int]bool)
	last := -1
	report, err := j.Replay(func(f journal.Frame) error {
		for _, e := range f.Entries {
			id := int(e.Base)
			if id <= last || id >= len(w.groups) {
				return fmt.Errorf("LOST: group %d follows %d of %d", id, last, len(w.groups))
			}
			g := w.groups[id]
			if !bytes.Equal(e.Bytes, g.value) {
				return fmt.Errorf("LOST: group %d has other bytes", id)
			}
			if g.failed {
				return fmt.Errorf("LOST: group %d was refused and is back in frame %d", id, f.Index)
			}
			found[id], last = true, id
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.tally.front.replayed += report.Fronted
	for id, g := range w.groups {
		if g.acked && !g.frame && !found[id] {
			return nil, fmt.Errorf("LOST: group %d was acknowledged (mark %d, report %+v)", id, w.mark.Index, report)
		}
	}
	if report.Missing > 0 { // damaged bytes alone may be the length in front of a frame that came through
		return nil, fmt.Errorf("LOST: damage where there was none: %+v", report)
	}
	return found, nil
}
