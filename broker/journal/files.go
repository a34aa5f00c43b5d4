package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"millrace/broker/disk"
)

// The syncs of opening and starting. Those of commits are in tail.go.
var (
	syncParent   = disk.NewPoint("journal.parent")    // the journal directory's own entry
	syncStart    = disk.NewPoint("journal.start")     // the rewritten tail
	syncStartDir = disk.NewPoint("journal.start.dir") // its rename, and the new file commits go to
)

const (
	tempName      = "next.tmp"
	asidePrefix   = "aside-"   // what tidwall/wal would have misread
	damagedPrefix = "damaged-" // copies of files that were rewritten without their bad bytes
	maxDamaged    = 4          // copies kept
	filePerm      = 0o640
	dirPerm       = 0o750
)

// files are the wal's segments on disk.
type files struct {
	o     *Options
	id    uint64
	after uint64 // index of the checkpoint's mark; set by open
	next  uint64 // index of the first frame to be written; set by open
	mark  uint64 // id of the journal whose last life may have left frames in a front, 0 for none; set by open

	walNext uint64       // next, as the wal alone says
	spare   []frontFrame // see scanner
	report  Report
	ext     []extent // of list, as open found it

	drop sync.Mutex // one Drop at a time
	mu   sync.Mutex
	list []walFile // oldest first. The front belongs to Drop, the end (the tail) to the committer.

	spares     []spare // oldest first
	spareBytes int64
}

func (f *files) path(name string) string { return filepath.Join(f.o.Dir, name) }

// open brings the directory to a state that tidwall/wal can be let near, and finds the frames.
func (f *files) open(o *Options, after Mark) error {
	f.o, f.after = o, after.Index
	if after.Index >= maxIndex {
		return fmt.Errorf("mark %d: %w", after.Index, ErrInvalid)
	}
	if err := o.FS.MkdirAll(o.Dir, dirPerm); err != nil {
		return err
	}
	// Always: a process killed between the two calls leaves a directory that the next power cut takes away.
	if err := o.FS.SyncDir(filepath.Dir(filepath.Clean(o.Dir)), syncParent); err != nil {
		return err
	}
	if err := f.removeSpares(); err != nil {
		return err
	}
	if err := f.findMark(); err != nil {
		return err
	}
	list, aside, err := listWAL(o.FS, o.Dir)
	if err != nil {
		return err
	}
	s := scanner{fs: o.FS, dir: o.Dir, id: after.ID}
	if s.id == 0 {
		if s.id, err = s.discover(list, 0); err != nil {
			return err
		}
	}
	front := 0 // files wholly below the mark: a checkpoint was killed before or while it dropped them
	for front+1 < len(list) && list[front+1].base <= after.Index+1 {
		front++
	}
	if f.report, f.ext, err = s.run(list[front:], after.Index, nil); err != nil {
		return err
	}
	if err := f.own(&s, list, after); err != nil {
		return err
	}
	f.next = after.Index + 1
	for i, file := range list[front:] {
		f.next = max(f.next, file.base, f.ext[i].last+1)
	}
	if f.next >= maxIndex {
		return fmt.Errorf("frame %d: %w", f.next, ErrInvalid)
	}
	for _, old := range list[:front] {
		if err := o.FS.Remove(f.path(old.name)); err != nil {
			return err
		}
	}
	f.list = slices.Clone(list[front:])
	return f.setAside(aside)
}

// own decides whose journal this is.
func (f *files) own(s *scanner, list []walFile, after Mark) error {
	f.id = s.id
	if after.ID != 0 && !slices.ContainsFunc(f.ext, func(x extent) bool { return x.frames > 0 }) {
		other, err := s.discover(list, after.ID)
		if err != nil {
			return err
		}
		if other != 0 {
			return fmt.Errorf("frames of journal %016x, checkpoint of %016x: %w", other, after.ID, ErrForeign)
		}
	}
	if f.id == 0 {
		f.id = f.mark
	}
	for f.id == 0 {
		f.id = rand.Uint64()
	}
	return nil
}

// setAside renames what tidwall/wal would take for a segment of its own, or what is in the way of one: it finishes
// .START and .END truncations we never begin, and panics or calls the log corrupt when they are damaged.
func (f *files) setAside(names []string) error {
	for _, name := range names {
		if _, err := strconv.ParseUint(name[:min(20, len(name))], 10, 64); err != nil || len(name) < 20 {
			f.report.Aside = append(f.report.Aside, name)
			continue
		}
		if err := f.o.FS.Rename(f.path(name), f.path(asidePrefix+name)); err != nil {
			return err
		}
		f.o.Logger.Warn("journal: set aside a file that is not ours", "name", name)
		f.report.Aside = append(f.report.Aside, asidePrefix+name)
	}
	return nil
}

// replay passes the frames after the mark to fn.
func (f *files) replay(fn func(Frame) error) (Report, error) {
	s := scanner{fs: f.o.FS, dir: f.o.Dir, id: f.id, spare: f.spare}
	r, _, err := s.run(f.list, f.after, func(i FrameInfo) error {
		i.Last = i.Index == f.report.Last
		return fn(i.Frame)
	})
	r.Aside = f.report.Aside
	return r, err
}

