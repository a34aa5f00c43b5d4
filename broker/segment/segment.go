package segment

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"millrace/broker/disk"
	"millrace/broker/record"
)

var (
	// ErrFull is returned by Append, Put and Adopt when the bytes would pass Kafka's 2 GiB, or the offsets 2^31 from the
	// segment's base. The caller rolls.
	ErrFull = errors.New("segment is full")
	// ErrOrder is returned by Append, Put and Adopt for batches that do not go on where the log, or the one before, ends.
	ErrOrder = errors.New("batch out of order")
	// ErrPosition is returned for a position behind the end of the log.
	ErrPosition = errors.New("position is behind the segment's end")
	// ErrUnsynced is returned by Sync after a sync has failed, until every byte it was to cover is written again.
	ErrUnsynced = errors.New("an earlier sync failed")
)

var (
	syncLog = disk.NewPoint("segment.log")
	syncDir = disk.NewPoint("segment.dir")
)

// Config is what the segments of a partition have in common.
type Config struct {
	// IndexIntervalBytes is the least distance between two index entries, index.interval.bytes. 0 is 4096.
	IndexIntervalBytes int
	// Handles bounds the open files. nil gives the segment three of its own.
	Handles *Handles
	// Sparse admits holes between the offsets of neighbouring batches. Without it each batch must start where the
	// last one ended, which is how a wrong base offset, outside the CRC, is found out; the cleaner stretches a batch
	// over a hole, or leaves a record.Filler in it, as whoever skips damage does.
	Sparse bool
	// EpochAt is the leader epoch that gave an offset, ok false when it is not known. Batches that say otherwise are
	// damaged: the epoch is outside the CRC too. nil only demands that epochs never fall.
	EpochAt func(offset int64) (epoch int32, ok bool)
	// TopicsFailed is told, once, when the disk refuses a segment's topic index: it grows no more until the segment is opened
	// or cut again. It is quick, and called with locks held. nil tells nobody.
	TopicsFailed func(error)
}

// Segment is one log segment. All methods are safe for concurrent use; those that change it wait for each other. An
// idle one holds no open file for long and a few hundred bytes of memory.
type Segment struct {
	fs      disk.FS
	dir     string
	base    int64
	cfg     Config
	handles *Handles
	files   [kinds]*handle // guarded by handles.mu
	closed  bool           // guarded by handles.mu

	naming sync.RWMutex // held while a file is opened by its name, and while names change
	stage  atomic.Int32 // which names the files have
	alone  bool         // a cleaned one: those whose place it takes are unlinked; owned by who calls Replace

	write sync.Mutex // held by whoever changes the log or the indexes; taken before mu
	// indexEnd is a position from which on the index files have no entries. Guarded by write.
	indexEnd int64
	topics   *topicIndex // nil where the next batch has to look what the file has; guarded by write and mu
	syncing  sync.Mutex  // one Sync at a time; taken before mu

	mu sync.Mutex // guards what follows
	// size is the end of the log: every byte below it was appended, or lay there when it was opened.
	size int64
	// physical is the length of the file. Replay may leave it behind size; an append cuts it first.
	//
	// Invariant: size <= physical.
	physical int64
	// next is the offset after the last batch, -1 when it is not known.
	next int64
	// [0, prefix) and [tail, size) have been checked since the segment was opened, or were appended since.
	//
	// Invariant: 0 <= prefix <= tail <= size, or both are size.
	prefix, tail int64
	indexed      bool // index is true, and the index files reach up to size
	index        indexState
	damages      []*DamageError
	hints        [hintsKept]hint
	hintAt       uint8 // the slot the next new reader takes
	// unsynced is the lowest byte written since the last sync began, -1 for none.
	unsynced int64
	// suspect is the lowest byte a failed sync left in doubt, -1 for none: the page cache shows it, the disk may not
	// have it, and only writing it again helps.
	suspect int64
	named   bool // the directory entry is durable
	// allocated is up to where the disk keeps space for the log, 0 when that is not known.
	allocated int64
}

func newSegment(fs disk.FS, dir string, base int64, cfg Config) *Segment {
	h := cfg.Handles
	if h == nil {
		h = NewHandles(fs, int(kinds))
	}
	return &Segment{
		fs: fs, dir: dir, base: base, cfg: cfg, handles: h, next: base, index: emptyIndex(base), unsynced: -1, suspect: -1,
		indexEnd: math.MaxInt64,
	}
}

