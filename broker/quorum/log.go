package quorum

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/tidwall/wal"

	"millrace/broker/disk"
)

var (
	syncLog    = disk.NewPoint("quorum.log")
	syncLogDir = disk.NewPoint("quorum.log.dir")
)

// segmentSize is the size at which the log begins a new file. The wal keeps the newest file in memory.
const segmentSize = 64 << 10

var errLogClosed = errors.New("raft log closed")

// logStore is raft's log on a tidwall/wal. The wal only appends: it is never asked to read (unsafe with others), to
// truncate (it rewrites files) or to sync (it knows no error but the first). Reading, syncing and dropping go through
// descriptors of our own. Safe for concurrent use.
type logStore struct {
	fs     disk.FS
	dir    string
	logger *slog.Logger
	// ready is asked before entries are stored; failed is told when that did not work.
	ready  func() error
	failed func(error)

	mu sync.Mutex
	// segments are in order and dense; the last one is the wal's tail. Empty: the log has no entry and no file.
	segments []segment
	// acked is the index of the last entry StoreLogs has confirmed. After a failure everything behind it is cut.
	acked uint64
	// wal and tail are nil when there is no file, and while broken.
	wal  *wal.Log
	tail disk.File
	// broken is why the files can no longer be trusted. The next StoreLogs repairs them first.
	broken error
	closed bool
	// keep is the last index a retained snapshot needs the log after: the front up to it may go.
	keep  uint64
	batch wal.Batch
	buf   []byte
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// openLog opens a scanned log that has no damage: cuts what is torn, removes what is foreign and opens the wal.
func openLog(fs disk.FS, dir string, sc *scanned, logger *slog.Logger) (*logStore, error) {
	s := &logStore{fs: fs, dir: dir, logger: logger, segments: sc.segments}
	for _, name := range sc.remove {
		if err := fs.Remove(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	// Else one of them may come back and claim indexes that were given anew meanwhile; and a process that was killed may
	// have made the newest file and not got here.
	if err := fs.SyncDir(dir, syncLogDir); err != nil {
		return nil, err
	}
	if len(s.segments) == 0 {
		return s, nil
	}
	tail := s.segments[len(s.segments)-1]
	s.acked = tail.last()
	for _, g := range s.segments[sc.write:] { // the last write may not be on the disk: see cutFile
		sc.cut[segmentName(g.first)] = g.size
	}
	for name, size := range sc.cut {
		if err := s.cutFile(name, size); err != nil {
			return nil, err
		}
	}
	if tail.size >= segmentSize {
		// The process ended between filling a file and beginning the next: the wal would grow the full one.
		if err := s.begin(s.acked + 1); err != nil {
			return nil, err
		}
	}
	return s, s.openTail()
}

// IsMonotonic tells raft that indexes must be dense.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex is the index of the oldest entry, 0 for an empty log.
func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := s.bounds()
	if first > last {
		return 0, nil
	}
	return first, nil
}

// LastIndex is the index of the newest entry, 0 for an empty log.
func (s *logStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last := s.bounds()
	if first > last {
		return 0, nil
	}
	return last, nil
}

// bounds are the indexes of the first and the last confirmed entry; first > last when there is none.
func (s *logStore) bounds() (first, last uint64) {
	if len(s.segments) == 0 {
		return 1, 0
	}
	return s.segments[0].first, s.acked
}

// GetLog reads one entry and checks it.
func (s *logStore) GetLog(index uint64, l *raft.Log) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errLogClosed
	}
	if first, last := s.bounds(); index < first || index > last {
		return raft.ErrLogNotFound
	}
	at, found := slices.BinarySearchFunc(s.segments, index, func(g segment, index uint64) int {
		switch {
		case g.first > index:
			return 1
		case len(g.starts) == 0 || g.last() < index:
			return -1
		}
		return 0
	})
	if !found {
		return raft.ErrLogNotFound
	}
	g := &s.segments[at]
	f := s.tail
	if at != len(s.segments)-1 || f == nil {
		if f, err = s.fs.OpenFile(s.path(g.first), os.O_RDONLY, 0); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	from, to := g.span(index)
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return fmt.Errorf("log entry %d: %w", index, err)
	}
	if _, err := nextEntry(b, l); err != nil || l.Index != index {
		return fmt.Errorf("log entry %d in %s at %d: %w", index, segmentName(g.first), from, errors.Join(err, errEntry))
	}
	return nil
}

