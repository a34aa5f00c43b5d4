package journal

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tidwall/wal"

	"millrace/broker/disk"
)

// cutFS is the real filesystem that knows what a power cut would leave: bytes as of each file's last sync, names as of
// the directory's last sync. tidwall/wal opens its files itself, so a cutLog tells what the library syncs.
type cutFS struct {
	faultFS
	rng  *rand.Rand
	dir  string
	skip disk.Point // this sync is not done

	state  sync.Mutex
	bytes  map[uint64][]byte   // inode → synced bytes
	names  map[string]uint64   // synced names
	there  bool                // the directory's own name is synced
	torn   bool                // a failed sync has left a block torn that was safe before
	keep   map[uint64]*os.File // every file seen, so that no inode is used twice
	before func()              // called at every file operation, with state held
}

func newCutFS(dir string, rng *rand.Rand) *cutFS {
	f := &cutFS{rng: rng, dir: dir, bytes: map[uint64][]byte{}, names: map[string]uint64{}, keep: map[uint64]*os.File{}}
	if _, err := os.Stat(dir); err == nil { // what is there has been there for long
		f.there = true
		f.syncNames()
		for name := range f.names {
			f.syncFile(filepath.Join(dir, name))
		}
	}
	return f
}

// look notes the inode of a file and keeps it from being used again.
func (f *cutFS) look(path string) (uint64, []byte) {
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	p, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	info, err := file.Stat()
	if err != nil {
		panic(err)
	}
	ino := info.Sys().(*syscall.Stat_t).Ino
	if f.keep[ino] != nil {
		if err := file.Close(); err != nil {
			panic(err)
		}
	} else {
		f.keep[ino] = file
	}
	return ino, p
}

func (f *cutFS) close() (err error) {
	for _, file := range f.keep {
		err = errors.Join(err, file.Close())
	}
	return err
}

func (f *cutFS) syncFile(path string) {
	ino, p := f.look(path)
	f.bytes[ino] = p
}

func (f *cutFS) current() map[string]uint64 {
	names := map[string]uint64{}
	list, err := os.ReadDir(f.dir)
	if err != nil {
		return names
	}
	for _, d := range list {
		names[d.Name()], _ = f.look(filepath.Join(f.dir, d.Name()))
	}
	return names
}

func (f *cutFS) syncNames() { f.names = f.current() }

// cut writes what a power cut at this instant may leave into a fresh directory.
func (f *cutFS) cut(to string) {
	if err := os.MkdirAll(to, 0o750); err != nil {
		panic(err)
	}
	if !f.there {
		return
	}
	live := map[uint64][]byte{}
	now := f.current()
	for name := range now {
		ino, p := f.look(filepath.Join(f.dir, name))
		live[ino] = p
	}
	names := map[string]uint64{}
	all := f.rng.IntN(3) // the synced names, those of now, or each one or the other
	for _, name := range union(f.names, now) {
		pick := f.names
		if all == 1 || all == 2 && f.rng.IntN(2) == 0 {
			pick = now
		}
		if ino, ok := pick[name]; ok {
			names[name] = ino
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		ino := names[name]
		if err := os.WriteFile(filepath.Join(to, name), f.mix(f.bytes[ino], live[ino]), 0o640); err != nil {
			panic(err)
		}
	}
}

// union is every name of both, sorted: a seed must mean one run.
func union(a, b map[string]uint64) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

// mix decides for each sector that differs between the synced and the live bytes whether it is old, new or garbage.
func (f *cutFS) mix(synced, live []byte) []byte {
	if live == nil || f.rng.IntN(4) == 0 {
		return slices.Clone(synced)
	}
	size := len(synced)
	if len(live) > size {
		size += f.rng.IntN(len(live) - size + 1)
	}
	out := make([]byte, size)
	copy(out, synced)
	mood := f.rng.IntN(4)
	for at := 0; at < size; at += 512 {
		end := min(at+512, size)
		fresh := make([]byte, end-at)
		if at < len(live) {
			copy(fresh, live[at:])
		}
		old := out[at:end]
		if string(old) == string(fresh) {
			continue
		}
		switch pick := f.rng.IntN(4); {
		case mood == 0 || mood == 1 && pick > 0:
			copy(old, fresh)
		case mood == 1 && at >= len(synced): // only what was never synced: a device does not tear what it is not writing
			for i := range old {
				old[i] = byte(f.rng.Uint32())
			}
		case mood == 2 && pick == 0:
			copy(old, fresh)
		}
	}
	return out
}

func (f *cutFS) op() {
	if f.before != nil {
		f.before()
	}
}

func (f *cutFS) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	file, err := f.faultFS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &cutFile{file, f}, nil
}

