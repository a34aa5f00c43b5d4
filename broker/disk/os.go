package disk

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the real filesystem.
type OS struct{}

var _ FS = OS{}

type osFile struct{ *os.File }

var (
	_ Starter   = osFile{}
	_ Dated     = osFile{}
	_ Allocator = osFile{}
	_ Owned     = osFile{}
)

// OpenFile is os.OpenFile.
func (OS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// MkdirAll is os.MkdirAll.
func (OS) MkdirAll(name string, perm os.FileMode) error { return os.MkdirAll(name, perm) }

// Rename is os.Rename.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// Remove is os.Remove.
func (OS) Remove(name string) error { return os.Remove(name) }

// ReadDir is os.ReadDir.
func (OS) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(name) }

// Stat is os.Stat.
func (OS) Stat(name string) (os.FileInfo, error) { return os.Stat(name) }

// SyncDir opens the directory and syncs it.
func (OS) SyncDir(name string, _ Point) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync directory %s: %w", name, err), d.Close())
	}
	return d.Close()
}

// Usage is statfs(2): Free counts the blocks an ordinary user may take.
func (OS) Usage(name string) (Usage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(name, &s); err != nil {
		return Usage{}, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	block := int64(s.Bsize)
	return Usage{Total: int64(s.Blocks) * block, Free: int64(s.Bavail) * block}, nil
}

// Sync is fdatasync(2), repeated when a signal interrupts it.
func (f osFile) Sync(_ Point) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	if err := c.Control(func(fd uintptr) {
		for {
			if syncErr = unix.Fdatasync(int(fd)); !errors.Is(syncErr, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	if syncErr != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: syncErr}
	}
	return nil
}

// StartSync is sync_file_range(2), which allocates the blocks and submits the writes. Called without its waiting flags it
// leaves the file's error state alone, so that Sync still tells of every failure.
func (f osFile) StartSync() {
	c, err := f.SyscallConn()
	if err != nil {
		return // closed: there is no Sync to come either
	}
	_ = c.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// SetModified is futimes(2).
func (f osFile) SetModified(at time.Time) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := c.Control(func(fd uintptr) {
		to := unix.NsecToTimeval(at.UnixNano())
		failed = unix.Futimes(int(fd), []unix.Timeval{to, to})
	}); err != nil {
		return err
	}
	if failed != nil {
		return &os.PathError{Op: "futimes", Path: f.Name(), Err: failed}
	}
	return nil
}

// SetOwner is fchown(2) and fsync(2).
func (f osFile) SetOwner(uid, gid int, _ Point) error {
	return errors.Join(f.Chown(uid, gid), f.File.Sync())
}

// Allocate is fallocate(2) with FALLOC_FL_KEEP_SIZE, repeated when a signal interrupts it.
func (f osFile) Allocate(size int64) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := c.Control(func(fd uintptr) {
		for {
			if failed = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, 0, size); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	if failed != nil {
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: failed}
	}
	return nil
}
