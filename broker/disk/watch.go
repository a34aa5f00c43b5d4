package disk

import (
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// Watch is fs, and counts in done every operation that has ended, well or not: a start, or a stop, that goes on can be told
// from one that stands still.
func Watch(fs FS, done *atomic.Int64) FS { return watched{fs, done} }

type watched struct {
	FS
	done *atomic.Int64
}

// OpenFile implements FS.
func (w watched) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := w.FS.OpenFile(name, flag, perm)
	w.done.Add(1)
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w.done}, nil
}

// Rename implements FS.
func (w watched) Rename(oldName, newName string) error {
	defer w.done.Add(1)
	return w.FS.Rename(oldName, newName)
}

// Remove implements FS.
func (w watched) Remove(name string) error {
	defer w.done.Add(1)
	return w.FS.Remove(name)
}

// ReadDir implements FS.
func (w watched) ReadDir(name string) ([]os.DirEntry, error) {
	defer w.done.Add(1)
	return w.FS.ReadDir(name)
}

// Stat implements FS.
func (w watched) Stat(name string) (os.FileInfo, error) {
	defer w.done.Add(1)
	return w.FS.Stat(name)
}

// SyncDir implements FS.
func (w watched) SyncDir(name string, point Point) error {
	defer w.done.Add(1)
	return w.FS.SyncDir(name, point)
}

type watchedFile struct {
	File
	done *atomic.Int64
}

// ReadAt implements File.
func (w watchedFile) ReadAt(p []byte, off int64) (int, error) {
	defer w.done.Add(1)
	return w.File.ReadAt(p, off)
}

// WriteAt implements File.
func (w watchedFile) WriteAt(p []byte, off int64) (int, error) {
	defer w.done.Add(1)
	return w.File.WriteAt(p, off)
}

// Sync implements File.
func (w watchedFile) Sync(point Point) error {
	defer w.done.Add(1)
	return w.File.Sync(point)
}

// Close implements File.
func (w watchedFile) Close() error {
	defer w.done.Add(1)
	return w.File.Close()
}

// StartSync implements Starter, where the file does.
func (w watchedFile) StartSync() {
	if f, ok := w.File.(Starter); ok {
		f.StartSync()
	}
}

// SetModified implements Dated, where the file does.
func (w watchedFile) SetModified(at time.Time) error {
	if f, ok := w.File.(Dated); ok {
		return f.SetModified(at)
	}
	return nil
}

// Allocate implements Allocator, where the file does.
func (w watchedFile) Allocate(size int64) error {
	if f, ok := w.File.(Allocator); ok {
		return f.Allocate(size)
	}
	return errors.ErrUnsupported
}
