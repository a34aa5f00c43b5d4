package quorum

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

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
	for i, first := range firsts {
		limit := uint64(1<<63 - 1) // entries from here on belong to the next file
		if i+1 < len(firsts) {
			limit = firsts[i+1]
		}
		if err := sc.file(fs, dir, first, limit, covered, fn); err != nil {
			return nil, err
		}
	}
	return sc, nil
}

// file scans one segment file.
func (sc *scanned) file(fs disk.FS, dir string, first, limit, covered uint64, fn func(*raft.Log) error) error {
	name := segmentName(first)
	b, size, err := readFile(fs, filepath.Join(dir, name), segmentMax)
	if err != nil {
		return err
	}
	if len(sc.segments) > 0 && first != sc.last+1 || len(sc.segments) == 0 && first > covered+1 {
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
			return err
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
	return nil
}

// hole notes that the entries before next are missing. Below covered that is what an unfinished removal of the front
// leaves: the files before the hole hold nothing of the log any more.
func (sc *scanned) hole(next, covered uint64) {
	if next <= covered+1 {
		for _, s := range sc.segments {
			sc.remove = append(sc.remove, segmentName(s.first))
			delete(sc.cut, segmentName(s.first))
		}
		sc.segments = nil
		return
	}
	sc.damage = append(sc.damage, fmt.Sprintf("log entries %d to %d are missing", max(sc.last, covered)+1, next-1))
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
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return b[:n], size, nil
}
