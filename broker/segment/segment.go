package segment

import (
	"millrace/broker/disk"
	"millrace/broker/record"
)

// Config is what the segments of a partition have in common.
type Config struct {
	// IndexIntervalBytes is the least distance between two index entries, index.interval.bytes. 0 is 4096.
	IndexIntervalBytes int
	// Handles bounds the open files. nil gives the segment three of its own.
	Handles *Handles
	// Sparse admits holes between the offsets of neighbouring batches. Without it each batch must start where the
	// last one ended, which is how a wrong base offset, outside the CRC, is found out; the cleaner and whoever skips
	// damage leave a record.Filler in a hole.
	Sparse bool
	// EpochAt is the leader epoch that gave an offset, ok false when it is not known. Batches that say otherwise are
	// damaged: the epoch is outside the CRC too. nil only demands that epochs never fall.
	EpochAt func(offset int64) (epoch int32, ok bool)
}

// Segment is one log segment. All methods are safe for concurrent use, but whoever appends, replays or truncates is
// one at a time. An idle one holds no file and no memory worth counting.
type Segment struct{}

// Create makes an empty segment; an older log of the name is emptied.
func Create(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) { panic("skeleton") }

// Open opens a segment.
func Open(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) { panic("skeleton") }

func (s *Segment) Base() int64                                       { panic("skeleton") }
func (s *Segment) Size() int64                                       { panic("skeleton") }
func (s *Segment) Path() string                                      { panic("skeleton") }
func (s *Segment) Append(batches []byte) (position int64, err error) { panic("skeleton") }
func (s *Segment) WriteAt(position int64, batches []byte) error      { panic("skeleton") }
func (s *Segment) Truncate(position int64) error                     { panic("skeleton") }
func (s *Segment) Scan(from int64, fn func(b record.Batch, position int64) error) (valid int64, err error) {
	panic("skeleton")
}

// Read may return a *DamageError (errors.Is ErrDamaged).
func (s *Segment) Read(offset, limit int64, maxBytes int) (Span, error) { panic("skeleton") }

// Next is where the first valid batch after a damage lies: for recovery after Scan stopped early.
func (s *Segment) Resync(position, limit int64) (*DamageError, error)      { panic("skeleton") }
func (s *Segment) Verify(from int64, maxBytes int) (next int64, err error) { panic("skeleton") }
func (s *Segment) Position(offset int64) (position int64, err error)       { panic("skeleton") }
func (s *Segment) OffsetForTime(ms, limit int64) (offset, ts int64, ok bool, err error) {
	panic("skeleton")
}
func (s *Segment) MaxTimestamp() (ts, offset int64, err error) { panic("skeleton") }
func (s *Segment) Sync() error                                 { panic("skeleton") }
func (s *Segment) Seal() error                                 { panic("skeleton") }
func (s *Segment) Close() error                                { panic("skeleton") }
func (s *Segment) Remove() error                               { panic("skeleton") }

type Span struct{}

func (s Span) Len() int                               { panic("skeleton") }
func (s Span) Append(dst []byte) ([]byte, error)      { panic("skeleton") }
func (s Span) File() (fd uintptr, pos int64, ok bool) { panic("skeleton") }
func (s Span) Release()                               { panic("skeleton") }

type Handles struct{}

// NewHandles bounds the open files of all segments that share it to limit.
func NewHandles(fs disk.FS, limit int) *Handles { panic("skeleton") }
func (h *Handles) Close() error                 { panic("skeleton") }
