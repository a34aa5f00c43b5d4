package partition

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// pointedWindow is how much is read of a segment at a time: pointers of one commit lie behind each other.
const pointedWindow = 256 << 10

// pointed reads the bytes that journal entries point at, through one open file and one window. What is written to the
// file meanwhile must be told by forget.
type pointed struct {
	fs   disk.FS
	file disk.File // nil for none
	off  int64     // of buf[0]
	buf  []byte
	// lenient takes what the disk cannot read for lost.
	lenient bool
}

// at is n bytes of the file from off on, fewer where it ends before. They are valid until the next call.
func (r *pointed) at(path string, off, n int64) ([]byte, error) {
	if r.file == nil || r.file.Name() != path {
		if err := r.close(); err != nil {
			return nil, err
		}
		f, err := r.fs.OpenFile(path, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		r.file = f
	}
	if off < r.off || off+n > r.off+int64(len(r.buf)) {
		info, err := r.file.Stat()
		if err != nil {
			return nil, err
		}
		want := max(min(max(n, pointedWindow), info.Size()-off), 0)
		if int64(cap(r.buf)) < want {
			r.buf = make([]byte, want)
		}
		r.buf, r.off = r.buf[:want], off
		got, err := r.file.ReadAt(r.buf, off)
		r.buf = r.buf[:got]
		if err != nil && !errors.Is(err, io.EOF) && !r.lenient {
			r.buf = r.buf[:0]
			return nil, err
		}
	}
	from := off - r.off
	return r.buf[from:min(from+n, int64(len(r.buf)))], nil
}

// forget drops what was read of a file that has changed, or that another one takes the name of.
func (r *pointed) forget(path string) error {
	if r.file == nil || r.file.Name() != path {
		return nil
	}
	return r.close()
}

func (r *pointed) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file, r.buf, r.off = nil, r.buf[:0], 0
	return err
}

// bytesAt is what the segment has where a pointer points, fewer bytes where it ends before.
func (l *log) bytesAt(e *journal.Entry) ([]byte, error) {
	path := filepath.Join(l.p.dir, fmt.Sprintf("%020d%s", e.Segment, segment.LogSuffix))
	return l.r.pointed.at(path, e.Position, int64(e.Length))
}

// holds says whether the segment has exactly the bytes a pointer names. The error is of a disk that cannot say.
func (l *log) holds(e *journal.Entry) (bool, error) {
	raw, err := l.bytesAt(e)
	return err == nil && len(raw) == int(e.Length) && record.Castagnoli(raw) == e.CRC, err
}

// filled says whether fillers take the place that a pointer names: an earlier recovery has told what was lost there.
func (l *log) filled(e *journal.Entry) (bool, error) {
	raw, err := l.bytesAt(e)
	if err != nil || len(raw) < int(e.Length) {
		return false, err
	}
	for next := e.Base; len(raw) > 0; {
		b, rest, err := record.Next(raw)
		if err != nil || b.CheckHeader() != nil || b.BaseOffset() != next || !fills(b) {
			return false, nil
		}
		raw, next = rest, b.NextOffset()
	}
	return true, nil
}

// pointersHold says whether the pointed bytes of the last frame are there. Only that frame can miss them, because
// commits are serial; and without them it never was a commit. A disk that cannot say costs the partition its place, and
// nobody else their records.
func (r *recovery) pointersHold(f journal.Frame) bool {
	gone := make(map[catalog.TopicID]bool)
	for i := range f.Entries {
		if f.Entries[i].Kind == journal.TopicDeleted {
			gone[f.Entries[i].Topic] = true
		}
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if e.Kind != journal.Pointer || r.facts.deleted[e.Topic] || gone[e.Topic] || r.kept(f.Index, e) {
			continue
		}
		l := r.found[key{e.Topic, e.Partition}]
		if l == nil {
			return false
		}
		if holds, err := l.holds(e); err != nil {
			l.giveUp(err)
		} else if !holds {
			return false
		}
	}
	return true
}