func (f *cutFS) Rename(from, to string) error {
	err := f.faultFS.Rename(from, to)
	f.state.Lock()
	defer f.state.Unlock()
	f.op()
	return err
}

func (f *cutFS) SyncDir(name string, p disk.Point) error {
	f.state.Lock()
	defer f.state.Unlock()
	f.op()
	if err := f.check("sync "+string(p), name); err != nil {
		return err
	}
	if p != f.skip {
		if p == syncParent {
			f.there = true
		} else {
			f.syncNames()
		}
	}
	f.op()
	return nil
}

type cutFile struct {
	disk.File
	fs *cutFS
}

func (c *cutFile) Sync(p disk.Point) error {
	f := c.fs
	f.state.Lock()
	defer f.state.Unlock()
	f.op()
	if err := f.check("sync "+string(p), c.Name()); err != nil {
		f.tear(c.Name())
		return err
	}
	if p != f.skip {
		f.syncFile(c.Name())
	}
	f.op()
	return nil
}

// tear is what a failed write-back may do: the block that new bytes share with safe ones is garbage on the device.
func (f *cutFS) tear(path string) {
	ino, live := f.look(path)
	synced := slices.Clone(f.bytes[ino])
	at := 0
	for at < min(len(synced), len(live)) && synced[at] == live[at] {
		at++
	}
	for i := at &^ 511; i < min(at&^511+512, len(synced)); i++ {
		synced[i] = 0xee
	}
	f.bytes[ino], f.torn = synced, true
}

// answered ends the time in which a torn block is nobody's fault: whoever is answered may rely on the repair.
func (f *cutFS) answered() {
	f.state.Lock()
	defer f.state.Unlock()
	f.torn = false
}

// cutLog tells what the library syncs by itself: a file it rolls out of, and the tail when it is closed.
type cutLog struct {
	walLog
	fs *cutFS
}

func (l cutLog) WriteBatch(b *wal.Batch) error {
	f := l.fs
	f.state.Lock()
	defer f.state.Unlock()
	f.op()
	was, _, err := listWAL(disk.OS{}, f.dir)
	if err != nil {
		return err
	}
	if err := l.walLog.WriteBatch(b); err != nil {
		return err
	}
	now, _, err := listWAL(disk.OS{}, f.dir)
	if err != nil {
		return err
	}
	if now[len(now)-1] != was[len(was)-1] {
		f.syncFile(filepath.Join(f.dir, was[len(was)-1].name))
	}
	f.op()
	return nil
}

// life is one random run of a journal, with the truth beside it.
type life struct {
	t     *testing.T
	rng   *rand.Rand
	fs    *cutFS
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

// live runs steps of a journal in dir, cut at random instants, and returns what the cuts left.
func live(t *testing.T, rng *rand.Rand, dir string, from cutPoint, skip disk.Point, steps int) (cuts []cutPoint, err error) {
	l := &life{t: t, rng: rng, fs: newCutFS(dir, rng), mark: from.mark}
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
	j, err := Open(Options{Dir: dir, FS: l.fs, SegmentBytes: 3000, InlineMax: 2000}, from.mark)
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, j.Close())
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
	switch l.rng.IntN(12) {
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
			text := fmt.Sprintf("%d-%x-%s", l.next, l.rng.Uint64(), strings.Repeat("x", l.rng.IntN(900)))
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

// lose runs one seed: a life, then every directory its cuts left, cut again while it is opened and run for a while.
func lose(t *testing.T, seed uint64, skip disk.Point) (cuts int, err error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := filepath.Join(t.TempDir(), "journal")
	first, err := live(t, rng, dir, cutPoint{}, skip, 12)
	if err != nil {
		return 0, err
	}
	for _, c := range first {
		second, err := live(t, rng, c.dir, c, skip, 3)
		if err != nil {
			return cuts, fmt.Errorf("after a cut: %w", err)
		}
		for _, d := range second {
			if _, err := live(t, rng, d.dir, d, skip, 1); err != nil {
				return cuts, fmt.Errorf("after a cut in recovery: %w", err)
			}
		}
		cuts += 1 + len(second)
	}
	return cuts, nil
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
	cuts := 0
	for _, seed := range seeds(t, 40) {
		n, err := lose(t, seed, "")
		if err != nil {
			t.Fatalf("MILLRACE_SEED=%d: %v", seed, err)
		}
		cuts += n
	}
	t.Logf("%d cuts", cuts)
	if cuts < 40 {
		t.Error("the lives were hardly cut")
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
				if _, err := lose(t, seed, p); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("200 lives without this sync have lost nothing")
		})
	}
}
