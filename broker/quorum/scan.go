package quorum

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/hashicorp/raft"

	"millrace/broker/disk"
)

// segmentMax is how much of one segment file is looked at; the log never makes a larger one.
const segmentMax = segmentSize + entryMax + 16

// segment is one file of the log: its name is the index of its first entry.
type segment struct {
	first uint64
	// starts[i] is the position of the frame of entry first+i.
	starts []uint32
	// size is the end of the last entry.
	size int64
}

func (s *segment) last() uint64 { return s.first + uint64(len(s.starts)) - 1 }

// span is the place of one entry's frame.
func (s *segment) span(index uint64) (from, to int64) {
	i := index - s.first
	if i+1 == uint64(len(s.starts)) {
		return int64(s.starts[i]), s.size
	}
	return int64(s.starts[i]), int64(s.starts[i+1])
}

// scanned is what a log directory holds.
type scanned struct {
	// segments are the files as they will be once cut to their size; only for a log that is whole.
	segments []segment
	// write is the place in segments of the file in which the last write began.
	write int
	// cut maps files to the size they must be cut to.
	cut map[string]int64
	// remove lists files that hold nothing of the log.
	remove []string
	// torn counts bytes behind the last entry: a write nobody confirmed, or zeros.
	torn int64
	// damage lists holes in the log, by the sentence.
	damage []string
	// entries and last say how many whole entries were found and the index of the last one.
	entries int
	last    uint64
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d", first) }

// scanLog reads the log in dir and gives fn every whole entry in order, those behind damage too. Entries up to covered
// are in a snapshot already: what is missing there is no damage. It changes nothing.
func scanLog(fs disk.FS, dir string, covered uint64, fn func(*raft.Log) error) (*scanned, error) {
	files, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sc := &scanned{cut: make(map[string]int64)}
	var firsts []uint64
	for _, f := range files {
		first, err := strconv.ParseUint(f.Name(), 10, 64)
		if len(f.Name()) == 20 && err == nil && first > 0 && f.Type().IsRegular() {
			firsts = append(firsts, first)
			continue
		}
		// The wal's own truncation would leave .START, .END and .TEMP files and finish it at its next start. We never call
		// it, so such a file is foreign, and it would make the wal drop segments.
		if !f.IsDir() {
			sc.remove = append(sc.remove, f.Name())
		}
	}
	slices.Sort(firsts)
	for len(firsts) > 0 {
		torn, err := sc.file(fs, dir, firsts, covered, fn)
		if err != nil {
			return nil, err
		}
		if firsts = firsts[1:]; torn {
			for _, first := range firsts {
				sc.remove = append(sc.remove, segmentName(first))
			}
			break
		}
	}
	return sc, nil
}

// file scans the first of the segment files. torn is true when the log ends in it, whatever the others hold.
func (sc *scanned) file(fs disk.FS, dir string, firsts []uint64, covered uint64, fn func(*raft.Log) error) (torn bool, err error) {
	first, limit := firsts[0], uint64(1<<63-1)
	if len(firsts) > 1 {
		limit = firsts[1] // entries from there on belong to the next file
	}
	name := segmentName(first)
	b, size, err := readFile(fs, filepath.Join(dir, name), segmentMax)
	if err != nil {
		return false, err
	}
	if len(sc.segments) > 0 && first != sc.last+1 || len(sc.segments) == 0 && first > covered+1 {
		if first > covered+1 && sc.entries > 0 {
			if confirmed, err := confirmedLater(fs, dir, b, firsts[1:]); err != nil {
				return false, err
			} else if !confirmed {
				sc.remove = append(sc.remove, name)
				return true, nil
			}
		}
		sc.hole(first, covered)
	}
	seg := segment{first: first}
	want, at := first, 0
	for at < len(b) {
		var l raft.Log
		n, err := nextEntry(b[at:], &l)
		if err != nil || l.Index != want {
			skip := findEntry(b[at:], want)
			if skip < 0 || want >= limit {
				break
			}
			confirmed, err := confirmedLater(fs, dir, b[at+skip:], firsts[1:])
			if err != nil {
				return false, err
			}
			if torn = !confirmed; torn {
				break
			}
			at += skip
			if _, err := nextEntry(b[at:], &l); err != nil || l.Index >= limit {
				break
			}
			sc.hole(l.Index, covered)
			// A file with bytes between its entries cannot be the wal's any more.
			sc.damage = append(sc.damage, fmt.Sprintf("log file %s is damaged before entry %d", name, l.Index))
			want = l.Index
			continue
		}
		if want >= limit {
			break // a failed write left it; its index was given anew in the next file
		}
		if err := fn(&l); err != nil {
			return false, err
		}
		if entryPlace(b[at:]) == 0 {
			sc.write = len(sc.segments)
		}
		seg.starts = append(seg.starts, uint32(at))
		sc.entries++
		sc.last = want
		want++
		at += n
		seg.size = int64(at)
	}
	if len(seg.starts) == 0 {
		sc.last = max(sc.last, first-1)
	}
	if seg.size < size {
		sc.cut[name] = seg.size
		sc.torn += size - seg.size
	}
	sc.segments = append(sc.segments, seg)
	return torn, nil
}

// confirmedLater tells whether what lies behind a hole proves that the hole was once confirmed: an entry that begins a
// write of its own, in b or in one of the later files. Without it the hole lies in the last write, of which a power cut
// may keep any part.
func confirmedLater(fs disk.FS, dir string, b []byte, firsts []uint64) (bool, error) {
	for {
		for at := findEntry(b, 0); at >= 0; at = findEntry(b, 0) {
			if b = b[at:]; entryPlace(b) == 0 {
				return true, nil
			}
			b = b[1:]
		}
		if len(firsts) == 0 {
			return false, nil
		}
		var err error
		if b, _, err = readFile(fs, filepath.Join(dir, segmentName(firsts[0])), segmentMax); err != nil {
			return false, err
		}
		firsts = firsts[1:]
	}
}

// hole notes that the entries before next are missing. Below covered that is what an unfinished removal of the front
// leaves: the files before the hole hold nothing of the log any more.
func (sc *scanned) hole(next, covered uint64) {
	if next <= covered+1 {
		for _, s := range sc.segments {
			sc.remove = append(sc.remove, segmentName(s.first))
			delete(sc.cut, segmentName(s.first))
		}
		sc.segments, sc.write = nil, 0
		return
	}
	sc.damage = append(sc.damage, fmt.Sprintf("log entries %d to %d are missing", max(sc.last, covered)+1, next-1))
}

// short says that the log ends before a snapshot that was made of it.
func (sc *scanned) short(covered uint64) string {
	return fmt.Sprintf("the log ends with entry %d, before the snapshot of entry %d: what came behind that is lost, if there was anything", sc.last, covered)
}

// readFile reads up to limit bytes of a file and tells its size.
func readFile(fs disk.FS, name string, limit int64) (b []byte, size int64, err error) {
	f, err := fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size = st.Size()
	b = make([]byte, min(size, limit))
	n, err := f.ReadAt(b, 0)
	switch {
	case errors.Is(err, syscall.EIO):
		// A bad block reads as zeros: the checksums call it damage, and what lies around it is saved.
		for at := 0; at < len(b); at += 4096 {
			block := b[at:min(at+4096, len(b))]
			if _, err := f.ReadAt(block, int64(at)); err != nil {
				clear(block)
			}
		}
		n = len(b)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, 0, err
	}
	return b[:n], size, nil
}