// start makes what replay passed on durable and leaves an empty tail for tidwall/wal, so that it never parses a byte.
//
// Only the last file with frames is rewritten: a later file is made only after the one before was synced. Its frames
// may have been readable from the page cache and nowhere else (a failed sync marks pages clean), and the rewriting goes
// through a new file, because a cut while old bytes are overwritten in place may cost frames that were safe.
//
// What was in the front only comes behind it.
func (f *files) start(pending []frontFrame) error {
	for i := len(f.list) - 1; i >= 0; i-- {
		if f.ext[i].frames == 0 {
			continue
		}
		if f.ext[i].last > f.after {
			if err := f.rewrite(i); err != nil {
				return fmt.Errorf("rewrite the tail: %w", err)
			}
		}
		break
	}
	if err := f.takeIn(pending); err != nil {
		return fmt.Errorf("write what the front held: %w", err)
	}
	f.follow(f.next)
	if err := f.fresh(f.next); err != nil {
		return err
	}
	return f.o.FS.SyncDir(f.o.Dir, syncStartDir)
}

// fresh puts an empty file at the name of index. It is always a new inode: a torn frame in an old one, cut off without a
// sync, could come back with the bytes it lacked lent by the frames written over it.
func (f *files) fresh(index uint64) error {
	temp, err := f.o.FS.OpenFile(f.path(tempName), os.O_CREATE|os.O_TRUNC|os.O_RDWR, filePerm)
	if err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return f.o.FS.Rename(f.path(tempName), f.path(walName(index)))
}

// rewrite replaces file i, the last with frames, by its valid frames.
func (f *files) rewrite(i int) error {
	w := f.list[i]
	if !f.ext[i].clean {
		f.keepDamaged(w)
	}
	temp, err := f.o.FS.OpenFile(f.path(tempName), os.O_CREATE|os.O_TRUNC|os.O_RDWR, filePerm)
	if err != nil {
		return err
	}
	if err := f.copyFrames(f.list[i:], temp); err != nil {
		return errors.Join(err, temp.Close())
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := f.o.FS.Rename(f.path(tempName), f.path(w.name)); err != nil {
		return err
	}
	// Before the next file is made: its existence says that this one is whole.
	return f.o.FS.SyncDir(f.o.Dir, syncStartDir)
}

// copyFrames copies every frame of the first file; those that follow tell only where that one ends.
func (f *files) copyFrames(from []walFile, to disk.File) error {
	out := bufio.NewWriterSize(io.NewOffsetWriter(to, 0), 64<<10)
	s := scanner{fs: f.o.FS, dir: f.o.Dir, id: f.id, spare: f.spare}
	_, _, err := s.run(from, 0, func(i FrameInfo) error {
		if i.File != from[0].name {
			return nil
		}
		var prefix [binary.MaxVarintLen64]byte
		if _, err := out.Write(prefix[:binary.PutUvarint(prefix[:], uint64(i.Size))]); err != nil {
			return err
		}
		frame, err := i.bytes, error(nil)
		if frame == nil {
			frame, err = s.win.at(i.Offset, i.Size)
		}
		if err != nil {
			return err
		}
		_, err = out.Write(frame)
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return to.Sync(syncStart)
}

// keepDamaged copies a damaged file for whoever wants to look, and forgets the oldest copies. It is a service, not a
// promise: a full disk must not keep the journal from starting.
func (f *files) keepDamaged(w walFile) {
	err := f.copyDamaged(w)
	if err != nil {
		f.o.Logger.Warn("journal: no copy of the damaged file", "name", w.name, "err", err)
	}
}

func (f *files) copyDamaged(w walFile) (err error) {
	names, err := f.o.FS.ReadDir(f.o.Dir)
	if err != nil {
		return err
	}
	var copies []string
	for _, d := range names {
		if strings.HasPrefix(d.Name(), damagedPrefix) {
			copies = append(copies, d.Name())
		}
	}
	for len(copies) >= maxDamaged {
		if err := f.o.FS.Remove(f.path(copies[0])); err != nil {
			return err
		}
		copies = copies[1:]
	}
	from, err := f.o.FS.OpenFile(f.path(w.name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := f.o.FS.OpenFile(f.path(damagedPrefix+w.name), os.O_CREATE|os.O_TRUNC|os.O_RDWR, filePerm)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(to, 0), io.LimitReader(io.NewSectionReader(from, 0, 1<<40), 2*MaxFrame))
	return errors.Join(err, to.Close())
}

// tail is the file that commits go to.
func (f *files) tail() walFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list[len(f.list)-1]
}

// push adds a new tail; a file of the same name is replaced.
func (f *files) push(base uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list[len(f.list)-1].base != base {
		f.list = append(f.list, walFile{base: base, name: walName(base)})
	}
}

// roll adds a new tail after the wal has left the old one, size bytes long, by itself.
func (f *files) roll(base uint64, size int64) {
	f.push(base)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list[len(f.list)-2].rolled = size
}

// dropTo lets whole files go that end at or below index, oldest first, never the tail. TruncateFront would rewrite the
// boundary file, and is never used.
func (f *files) dropTo(index uint64) (n int, err error) {
	f.drop.Lock()
	defer f.drop.Unlock()
	for {
		f.mu.Lock()
		if len(f.list) < 2 || f.list[1].base > index+1 {
			f.mu.Unlock()
			if n == 0 {
				return 0, nil
			}
			return n, f.trimSpares(n)
		}
		oldest := f.list[0]
		f.mu.Unlock()
		if err := f.letGo(oldest); err != nil {
			return n, err
		}
		f.mu.Lock()
		f.list = slices.Delete(f.list, 0, 1)
		f.mu.Unlock()
		n++
	}
}

func (f *files) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list)
}
