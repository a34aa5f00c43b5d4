package journal

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

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
