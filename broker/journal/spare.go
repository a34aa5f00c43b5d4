package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/tidwall/wal"
	"golang.org/x/sys/unix"

	"millrace/broker/disk"
)

// A file that a checkpoint lets go is used again under the next name: its blocks are allocated, so that a commit which
// overwrites them costs no metadata, as over zeros, and the zeros need not be written. What it held stays behind what is
// written; a reader tells it by its indexes, which are all below the file's name.
const (
	sparePrefix = "spare-"
	// spareMax bounds the bytes kept in spare files; there are never more files than one Drop let go.
	spareMax = 32 << 20
)

// spare is a file that waits to be used again. Only files that the wal left by itself, after it synced them, become one.
type spare struct {
	name string
	size int64
}

// library is tidwall/wal. It makes every file it goes on in empty, and has no option for another.
type library struct{ *wal.Log }

// file is what the wal writes to. It tells nobody, so its own field is read: a build against a release without that
// field uses no file twice, and a test fails.
func (l library) file() (*os.File, bool) {
	field := reflect.ValueOf(l.Log).Elem().FieldByName("sfile")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*os.File]() || field.IsNil() {
		return nil, false
	}
	return (*os.File)(field.UnsafePointer()), true
}

// redirect has the wal write to the beginning of file instead of the file it has just made. file may be closed after it.
func (l library) redirect(file disk.File) error {
	own, ok := l.file()
	if !ok {
		return errors.ErrUnsupported
	}
	c, err := own.SyscallConn()
	if err != nil {
		return err
	}
	var dupErr error
	if err := c.Control(func(fd uintptr) {
		dupErr = unix.Dup3(int(file.Fd()), int(fd), unix.O_CLOEXEC)
	}); err != nil {
		return err
	}
	return dupErr
}

// reuse puts a spare file in the place of the empty one that the wal has made at index next, and returns its size, 0 when
// there is none. The directory is not synced.
func (t *tail) reuse(next uint64) (size int64, err error) {
	s, ok := t.files.takeSpare()
	if !ok {
		return 0, nil
	}
	o := t.files.o
	file, err := o.FS.OpenFile(t.files.path(s.name), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if err := t.log.redirect(file); errors.Is(err, errors.ErrUnsupported) {
		return 0, o.FS.Remove(t.files.path(s.name))
	} else if err != nil {
		return 0, fmt.Errorf("use %s again: %w", s.name, err)
	}
	// A block whose old bytes are not in memory is read before a part of it is overwritten; better before the commit. It
	// is a hint, and its failure none of ours.
	_ = unix.Fadvise(int(file.Fd()), 0, info.Size(), unix.FADV_WILLNEED)
	if err := o.FS.Rename(t.files.path(s.name), t.files.path(walName(next))); err != nil {
		return 0, err
	}
	t.stats.reused.Add(1)
	return info.Size(), nil
}

// removeSpares unlinks what the life before kept to use again.
func (f *files) removeSpares() error {
	names, err := f.o.FS.ReadDir(f.o.Dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		if strings.HasPrefix(d.Name(), sparePrefix) {
			if err := f.o.FS.Remove(f.path(d.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// letGo takes a file out of the journal: it becomes a spare one where there is use for it, else it is unlinked.
// Its old name may come back after a power cut, with anything in it: the checkpoint's mark is above it by then.
func (f *files) letGo(w walFile) error {
	f.mu.Lock()
	keep := w.rolled > 0 && f.spareBytes+w.rolled <= spareMax
	f.mu.Unlock()
	if !keep {
		err := f.o.FS.Remove(f.path(w.name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	s := spare{sparePrefix + w.name, w.rolled}
	if err := f.o.FS.Rename(f.path(w.name), f.path(s.name)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spares = append(f.spares, s)
	f.spareBytes += s.size
	return nil
}

func (f *files) takeSpare() (spare, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.spares) == 0 {
		return spare{}, false
	}
	s := f.spares[0]
	f.spares = append(f.spares[:0], f.spares[1:]...)
	f.spareBytes -= s.size
	return s, true
}

// trimSpares unlinks the oldest spare files until n are left: what one checkpoint let go is what is needed until the next.
func (f *files) trimSpares(n int) error {
	for {
		f.mu.Lock()
		over := len(f.spares) > n
		f.mu.Unlock()
		if !over {
			return nil
		}
		s, ok := f.takeSpare()
		if !ok {
			return nil
		}
		if err := f.o.FS.Remove(f.path(s.name)); err != nil {
			return err
		}
	}
}
