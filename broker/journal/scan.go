package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"millrace/broker/disk"
)

// maxGaps bounds Report.Gaps; Report.Missing counts all.
const maxGaps = 256

// walFile is one segment of the wal: a file named by the index of its first entry, as %020d.
type walFile struct {
	base   uint64
	name   string
	rolled int64 // its size when the wal went on in the next file; 0 when it did not, or in another life
}

func walName(index uint64) string { return fmt.Sprintf("%020d", index) }

// extent is what a pass learned about one file.
type extent struct {
	end    int64  // of the last valid frame
	frames int64  // valid ones, replayed or not
	last   uint64 // index of the last valid frame, 0 when there is none
	clean  bool   // the file is whole frames up to end, without a bad byte between
}

// Scan passes every valid frame in dir to fn, in order, and changes nothing; a checkpoint's mark plays no part. The
// FrameInfo's entries are valid inside the call. An error of fn ends the pass and is returned. A directory that does
// not exist is fs.ErrNotExist. A journal may be scanned while a broker writes it; the last frames may then be missing.
func Scan(fsys disk.FS, dir string, fn func(FrameInfo) error) (Report, error) {
	list, aside, err := listWAL(fsys, dir)
	if err != nil {
		return Report{}, fmt.Errorf("scan journal %s: %w", dir, err)
	}
	s := scanner{fs: fsys, dir: dir}
	if s.id, err = s.discover(list, 0); err != nil {
		return Report{}, fmt.Errorf("scan journal %s: %w", dir, err)
	}
	r, _, err := s.run(list, 0, nil) // first without fn, to know which frame is the last
	if err == nil && fn != nil {
		last := r.Last
		r, _, err = s.run(list, 0, func(f FrameInfo) error {
			f.Last = f.Index == last
			return fn(f)
		})
	}
	r.Aside = aside
	if err != nil {
		return r, fmt.Errorf("scan journal %s: %w", dir, err)
	}
	return r, nil
}

// listWAL returns the wal's segments by index and the names that are not the journal's.
func listWAL(fsys disk.FS, dir string) (list []walFile, aside []string, err error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range names {
		name := d.Name()
		if name == tempName || strings.HasPrefix(name, sparePrefix) || strings.HasPrefix(name, markPrefix) {
			continue
		}
		base, err := strconv.ParseUint(name, 10, 64)
		if err != nil || len(name) != 20 || base == 0 || base >= maxIndex || !d.Type().IsRegular() {
			aside = append(aside, name)
			continue
		}
		list = append(list, walFile{base: base, name: name}) // ReadDir sorts, and equal widths sort as numbers
	}
	return list, aside, nil
}

// scanner makes passes over the wal's files in bounded memory.
type scanner struct {
	fs     disk.FS
	dir    string
	id     uint64 // frames of another journal are not frames
	win    window
	dec    decoder
	spare  []frontFrame // by index: a front has them, should they be missing here
	filler decoder      // of those
	budget int64        // CRC bytes that may still be spent on candidates in this file
}

// run passes the frames above after to fn (which may be nil). A frame counts only when its CRC, its id and its place
// are right: indexes rise, and stay below the first index of the next file, because that file's existence proves where
// this one was left. For the same reason a frame that is missing below an existing file is damage, never a torn tail.
func (s *scanner) run(list []walFile, after uint64, fn func(FrameInfo) error) (r Report, ext []extent, err error) {
	if len(list) == 0 {
		return r, nil, nil
	}
	next := list[0].base
	if after > 0 && after+1 < next {
		next = after + 1 // what the checkpoint does not cover and no file holds is missing
	}
	for i, f := range list {
		r.gap(next, f.base, after)
		next = max(next, f.base)
		limit := uint64(maxIndex)
		if i+1 < len(list) {
			limit = list[i+1].base
		}
		x, err := s.file(f, &next, limit, after, fn, &r)
		ext = append(ext, x)
		if err != nil {
			return r, ext, err
		}
	}
	return r, ext, nil
}

// gap notes that the frames from next up to but not including found are missing.
func (r *Report) gap(next, found, after uint64) {
	from := max(next, after+1)
	if from >= found {
		return
	}
	r.Missing += found - from
	if len(r.Gaps) < maxGaps {
		r.Gaps = append(r.Gaps, Gap{from, found - 1})
	}
}

