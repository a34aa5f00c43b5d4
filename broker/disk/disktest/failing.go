package disktest

import (
	"os"

	"millrace/broker/disk"
)

// Failing is a disk.FS in which Fault says what fails: it is asked before every operation, reads included, with the name
// it is on, and what it returns instead of nil is the operation's error; then nothing is done. A Fault that is nil fails
// nothing. It is as safe for concurrent use as FS and Fault are.
type Failing struct {
	disk.FS
	Fault func(op, name string) error
}

var _ disk.FS = (*Failing)(nil)

func (f *Failing) ask(op, name string) error {
	if f.Fault == nil {
		return nil
	}
	return f.Fault(op, name)
}

// OpenFile implements disk.FS: "open".
func (f *Failing) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if err := f.ask("open", name); err != nil {
		return nil, err
	}
	base, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &failingFile{base, f}, nil
}

// MkdirAll implements disk.FS: "mkdir".
func (f *Failing) MkdirAll(name string, perm os.FileMode) error {
	if err := f.ask("mkdir", name); err != nil {
		return err
	}
	return f.FS.MkdirAll(name, perm)
}

// Rename implements disk.FS: "rename", of the old name.
func (f *Failing) Rename(oldName, newName string) error {
	if err := f.ask("rename", oldName); err != nil {
		return err
	}
	return f.FS.Rename(oldName, newName)
}

// Remove implements disk.FS: "remove".
func (f *Failing) Remove(name string) error {
	if err := f.ask("remove", name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// ReadDir implements disk.FS: "readdir".
func (f *Failing) ReadDir(name string) ([]os.DirEntry, error) {
	if err := f.ask("readdir", name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name)
}

// Stat implements disk.FS: "stat".
func (f *Failing) Stat(name string) (os.FileInfo, error) {
	if err := f.ask("stat", name); err != nil {
		return nil, err
	}
	return f.FS.Stat(name)
}

// SyncDir implements disk.FS: "syncdir".
func (f *Failing) SyncDir(name string, point disk.Point) error {
	if err := f.ask("syncdir", name); err != nil {
		return err
	}
	return f.FS.SyncDir(name, point)
}

type failingFile struct {
	disk.File
	fs *Failing
}

func (f *failingFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask("read", f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *failingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask("write", f.Name()); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *failingFile) Stat() (os.FileInfo, error) {
	if err := f.fs.ask("stat", f.Name()); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f *failingFile) Truncate(size int64) error {
	if err := f.fs.ask("truncate", f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *failingFile) Sync(point disk.Point) error {
	if err := f.fs.ask("sync", f.Name()); err != nil {
		return err
	}
	return f.File.Sync(point)
}