// StoreLog stores one entry.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries; they are durable when it returns nil. After an error none of them is in the log, nor will
// be: the files are cut back to what was confirmed before anything else is stored.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errLogClosed
	}
	if len(logs) == 0 {
		return nil
	}
	for i, l := range logs {
		if n := entrySize(l); n > entryMax {
			return fmt.Errorf("log entry %d has %d bytes, the limit is %d", l.Index, n, entryMax)
		}
		if l.Index != logs[0].Index+uint64(i) || len(s.segments) > 0 && logs[0].Index != s.acked+1 {
			return fmt.Errorf("log entry %d does not follow %d", l.Index, s.acked+uint64(i))
		}
	}
	if s.ready != nil {
		if err := s.ready(); err != nil {
			return err
		}
	}
	if s.broken != nil {
		if err := s.rebuild(s.acked); err != nil {
			s.tell(err)
			return fmt.Errorf("raft log is broken (%w) and not repaired yet: %w", s.broken, err)
		}
		s.logger.Warn("raft log repaired", "last", s.acked, "after", s.broken)
		s.broken = nil
	}
	if err := s.append(logs); err != nil {
		s.breakDown(err)
		return err
	}
	s.acked = logs[len(logs)-1].Index
	return nil
}

// append writes and syncs entries, file by file.
func (s *logStore) append(logs []*raft.Log) error {
	if len(s.segments) == 0 {
		s.acked = logs[0].Index - 1 // first: a repair begins its file behind it
		if err := s.begin(logs[0].Index); err != nil {
			return err
		}
		if err := s.openTail(); err != nil {
			return err
		}
	}
	for i, l := range logs {
		s.buf = appendEntry(s.buf[:0], l, i)
		s.batch.Write(l.Index, s.buf)
		g := &s.segments[len(s.segments)-1]
		g.starts = append(g.starts, uint32(g.size))
		g.size += frameSize(len(s.buf))
		full := g.size >= segmentSize // the wal's own rule: it then begins the next file by itself
		if full || i == len(logs)-1 {
			if err := s.commit(full); err != nil {
				return err
			}
		}
	}
	if cap(s.buf) > segmentSize {
		s.buf, s.batch = nil, wal.Batch{} // one large command must not stay in memory for good
	}
	return nil
}

// commit writes the batch and syncs it; with full the wal has begun the next file.
func (s *logStore) commit(full bool) error {
	if err := s.wal.WriteBatch(&s.batch); err != nil {
		return fmt.Errorf("write raft log: %w", err)
	}
	if err := s.tail.Sync(syncLog); err != nil {
		return err
	}
	if !full {
		return nil
	}
	if err := s.closeTail(); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir, syncLogDir); err != nil {
		return err
	}
	if err := s.wal.ClearCache(); err != nil { // or it keeps the file just filled in memory
		return err
	}
	g := segment{first: s.segments[len(s.segments)-1].last() + 1}
	s.segments = append(s.segments, g)
	tail, err := s.fs.OpenFile(s.path(g.first), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.tail = tail
	return nil
}

// DeleteRange drops entries at the front (compaction: only whole files go, and only what no retained snapshot needs),
// at the back (a conflict with the leader), or all.
func (s *logStore) DeleteRange(from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errLogClosed
	}
	first, last := s.bounds()
	switch {
	case first > last || to < first || from > last:
		return nil
	case from <= first && to >= last:
		return s.reset()
	case to >= last:
		if err := s.rebuild(from - 1); err != nil {
			s.breakDown(err)
			return err
		}
		return nil
	case from <= first:
		return s.dropFront(min(to, s.keep))
	}
	return fmt.Errorf("cannot delete entries %d to %d from the middle of %d to %d", from, to, first, last)
}

// Keep says from which index on the log must stay: the older retained snapshot needs everything after it.
func (s *logStore) Keep(after uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = after
}

// dropFront unlinks whole files that end at or below index, oldest first, never the tail. It needs no sync: a file that
// comes back is dropped again by the next scan.
func (s *logStore) dropFront(index uint64) error {
	n := 0
	var err error
	for err == nil && n < len(s.segments)-1 && s.segments[n].last() <= index {
		if err = s.fs.Remove(s.path(s.segments[n].first)); err == nil {
			n++
		}
	}
	s.segments = slices.Clone(s.segments[n:])
	if err != nil || n == 0 || s.broken != nil {
		return err
	}
	// Opened anew, or the wal would remember every file it ever had.
	if err := errors.Join(s.closeWAL(), s.openTail()); err != nil {
		s.breakDown(err)
		return err
	}
	return nil
}