// file reads one file; *next is the next index expected, limit the first that cannot be in it.
func (s *scanner) file(f walFile, next *uint64, limit, after uint64, fn func(FrameInfo) error, r *Report) (x extent, err error) {
	path := filepath.Join(s.dir, f.name)
	file, err := s.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return x, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := s.win.reset(file); err != nil {
		return x, err
	}
	x.clean = true
	s.budget = 16*s.win.size + MaxFrame
	for pos := int64(0); pos < s.win.size; {
		at, frame, err := s.frameAt(pos, *next, limit)
		if err != nil {
			return x, err
		}
		if frame == nil {
			if at, frame, err = s.resync(pos, *next, limit); err != nil {
				return x, err
			}
			if frame == nil {
				return x, s.tail(pos, *next, limit, r)
			}
			x.clean = false
			r.DamagedBytes += at - pos
		}
		h := parseHeader(frame)
		if err := s.fill(f, next, h.index, after, fn, r); err != nil {
			return x, err
		}
		r.gap(*next, h.index, after)
		*next = h.index + 1
		pos = at + int64(len(frame))
		x.end, x.last = pos, h.index
		x.frames++
		if h.index <= after {
			continue
		}
		r.count(frame)
		if fn != nil {
			if err := fn(FrameInfo{
				Frame: Frame{Index: h.index, Entries: s.dec.entries},
				ID:    h.id, File: f.name, Offset: at, Size: len(frame), Packed: h.packed,
			}); err != nil {
				return x, err
			}
		}
	}
	return x, nil
}

// fill passes the spare frames on that are missing before found: of a drain that a power cut tore, any frame may be whole.
func (s *scanner) fill(f walFile, next *uint64, found, after uint64, fn func(FrameInfo) error, r *Report) error {
	for _, p := range s.spare {
		if p.index < *next || p.index >= found || p.index <= after || !s.filler.check(p.bytes) {
			continue
		}
		r.gap(*next, p.index, after)
		*next = p.index + 1
		r.count(p.bytes)
		r.Fronted++
		if fn == nil {
			continue
		}
		if err := fn(FrameInfo{
			Frame: Frame{Index: p.index, Entries: s.filler.entries}, ID: s.id, File: f.name, Offset: -1, Size: len(p.bytes), bytes: p.bytes,
		}); err != nil {
			return err
		}
	}
	return nil
}

// count adds a frame that is passed on.
func (r *Report) count(frame []byte) {
	h := parseHeader(frame)
	if r.First == 0 {
		r.First = h.index
	}
	r.ID, r.Last = h.id, h.index
	r.Frames++
	r.Entries += int64(h.count)
	r.Bytes += int64(len(frame))
}

// frameAt returns the frame whose wal entry begins at pos, nil when there is none that counts.
func (s *scanner) frameAt(pos int64, next, limit uint64) (at int64, frame []byte, err error) {
	p, err := s.win.at(pos, binary.MaxVarintLen64+headerSize)
	if err != nil {
		return 0, nil, err
	}
	n, ok := lengths(p)
	if !ok {
		return 0, nil, nil
	}
	return s.candidate(pos+int64(n), next, limit)
}

// lengths tells whether the wal's length at the beginning of p and the one in the header behind it can be a frame's and
// agree, and how many bytes the first one takes.
func lengths(p []byte) (prefix int, ok bool) {
	size, n := binary.Uvarint(p)
	if n <= 0 || size < headerSize || size > MaxFrame || len(p)-n < headerSize {
		return 0, false
	}
	return n, uint64(parseHeader(p[n:]).length) == size
}

// candidate returns the frame at exactly at, nil when there is none that counts.
func (s *scanner) candidate(at int64, next, limit uint64) (int64, []byte, error) {
	p, err := s.win.at(at, headerSize)
	if err != nil || len(p) < headerSize {
		return 0, nil, err
	}
	h := parseHeader(p)
	if !h.sane() || (s.id != 0 && h.id != s.id) || h.index < next || h.index >= limit ||
		int64(h.length) > s.win.size-at || s.budget < 0 {
		return 0, nil, nil
	}
	s.budget -= int64(h.length)
	if p, err = s.win.at(at, int(h.length)); err != nil {
		return 0, nil, err
	}
	if !s.dec.check(p) {
		return 0, nil, nil
	}
	return at, p, nil
}