// Create makes an empty segment whose first offset will be base. Files of the same name are emptied. The file is
// durable with the first Sync.
func Create(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) {
	s := newSegment(fs, dir, base, cfg)
	if err := s.create(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Segment) create() error {
	for k := range kinds {
		if k == kindLog {
			continue
		}
		if err := s.fs.Remove(s.path(k)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := s.handles.acquire(s, kindLog, true)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	if err := f.file.Truncate(0); err != nil {
		return err
	}
	s.indexed = true
	return nil
}

// Open opens a segment. It looks at the log's size and nothing else.
func Open(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) {
	s := newSegment(fs, dir, base, cfg)
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Segment) open() error {
	info, err := s.fs.Stat(s.Path())
	if err != nil {
		return err
	}
	s.size, s.physical, s.tail = info.Size(), info.Size(), info.Size()
	s.next = -1
	return nil
}

// End is the offset after the last batch, -1 where that is not known.
func (s *Segment) End() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Base is the offset in the segment's name: no record in it is below.
func (s *Segment) Base() int64 { return s.base }

// Size is the end of the log in bytes.
func (s *Segment) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// Path is the log file's.
func (s *Segment) Path() string { return s.path(kindLog) }

func (s *Segment) path(k kind) string {
	return filepath.Join(s.dir, fileName(s.base, suffixes[k]+stages[s.stage.Load()][k]))
}

// Append writes whole stamped batches at the end of the log, and index entries where they are due. Nothing is synced.
// position is where they lie. After an error the log ends where it did. It returns ErrFull and ErrOrder before it
// writes anything. Checksums are the caller's to check.
func (s *Segment) Append(batches []byte) (position int64, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.loadLocked(); err != nil {
		return 0, err
	}
	if err := s.cutRest(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	position, next, state := s.size, s.next, s.index
	s.mu.Unlock()
	w := s.openEntryWriter(state)
	defer w.close()
	next, err = s.walkNew(batches, position, next, w)
	if err == nil {
		err = s.writeLog(position, batches)
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		s.noteTopics(position, batches)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.indexed = false
		return 0, err
	}
	s.index, s.next = w.state, next
	s.size = position + int64(len(batches))
	s.physical = s.size
	if s.prefix == position { // all of it was checked, and what is new came from memory
		s.prefix, s.tail = s.size, s.size
	}
	return position, nil
}

// walkNew compares batches with what the log's end allows and hands them to w, when there is one, for the indexes.
// next is the offset after them; the given one is where they must start, -1 when that is not known.
func (s *Segment) walkNew(batches []byte, position, next int64, w *entryWriter) (int64, error) {
	if position+int64(len(batches)) > math.MaxInt32 {
		return 0, fmt.Errorf("%s: %w: %d bytes at %d", s.Path(), ErrFull, len(batches), position)
	}
	for rest := batches; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err == nil {
			err = b.CheckHeader()
		}
		if err != nil {
			return 0, fmt.Errorf("%s: append: %w", s.Path(), err)
		}
		base := b.BaseOffset()
		switch {
		case base < s.base || next >= 0 && (base < next || base > next && !s.cfg.Sparse):
			return 0, fmt.Errorf("%s: %w: base offset %d, want %d", s.Path(), ErrOrder, base, max(next, s.base))
		case b.LastOffset()-s.base > maxRelative:
			return 0, fmt.Errorf("%s: %w: last offset %d", s.Path(), ErrFull, b.LastOffset())
		}
		next = b.NextOffset()
		if w != nil {
			at := position + int64(len(batches)-len(rest))
			if err := w.add(header{pos: at, size: int64(len(b)), base: base, next: next, maxTS: b.MaxTimestamp()}); err != nil {
				return 0, err
			}
		}
		rest = after
	}
	return next, nil
}

// writeLog writes p at position and notes that a sync is due.
func (s *Segment) writeLog(position int64, p []byte) error {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	_, err = f.file.WriteAt(p, position)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote(f, position)
	// Also where it failed, or where the indexes do after it: what is there has to be cut off again.
	s.physical = max(s.physical, position+int64(len(p)))
	if err != nil {
		return err
	}
	if s.suspect >= 0 && position <= s.suspect {
		s.suspect = max(s.suspect, position+int64(len(p)))
	}
	return nil
}

// cutRest cuts what replay left behind the end of the log. write is held.
func (s *Segment) cutRest() error {
	s.mu.Lock()
	size, physical := s.size, s.physical
	s.mu.Unlock()
	if physical <= size {
		return nil
	}
	return s.cutLog(size)
}

// cutLog makes the log file size bytes long. write is held.
func (s *Segment) cutLog(size int64) error {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	err = f.file.Truncate(size)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote(f, size)
	if err != nil {
		return err
	}
	s.physical = size
	s.allocated = 0
	return nil
}

// wrote notes that the log has changed from position on and waits for a sync. It comes after the change: a sync that
// sees the note covers it, and one that does not leaves it. mu is held.
func (s *Segment) wrote(f *handle, position int64) {
	if s.unsynced < 0 || position < s.unsynced {
		s.unsynced = position
	}
	s.handles.wrote(f)
}

// Seal ends a segment at its roll: the last time index entry goes in, as in Kafka.
func (s *Segment) Seal() error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.loadLocked(); err != nil {
		return err
	}
	if err := s.cutRest(); err != nil {
		return err
	}
	s.mu.Lock()
	state := s.index
	s.mu.Unlock()
	w := s.openEntryWriter(state)
	defer w.close()
	w.addTime()
	err := w.flush()
	s.sealTopics()
	if err == nil {
		err = s.giveBack()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.indexed = false
		return err
	}
	s.index = w.state
	return nil
}

// Close lets the files go. Nothing is synced. Spans stay readable until they are released.
func (s *Segment) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.handles.closeSegment(s)
	return nil
}

// Remove closes the segment and unlinks its files, the log last, so that what is left of a removal cut short still
// is a segment. Spans stay readable until they are released.
func (s *Segment) Remove() error {
	if err := s.Close(); err != nil {
		return err
	}
	for _, k := range inOrder {
		if err := s.fs.Remove(s.path(k)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
