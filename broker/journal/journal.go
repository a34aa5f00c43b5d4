// Package journal is the board's one write-ahead log: every acknowledged change of every partition goes through one
// synced frame of it per group commit. It is built on tidwall/wal, which has no checksums, repairs nothing and diverges
// after a failed write; this package gives it frames with a CRC, a repair of its own before every open, and a rule for
// failures. It is the only door to that library besides the controller's log. README.md beside this file has the format.
package journal

import (
	"errors"
	"log/slog"
	"time"

	"millrace/broker/disk"
)

var (
	// ErrWrite is what done gets when the group's commit, or one before it, could not be written or synced. The group is
	// not in the journal and will not come back.
	ErrWrite = errors.New("journal write failed")
	// ErrUnavailable is what done gets while the journal cannot make a new file after a failure. It tries again by itself.
	ErrUnavailable = errors.New("journal unavailable")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("journal closed")
	// ErrFull is what done gets when more is staged than the journal holds; everything staged after it fails too,
	// until the queue has drained.
	ErrFull = errors.New("journal queue full")
	// ErrInvalid is what done gets for a group that cannot be a frame: an entry kind nobody may stage, or more than
	// FrameMax bytes that cannot travel as pointers. What was staged behind it fails too, until the queue has drained.
	ErrInvalid = errors.New("not a journal group")
	// ErrForeign is returned by Open when the frames carry another journal's id than the checkpoint does: a swapped card.
	ErrForeign = errors.New("journal belongs to another board")
	// ErrState is returned when a method is called out of turn: Replay after Start, Start twice, Drop before Start.
	ErrState = errors.New("journal call out of turn")
)

// Limits that are part of the format or of the bargain with the caller.
const (
	// MaxFrame bounds every frame ever written or read, in bytes.
	MaxFrame = 2 << 20
	// MaxQueue bounds the bytes that wait for a commit (of frames and pointed bytes together).
	MaxQueue = 64 << 20
	// MaxGroups bounds the groups that wait for a commit.
	MaxGroups = 1 << 16
)

// Options say where the journal lives and how it commits. Zero values mean the default in brackets.
type Options struct {
	Dir            string        // made when absent
	FS             disk.FS       // every file operation but tidwall/wal's own [disk.OS]
	CommitInterval time.Duration // least time between the starts of two commits; 0: at once
	SegmentBytes   int           // size at which the wal rolls [1 MiB]
	InlineMax      int           // a partition's share of a commit from here on goes as pointers, bytes [64 KiB]
	FrameMax       int           // a frame holds at most this or one group, bytes [1 MiB], at most MaxFrame
	Now            func() time.Time
	After          func(time.Duration) <-chan time.Time // [time.After]
	Logger         *slog.Logger                         // [discard]
}

// Journal is the board's write-ahead log.
type Journal struct{}

// Open finds the journal's valid frames after the mark of the last checkpoint.
func Open(_ Options, _ Mark) (*Journal, error) { return nil, ErrUnavailable }

// Replay passes on the frames after the mark, in order; it may be repeated, before Start.
func (j *Journal) Replay(_ func(Frame) error) (Report, error) { return Report{}, ErrUnavailable }

// Start makes the tail durable and lets commits run.
func (j *Journal) Start() error { return ErrUnavailable }

// Stage queues a group for the next commit.
func (j *Journal) Stage(_ []Entry, done func(error)) { done(ErrUnavailable) }

// Defer has seal called at the start of the next commit.
func (j *Journal) Defer(seal func()) { seal() }

// Mark is the last committed frame.
func (j *Journal) Mark() Mark { return Mark{} }

// Bytes are those committed after the mark last given to Drop.
func (j *Journal) Bytes() (inline, pointed int64) { return 0, 0 }

// Drop unlinks whole wal segments that end at or below m.
func (j *Journal) Drop(_ Mark) error { return ErrUnavailable }

// SetInterval changes the commit interval.
func (j *Journal) SetInterval(_ time.Duration) {}

// Stats are counters since Open.
func (j *Journal) Stats() Stats { return Stats{} }

// Close commits what is staged and ends the committer.
func (j *Journal) Close() error { return nil }

// Scan reads every frame in dir and changes nothing.
func Scan(_ disk.FS, _ string, _ func(FrameInfo) error) (Report, error) { return Report{}, ErrUnavailable }