// resync looks for the next frame after a bad byte at pos by the journal id in its header. The wal's own length prefix
// is not asked for: a flipped bit there must not cost the frame.
func (s *scanner) resync(pos int64, next, limit uint64) (at int64, frame []byte, err error) {
	for from := pos; ; from = at + 1 {
		var index uint64
		if at, index, err = s.header(from); err != nil || at < 0 {
			return 0, nil, err
		}
		if index < next || index >= limit { // so are the frames of a file's former life: not worth a look
			continue
		}
		got, frame, err := s.candidate(at, next, limit)
		if err != nil || frame != nil {
			return got, frame, err
		}
	}
}

// header returns where the first header of this journal at or behind from begins, and the index it bears; -1 when there
// is none. Nothing but the id says that it is a header.
func (s *scanner) header(from int64) (at int64, index uint64, err error) {
	const indexAt, idAt = 8, 16
	if s.id == 0 {
		return -1, 0, nil
	}
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], s.id)
	for from < s.win.size {
		p, err := s.win.rest(from, headerSize)
		if err != nil || len(p) < headerSize {
			return -1, 0, err
		}
		if i := bytes.Index(p[idAt:], id[:]); i >= 0 {
			return from + int64(i), binary.LittleEndian.Uint64(p[i+indexAt:]), nil
		}
		from += int64(len(p) - idAt - len(id) + 1)
	}
	return -1, 0, nil
}

// tail counts the bytes from pos to the end of the file, among which no frame was found.
func (s *scanner) tail(pos int64, next, limit uint64, r *Report) error {
	end, begun, err := s.former(pos, next)
	if err != nil {
		return err
	}
	r.OldBytes += s.win.size - end
	bad := pos // end of the last byte that is not zero
	for off := pos; off < end; {
		p, err := s.win.at(off, int(min(windowSize, end-off)))
		if err != nil {
			return err
		}
		if len(p) == 0 {
			break
		}
		if rest := bytes.TrimRight(p, "\x00"); len(rest) > 0 {
			bad = off + int64(len(rest))
		}
		off += int64(len(p))
	}
	isLast := limit == maxIndex
	switch {
	case !isLast && next != limit: // something is missing before the next file
		r.DamagedBytes += bad - pos
	case begun || isLast && end == s.win.size:
		r.TornBytes += bad - pos
	default: // what is left of the old frame that the last new one ends in
		r.OldBytes += bad - pos
	}
	r.ZeroBytes += end - bad
	return nil
}

// former returns where the frames of a file's former life begin behind pos, the file's size when there are none, and
// whether there are signs of another frame before: a header of this journal, or two lengths at pos that agree.
func (s *scanner) former(pos int64, next uint64) (at int64, begun bool, err error) {
	p, err := s.win.at(pos, binary.MaxVarintLen64+headerSize)
	if err != nil {
		return 0, false, err
	}
	_, begun = lengths(p)
	for from := pos; ; from = at + 1 {
		var index uint64
		if at, index, err = s.header(from); err != nil || at < 0 {
			return s.win.size, begun, err
		}
		if index < next {
			_, frame, err := s.candidate(at, 1, next)
			if err != nil || frame != nil {
				return at, begun, err
			}
		}
		begun = true
	}
}

// discover returns the journal id of the first valid frame that is not of journal not, 0 when there is none.
func (s *scanner) discover(list []walFile, not uint64) (id uint64, err error) {
	s.id = 0
	for _, f := range list {
		if id, err = s.idIn(f, not); err != nil || id != 0 {
			return id, err
		}
	}
	return 0, nil
}

// idIn tries every byte of the file as the beginning of a wal entry whose two lengths agree: without an id to search
// for, that is the filter which makes it cheap.
func (s *scanner) idIn(f walFile, not uint64) (id uint64, err error) {
	file, err := s.fs.OpenFile(filepath.Join(s.dir, f.name), os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := s.win.reset(file); err != nil {
		return 0, err
	}
	s.budget = 16*s.win.size + MaxFrame
	for pos := int64(0); pos < s.win.size; pos++ {
		_, frame, err := s.frameAt(pos, 1, math.MaxUint64)
		if err != nil {
			return 0, err
		}
		if frame != nil {
			if id := parseHeader(frame).id; id != not {
				return id, nil
			}
			pos += int64(len(frame)) - 1
		}
	}
	return 0, nil
}
