package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"millrace/broker/disk"
)

// markPrefix begins the name of an empty file that is there while frames may be in a front and nowhere else: the next
// start must have that front. The journal's id is the rest of the name.
const markPrefix = "front-"

// Marked tells whether frames of the journal in dir may be in a front and nowhere else.
func Marked(fsys disk.FS, dir string) (bool, error) {
	names, err := fsys.ReadDir(dir)
	return slices.ContainsFunc(names, func(d os.DirEntry) bool { return strings.HasPrefix(d.Name(), markPrefix) }), err
}

// findMark reads the mark. One whose name cannot be read counts as another journal's.
func (f *files) findMark() error {
	names, err := f.o.FS.ReadDir(f.o.Dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		digits, ok := strings.CutPrefix(d.Name(), markPrefix)
		if !ok {
			continue
		}
		if f.mark, err = strconv.ParseUint(digits, 16, 64); err != nil || f.mark == 0 {
			f.mark = 1
		}
	}
	return nil
}

// setMark makes the mark of a journal, or removes every mark when id is 0, durably.
func (f *files) setMark(id uint64) error {
	name := fmt.Sprintf("%s%016x", markPrefix, id)
	names, err := f.o.FS.ReadDir(f.o.Dir)
	if err != nil {
		return err
	}
	there, changed := false, false
	for _, d := range names {
		switch {
		case !strings.HasPrefix(d.Name(), markPrefix):
		case id != 0 && d.Name() == name:
			there = true
		default:
			if err := f.o.FS.Remove(f.path(d.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			changed = true
		}
	}
	if id != 0 && !there {
		file, err := f.o.FS.OpenFile(f.path(name), os.O_CREATE|os.O_RDWR, filePerm)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	if id == 0 && !changed {
		return nil
	}
	// Also where it was there: a life that was killed before the sync has left it in the page cache only.
	return f.o.FS.SyncDir(f.o.Dir, syncStartDir)
}

// refill takes frames of the front for those that the wal lacks among its last ones.
func (f *files) refill(found []frontFrame) (err error) {
	base := f.next
	for i, x := range f.ext {
		if x.frames > 0 {
			base = f.list[i].base
		}
	}
	for _, p := range found {
		if p.index >= base && p.index < f.next { // only the last file with frames is written anew
			f.spare = append(f.spare, p)
		}
	}
	if f.report.Missing == 0 || len(f.spare) == 0 {
		return nil
	}
	aside := f.report.Aside
	s := scanner{fs: f.o.FS, dir: f.o.Dir, id: f.id, spare: f.spare}
	f.report, f.ext, err = s.run(f.list, f.after, nil)
	f.report.Aside = aside
	return err
}

// follow adds a file to the end of the list, where it is not there yet.
func (f *files) follow(base uint64) {
	if n := len(f.list); n > 0 && f.list[n-1].base == base {
		return
	}
	f.list = append(f.list, walFile{base: base, name: walName(base)})
	f.ext = append(f.ext, extent{})
}

// takeIn writes frames that were in the front only as files of the wal, one for each run of them without a gap. A file's
// name says that the one before is whole, so each is durable before the next is made.
func (f *files) takeIn(pending []frontFrame) error {
	for len(pending) > 0 {
		n := 1
		for n < len(pending) && pending[n].index == pending[n-1].index+1 {
			n++
		}
		if err := f.writeRun(pending[:n]); err != nil {
			return err
		}
		f.follow(pending[0].index)
		pending = pending[n:]
	}
	return nil
}

func (f *files) writeRun(run []frontFrame) error {
	temp, err := f.o.FS.OpenFile(f.path(tempName), os.O_CREATE|os.O_TRUNC|os.O_RDWR, filePerm)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(io.NewOffsetWriter(temp, 0), 64<<10)
	for _, p := range run {
		_, err = out.Write(append(binary.AppendUvarint(nil, uint64(len(p.bytes))), p.bytes...))
		if err != nil {
			break
		}
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = temp.Sync(syncStart)
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := f.o.FS.Rename(f.path(tempName), f.path(walName(run[0].index))); err != nil {
		return err
	}
	return f.o.FS.SyncDir(f.o.Dir, syncStartDir)
}
