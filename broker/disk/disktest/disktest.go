// Package disktest is a filesystem for tests: it skips syncs, fails syncs and writes, claims any amount of free space,
// and records what is durable, so that a test can cut the power at any operation and look at what a disk might hold.
package disktest

import (
	"errors"
	"maps"
	"os"
	"sync"

	"millrace/broker/disk"
)

// ErrCut is what every operation returns from the moment the power is cut.
var ErrCut = errors.New("disktest: the power is cut")

// FS is a disk.FS over another with faults that a test switches on. It is safe for concurrent use.
type FS struct {
	base disk.FS

	mu         sync.Mutex
	skipped    map[disk.Point]bool
	syncFaults map[disk.Point]*fault
	writeFault []*writeFault
	usage      *disk.Usage
	synced     map[disk.Point]int
	recorder   *recorder // nil before Record
}

// fault is an error that is returned a number of times.
type fault struct {
	err   error
	times int // negative: for ever
}

type writeFault struct {
	fault
	match func(name string) bool
}

var _ disk.FS = (*FS)(nil)

// New wraps base. Without any fault switched on it behaves as base does.
func New(base disk.FS) *FS {
	return &FS{
		base:       base,
		skipped:    make(map[disk.Point]bool),
		syncFaults: make(map[disk.Point]*fault),
		synced:     make(map[disk.Point]int),
	}
}

// Skip makes every sync at a point report success and do nothing, as if its call were missing from the code.
func (f *FS) Skip(point disk.Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skipped[point] = true
}

// FailSync makes the next syncs at a point fail with err, that many times; a negative number is for ever and 0 ends
// it. As on Linux, what a failed sync should have written counts as clean afterwards: a later sync of the same file
// succeeds and does not write it.
func (f *FS) FailSync(point disk.Point, err error, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncFaults[point] = &fault{err, times}
}

// FailWrite makes the next writes to files whose name matches fail with err, that many times; a negative number is for
// ever. The first half of the bytes is written, as when a disk fills up.
func (f *FS) FailWrite(match func(name string) bool, err error, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeFault = append(f.writeFault, &writeFault{fault{err, times}, match})
}

// SetUsage makes Usage answer u for every name.
func (f *FS) SetUsage(u disk.Usage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.usage = &u
}

// Synced counts the syncs asked for at each point since the start, skipped and failed ones included.
func (f *FS) Synced() map[disk.Point]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.synced)
}

// OpenFile implements disk.FS.
func (f *FS) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	r := f.record()
	if r == nil {
		base, err := f.base.OpenFile(name, flag, perm)
		if err != nil {
			return nil, err
		}
		return &file{File: base, fs: f}, nil
	}
	change := flag&(os.O_CREATE|os.O_TRUNC) != 0
	if flag&os.O_WRONLY != 0 {
		flag = flag&^os.O_WRONLY | os.O_RDWR // a sync reads what there is to make durable
	}
	var opened disk.File
	err := r.do(change, func() (err error) {
		opened, err = f.base.OpenFile(name, flag, perm)
		return err
	})
	if err != nil {
		if opened != nil { // the cut came while it was opened
			err = errors.Join(err, opened.Close())
		}
		return nil, err
	}
	node, err := r.nodeOf(opened)
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return &file{File: opened, fs: f, recorder: r, node: node}, nil
}

// MkdirAll implements disk.FS.
func (f *FS) MkdirAll(name string, perm os.FileMode) error {
	return f.record().do(true, func() error { return f.base.MkdirAll(name, perm) })
}

// Rename implements disk.FS.
func (f *FS) Rename(oldName, newName string) error {
	r := f.record()
	return r.do(true, func() error {
		return r.replace(newName, func() error { return f.base.Rename(oldName, newName) })
	})
}

// Remove implements disk.FS.
func (f *FS) Remove(name string) error {
	r := f.record()
	return r.do(true, func() error {
		return r.replace(name, func() error { return f.base.Remove(name) })
	})
}

// ReadDir implements disk.FS.
func (f *FS) ReadDir(name string) (entries []os.DirEntry, err error) {
	err = f.record().do(false, func() (err error) {
		entries, err = f.base.ReadDir(name)
		return err
	})
	return entries, err
}

// Stat implements disk.FS.
func (f *FS) Stat(name string) (info os.FileInfo, err error) {
	err = f.record().do(false, func() (err error) {
		info, err = f.base.Stat(name)
		return err
	})
	return info, err
}

// SyncDir implements disk.FS.
func (f *FS) SyncDir(name string, point disk.Point) error {
	skip, err := f.sync(point)
	r := f.record()
	switch {
	case r == nil && (skip || err != nil):
		return err
	case r == nil:
		return f.base.SyncDir(name, point)
	case skip || err != nil:
		return errors.Join(err, r.do(true, func() error { return nil }))
	}
	return r.syncDir(name)
}

// Usage implements disk.FS.
func (f *FS) Usage(name string) (disk.Usage, error) {
	f.mu.Lock()
	u := f.usage
	f.mu.Unlock()
	if u != nil {
		return *u, nil
	}
	return f.base.Usage(name)
}

// sync counts a sync at a point and says what a switched-on fault makes of it.
func (f *FS) sync(point disk.Point) (skip bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced[point]++
	if fault := f.syncFaults[point]; fault != nil {
		if err := fault.take(); err != nil {
			return false, err
		}
	}
	return f.skipped[point], nil
}

// write says whether a write to a file fails.
func (f *FS) write(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.writeFault {
		if w.times != 0 && w.match(name) {
			return w.take()
		}
	}
	return nil
}

func (f *fault) take() error {
	if f.times == 0 {
		return nil
	}
	if f.times > 0 {
		f.times--
	}
	return f.err
}

func (f *FS) record() *recorder {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recorder
}

// file is an open file of an FS.
type file struct {
	disk.File
	fs       *FS
	recorder *recorder // nil when the file was opened before Record
	node     *node
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.recorder.do(false, func() (err error) {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *file) Stat() (info os.FileInfo, err error) {
	err = f.recorder.do(false, func() (err error) {
		info, err = f.File.Stat()
		return err
	})
	return info, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.recorder.do(true, func() (err error) {
		if fault := f.fs.write(f.Name()); fault != nil {
			n, err = f.File.WriteAt(p[:len(p)/2], off)
			return errors.Join(fault, err)
		}
		n, err = f.File.WriteAt(p, off)
		return err
	})
	f.recorder.wrote(f.node, off, n)
	return n, err
}

func (f *file) Truncate(size int64) error {
	return f.recorder.do(true, func() error { return f.File.Truncate(size) })
}

func (f *file) Sync(point disk.Point) error {
	skip, err := f.fs.sync(point)
	switch {
	case f.recorder == nil && (skip || err != nil):
		return err
	case f.recorder == nil:
		return f.File.Sync(point)
	case skip:
		return f.recorder.do(true, func() error { return nil })
	}
	return f.recorder.sync(f, err)
}
