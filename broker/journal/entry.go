package journal

// Kind says what one entry does to a partition. The numbers are on disk.
type Kind uint8

// The kinds of entry.
const (
	Append       Kind = 1 // batches, inside the frame
	Pointer      Kind = 2 // batches that lie in their segment only; the frame carries their CRC
	Truncate     Kind = 3 // the log ends at Base, byte Position of Segment
	StartMoved   Kind = 4 // the log starts at Base; earlier entries for segments below Segment hold no more
	TopicCreated Kind = 5 // Bytes is the name, Base the number of partitions
	TopicDeleted Kind = 6
)

// String is the kind's name as dump and log lines print it.
func (k Kind) String() string {
	switch k {
	case Append:
		return "append"
	case Pointer:
		return "pointer"
	case Truncate:
		return "truncate"
	case StartMoved:
		return "start-moved"
	case TopicCreated:
		return "topic-created"
	case TopicDeleted:
		return "topic-deleted"
	default:
		return "unknown"
	}
}

// Entry is one change to one partition. What is handed to Stage is Append or one of the kinds after Pointer; the
// journal decides by itself which appends travel as pointers.
type Entry struct {
	Kind      Kind
	Topic     [16]byte // topic id
	Partition int32
	Segment   int64 // base offset of the segment the bytes lie in
	Position  int64 // byte position in that segment
	Base      int64 // append: offset of the first record; truncate: new end; start moved: new start; topic created: partition count
	Length    int32 // bytes in the segment; of an append always len(Bytes); start moved: why, a segment.Cause

	// Bytes are the batches of an append, already written (not synced) to the segment at Position, or the name of a
	// created topic. Staged bytes are borrowed until done; replayed bytes are valid only inside the callback.
	Bytes []byte

	// CRC is the CRC32C of a pointer's bytes. The journal finds it out; what the caller sets is ignored.
	CRC uint32

	// Sum, where it is set, tells the CRC32C of Bytes for less than computing it. The journal calls it, from the committer,
	// when the entry goes as a pointer.
	Sum func() uint32

	// Sync makes the segment's bytes durable. The journal calls it from a goroutine of its own, side by side with its
	// own sync, once per segment and commit, and only when the partition's share of the commit goes as pointers.
	// An append without Sync always travels inline.
	Sync func() error
}

// Frame is one replayed commit.
type Frame struct {
	Index   uint64  // wal index, dense but for damage
	Entries []Entry // in staging order; valid until the callback returns
	Last    bool    // nothing valid follows: only this frame's pointers may be torn, commits being serial
}

// Mark is a place in the journal, as a checkpoint records it: everything up to and including Index is elsewhere.
type Mark struct {
	ID    uint64 // journal id; 0: no checkpoint
	Index uint64 // wal index; 0: before the first frame
}

// Gap is a range of frames, both ends included, that must have existed and cannot be read.
type Gap struct{ From, To uint64 }

// Report says what a pass over the journal's files found.
type Report struct {
	ID           uint64 // journal id of the frames, 0 when there are none
	First, Last  uint64 // wal indexes of the first and last valid frame passed on, 0 when there are none
	Frames       int64
	Fronted      int64 // of them, how many were in the front only
	Entries      int64
	Bytes        int64    // in valid frames
	ZeroBytes    int64    // zeros after the last valid frame: the space filled ahead
	OldBytes     int64    // after the last valid frame of a file that was used again: what it held before
	TornBytes    int64    // other bytes after the last valid frame: a commit that was never acknowledged
	DamagedBytes int64    // unreadable bytes with valid frames after them: bit rot
	Missing      uint64   // frames lost to damage: the sum of all gaps
	Gaps         []Gap    // the first of them, at most maxGaps
	Aside        []string // names in the directory that are not the journal's (left by other tools, or set aside)
}

// FrameInfo is one frame as Scan finds it.
type FrameInfo struct {
	Frame
	ID     uint64 // journal id
	File   string // name of the wal segment in the directory
	Offset int64  // of the frame (after the wal's length prefix) in that file
	Size   int    // of the frame in bytes, as it lies there
	Packed bool   // its entries are packed

	bytes []byte // of a frame that is not in the file
}