// reset removes every entry, newest file first, so that a power cut leaves a shorter log and not one with a hole.
func (s *logStore) reset() error {
	if err := s.closeWAL(); err != nil {
		s.breakDown(err)
		return err
	}
	for len(s.segments) > 0 {
		at := len(s.segments) - 1
		if err := s.fs.Remove(s.path(s.segments[at].first)); err != nil {
			s.breakDown(err)
			return err
		}
		s.segments = s.segments[:at]
		if at > 0 {
			s.acked = s.segments[at-1].last()
		}
	}
	s.acked, s.broken = 0, nil
	return s.fs.SyncDir(s.dir, syncLogDir)
}

// rebuild cuts the log behind index and goes on in a new file: what a failed write or sync left in the old one may be in
// the page cache and not on the disk, or the other way round, so nothing is appended to it.
func (s *logStore) rebuild(index uint64) error {
	if err := s.closeWAL(); err != nil {
		return err
	}
	// By the directory, not by our list: the wal may have begun a file we never noted.
	files, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(files) {
		if f.IsDir() || f.Name() <= segmentName(index) { // a directory is somebody's: the scan lets it be as well
			continue
		}
		if err := s.fs.Remove(filepath.Join(s.dir, f.Name())); err != nil {
			return err
		}
	}
	s.segments = slices.DeleteFunc(s.segments, func(g segment) bool { return g.first > index })
	if len(s.segments) > 0 {
		g := &s.segments[len(s.segments)-1]
		if keep := index + 1 - g.first; keep < uint64(len(g.starts)) {
			g.size = int64(g.starts[keep])
			g.starts = g.starts[:keep]
		}
		if err := s.cutFile(segmentName(g.first), g.size); err != nil {
			return err
		}
	}
	s.acked = index
	if err := s.begin(index + 1); err != nil {
		return err
	}
	return s.openTail()
}

// begin makes the empty file whose first entry will have the given index: the wal takes it for its tail.
func (s *logStore) begin(first uint64) error {
	f, err := s.fs.OpenFile(s.path(first), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir, syncLogDir); err != nil {
		return err
	}
	s.segments = append(s.segments, segment{first: first})
	return nil
}

// cutFile makes a file end at size, durably. What stays is written once more: a process that was killed may have left
// it in the page cache only, and after a failed sync the cache calls pages clean that never reached the disk. Nothing may
// be applied, and so be seen, that a power cut could still take back.
func (s *logStore) cutFile(name string, size int64) (err error) {
	f, err := s.fs.OpenFile(filepath.Join(s.dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && size > 0 {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync(syncLog)
}

// openTail opens the wal and our descriptor of its newest file.
func (s *logStore) openTail() (err error) {
	defer func() {
		// The wal indexes slices by what files say; the scan rules that out, and if not, no catalog is worth a crash.
		if p := recover(); p != nil {
			err = fmt.Errorf("open raft log: %v", p)
		}
	}()
	w, err := wal.Open(s.dir, &wal.Options{
		NoSync: true, SegmentSize: segmentSize, SegmentCacheSize: 1, NoCopy: true, AllowEmpty: true,
		DirPerms: 0o750, FilePerms: 0o640,
	})
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	s.wal = w
	g := &s.segments[len(s.segments)-1]
	if last, err := w.LastIndex(); err != nil || last != g.last() {
		return fmt.Errorf("raft log ends at %d, the wal says %d: %w", g.last(), last, errors.Join(err, errEntry))
	}
	s.tail, err = s.fs.OpenFile(s.path(g.first), os.O_RDWR, 0)
	return err
}

// breakDown gives the files up until they are repaired.
func (s *logStore) breakDown(cause error) {
	s.broken = cause
	s.logger.Error("raft log failed", "error", cause)
	if err := s.closeWAL(); err != nil {
		s.logger.Error("raft log failed again while it was closed", "error", err)
	}
	s.batch.Clear()
	s.tell(cause)
}

// tell wakes whoever waits for an election that this failure ends.
func (s *logStore) tell(err error) {
	if s.failed != nil {
		s.failed(err)
	}
}

func (s *logStore) closeTail() error {
	if s.tail == nil {
		return nil
	}
	err := s.tail.Close()
	s.tail = nil
	return err
}

// closeWAL closes the wal and our descriptor; both are gone whatever it returns.
func (s *logStore) closeWAL() error {
	err := s.closeTail()
	if s.wal != nil {
		err = errors.Join(err, s.wal.Close())
		s.wal = nil
	}
	return err
}

// Close closes the files. What StoreLogs confirmed is durable already.
func (s *logStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.closeWAL()
}

func (s *logStore) path(first uint64) string { return filepath.Join(s.dir, segmentName(first)) }

// The positions in a segment are 32-bit.
const _ = uint32(segmentMax)
