package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"millrace/broker/disk"
)

// life is one random run of a journal, with the truth beside it.
type life struct {
	t     *testing.T
	rng   *rand.Rand
	fs    *cutFS
	laps  bool
	mu    sync.Mutex
	acked []string // after the mark
	open  []string // staged, not answered
	mark  Mark
	next  int

	cuts []cutPoint
}

// cutPoint is a directory as a cut left it and what was true then.
type cutPoint struct {
	dir   string
	acked []string
	open  []string
	mark  Mark
}

func (l *life) snapshot() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fs.torn { // the device has destroyed what it had said was safe: no journal can hold that promise alone
		return
	}
	dir := filepath.Join(l.t.TempDir(), "cut")
	l.fs.cut(dir)
	l.cuts = append(l.cuts, cutPoint{dir, slices.Clone(l.acked), slices.Clone(l.open), l.mark})
}

// lost is how much the lives of some seeds went through.
type lost struct {
	laps   bool // checkpoints are many, and so are the files used again
	cuts   int
	reused int64 // files used again
}

// live runs steps of a journal in dir, cut at random instants, and returns what the cuts left.
func (sum *lost) live(t *testing.T, rng *rand.Rand, dir string, from cutPoint, skip disk.Point, steps int) (cuts []cutPoint, err error) {
	l := &life{t: t, rng: rng, laps: sum.laps, fs: newCutFS(dir, rng), mark: from.mark}
	l.fs.skip = skip
	defer func() { err = errors.Join(err, l.fs.close()) }()
	odds := 2 + steps
	l.fs.before = func() {
		if rng.IntN(odds) == 0 && len(l.cuts) < 6 {
			l.snapshot()
		}
	}
	l.mu.Lock()
	l.acked, l.open = from.acked, from.open
	l.mu.Unlock()
	j, err := Open(Options{Dir: dir, FS: l.fs, SegmentBytes: 3000, InlineMax: 2000, PackMin: 200}, from.mark)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, j.Close())
		sum.reused += j.Stats().Reused
	}()
	var got []string
	r, err := j.Replay(func(f Frame) error {
		for _, e := range f.Entries {
			if e.Kind == Append {
				got = append(got, string(e.Bytes))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if r.Missing != 0 {
		return nil, fmt.Errorf("frames are called missing: %+v", r)
	}
	if err := from.check(got); err != nil {
		return nil, err
	}
	inner := j.c.tail.open
	j.c.tail.open = func(dir string, size int, next uint64) (walLog, error) {
		w, err := inner(dir, size, next)
		return cutLog{w, l.fs}, err
	}
	if err := j.Start(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.acked, l.open = got, nil // served from here on
	l.mu.Unlock()
	for range steps {
		if err := l.step(j); err != nil {
			return nil, err
		}
	}
	return l.cuts, nil
}

// check compares what a replay found with what was true at the cut: every acknowledged text in order, then perhaps some
// of those that waited for their answer, also in order; nothing that was answered with an error.
func (c cutPoint) check(got []string) error {
	if len(got) < len(c.acked) || !slices.Equal(got[:len(c.acked)], c.acked) {
		return fmt.Errorf("replayed %q, acknowledged %q", short(got), short(c.acked))
	}
	rest := got[len(c.acked):]
	if len(rest) > len(c.open) || !slices.Equal(rest, c.open[:len(rest)]) {
		return fmt.Errorf("replayed %q after the acknowledged ones, waiting were %q", short(rest), short(c.open))
	}
	return nil
}

func (l *life) step(j *Journal) error {
	odds := 12
	if l.laps {
		odds = 5
	}
	switch l.rng.IntN(odds) {
	case 0: // a checkpoint
		l.mu.Lock()
		l.mark, l.acked = j.Mark(), nil
		l.mu.Unlock()
		return j.Drop(l.mark)
	case 1, 2:
		ops := []string{"write", "sync " + string(syncCommit), "sync " + string(syncCommit), "sync " + string(syncRoll), "open"}
		l.fs.setFail(failAt(ops[l.rng.IntN(len(ops))], 1))
	}
	segmentSync := func() error { return nil }
	if l.rng.IntN(20) == 0 {
		segmentSync = func() error { return errDisk }
	}
	n := 1 + l.rng.IntN(4)
	answers := make(chan error, n)
	j.Defer(func() {
		for range n {
			l.mu.Lock()
			l.next++
			text := fmt.Sprintf("%d-%x-%s", l.next, l.rng.Uint64(), l.filler(l.rng.IntN(900)))
			l.open = append(l.open, text)
			l.mu.Unlock()
			group := []Entry{record(int64(l.next), text)}
			if l.rng.IntN(4) == 0 { // its neighbour is pointed at, and its segment may refuse
				e := record(int64(l.next), strings.Repeat("y", 2500))
				e.Topic = topic(2)
				e.Sync = segmentSync
				group = append(group, e)
			}
			j.Stage(group, func(err error) {
				l.fs.answered()
				l.mu.Lock()
				defer l.mu.Unlock()
				l.open = l.open[1:]
				if err == nil {
					l.acked = append(l.acked, text)
				}
				answers <- err
			})
		}
	})
	for range n {
		if err := <-answers; err != nil && !strings.Contains(err.Error(), errDisk.Error()) {
			return err
		}
	}
	l.fs.setFail(nil)
	return nil
}

// filler is n bytes: of every four texts one shrinks to nothing when it is packed, and three do not shrink.
func (l *life) filler(n int) []byte {
	p := bytes.Repeat([]byte("x"), n)
	if l.rng.IntN(4) > 0 {
		for i := range p {
			p[i] = byte(l.rng.Uint32())
		}
	}
	return p
}

// lose runs one seed: a life, then every directory its cuts left, cut again while it is opened and run for a while.
func (sum *lost) lose(t *testing.T, seed uint64, skip disk.Point) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := filepath.Join(t.TempDir(), "journal")
	steps := 12
	if sum.laps {
		steps = 40
	}
	first, err := sum.live(t, rng, dir, cutPoint{}, skip, steps)
	if err != nil {
		return err
	}
	for _, c := range first {
		second, err := sum.live(t, rng, c.dir, c, skip, 3)
		if err != nil {
			return fmt.Errorf("after a cut: %w", err)
		}
		for _, d := range second {
			if _, err := sum.live(t, rng, d.dir, d, skip, 1); err != nil {
				return fmt.Errorf("after a cut in recovery: %w", err)
			}
		}
		sum.cuts += 1 + len(second)
	}
	return nil
}

// seeds are n seeds from 1 on, or as many as MILLRACE_SEEDS from MILLRACE_SEED on.
func seeds(t *testing.T, n int) []uint64 {
	base := uint64(1)
	for name, v := range map[string]any{"MILLRACE_SEED": &base, "MILLRACE_SEEDS": &n} {
		if s := os.Getenv(name); s != "" {
			if _, err := fmt.Sscan(s, v); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	all := make([]uint64, n)
	for i := range all {
		all[i] = base + uint64(i)
	}
	return all
}

func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	var sum lost
	for _, seed := range seeds(t, 20) {
		if err := sum.lose(t, seed, ""); err != nil {
			t.Fatalf("MILLRACE_SEED=%d: %v", seed, err)
		}
	}
	t.Logf("%d cuts", sum.cuts)
	if sum.cuts < 20 {
		t.Error("the lives were hardly cut")
	}
}

func TestPowerCutWhileFilesAreUsedAgain(t *testing.T) {
	sum := lost{laps: true}
	for _, seed := range seeds(t, 20) {
		if err := sum.lose(t, seed, ""); err != nil {
			t.Fatalf("MILLRACE_SEED=%d: %v", seed, err)
		}
	}
	t.Logf("%d cuts, %d files used again", sum.cuts, sum.reused)
	if sum.cuts < 20 || sum.reused < 20 {
		t.Error("the lives were hardly cut, or hardly a file was used again")
	}
}

// Each sync of this package is needed: without it some cut loses or invents something.
func TestEverySyncIsNeeded(t *testing.T) {
	for _, p := range disk.Points() {
		if !strings.HasPrefix(string(p), "journal.") {
			continue
		}
		t.Run(string(p), func(t *testing.T) {
			for seed := range uint64(200) {
				if err := new(lost).lose(t, seed, p); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("200 lives without this sync have lost nothing")
		})
	}
}
