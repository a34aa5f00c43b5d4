// Package journal is the board's one write-ahead log: every acknowledged change of every partition goes through one
// synced frame of it per group commit. It is built on tidwall/wal, which has no checksums, repairs nothing and diverges
// after a failed write; this package gives it frames with a CRC, a repair of its own before every open, and a rule for
// failures. It is the only door to that library besides the controller's log. README.md beside this file has the format.
package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/disk"
)

var (
	// ErrWrite is what done gets when the group's commit, or one before it, could not be written or synced. The group is
	// not in the journal and will not come back.
	ErrWrite = errors.New("journal write failed")
	// ErrUnavailable is what done gets while the journal cannot make a new file after a failure, and for a commit that
	// failed in the front and then in the file: the group may come back after a crash, if nothing came after it. It tries
	// again by itself.
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
	// ErrFront is returned by Open when frames may have been acknowledged from a front that is not there, that cannot be
	// read, or that is another journal's. Options.ForgetFront goes on without them.
	ErrFront = errors.New("journal front does not fit the journal")
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
	PackMin        int           // the entries of frames from here on are packed where that saves, bytes [512]
	Front          Front         // small commits are acknowledged from it [nil: none]
	FrontError     error         // why there is no Front where there should be one
	ForgetFront    bool          // Open gives up what is in a front it would refuse
	FrontInterval  time.Duration // what the front holds goes to the wal no later than this [10 s]
	Now            func() time.Time
	After          func(time.Duration) <-chan time.Time // [time.After]
	Logger         *slog.Logger                         // [discard]
}

// Journal is the board's write-ahead log. Open, then Replay as often as wanted, then Start; after that Stage, Defer,
// Mark, Bytes, Drop, SetInterval and Stats are safe for concurrent use.
type Journal struct {
	o  Options
	id uint64

	mu        sync.Mutex
	queue     []staged // in staging order
	queued    int      // bytes in queue
	seals     []func()
	rejecting error // set while groups are refused until the queue has drained
	interval  time.Duration
	started   bool // Start succeeded, or is under way
	closing   bool // no more commits after those staged
	ended     bool // the committer has ended, or never was
	late      bool // after that: a goroutine answers what is staged still

	spareSeals []func() // the other buffer of seals

	drains     []chan error  // who waits for the front to be drained
	frontFirst atomic.Uint64 // index of the first frame that is in the front and not in the wal, 0 for none

	wake    chan struct{} // capacity 1: the committer should look again
	stopped chan struct{} // closed when the committer has ended

	c     committer
	files files
	tally tally
	stats counters
	last  atomic.Uint64 // index of the last committed frame
}

// staged is one group that waits for its commit.
type staged struct {
	entries []Entry
	done    func(error)
	bytes   int
	fixed   int   // frame bytes when everything that can goes as a pointer
	refused error // set when the group may not be committed
}

// Open makes the directory when it is absent, sets aside what does not belong in it, and finds the journal's valid
// frames after the mark of the last checkpoint (Mark{} when there is none). It changes no frame; nothing may be staged
// for good until Start. An empty journal goes on at after.Index+1.
func Open(o Options, after Mark) (*Journal, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	j := &Journal{
		o: o, interval: o.CommitInterval,
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	if err := j.files.open(&j.o, after); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", o.Dir, err)
	}
	if err := j.openFront(); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", o.Dir, err)
	}
	j.id = j.files.id
	j.last.Store(j.files.next - 1)
	j.tally.add(j.files.report.Last, j.files.report.Bytes, 0) // the next checkpoint is nearer by what is replayed
	j.c.share = make(map[shareKey]int)
	j.c.seen = make(map[segmentKey]struct{})
	j.c.tail = tail{files: &j.files, stats: &j.stats, open: openWAL}
	return j, nil
}

func (o *Options) fill() error {
	if o.FS == nil {
		o.FS = disk.OS{}
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 1 << 20
	}
	if o.InlineMax == 0 {
		o.InlineMax = 64 << 10
	}
	if o.FrameMax == 0 {
		o.FrameMax = 1 << 20
	}
	if o.PackMin == 0 {
		o.PackMin = 512 // below it neither the blocks written nor the zeros ahead would be fewer
	}
	if o.FrontInterval == 0 {
		o.FrontInterval = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" || o.SegmentBytes < 0 || o.InlineMax < 0 || o.PackMin < 0 || o.FrameMax < headerSize || o.FrameMax > MaxFrame ||
		o.CommitInterval < 0 || o.FrontInterval < 0 {
		return fmt.Errorf("options of journal %q: segment %d, inline %d, frame %d bytes, interval %v: %w",
			o.Dir, o.SegmentBytes, o.InlineMax, o.FrameMax, o.CommitInterval, ErrInvalid)
	}
	return nil
}

// Replay passes the frames after the mark to fn, in order, with checked reads in bounded memory, and says what it
// found. It may be called as often as wanted, before Start. An error of fn ends it and is returned.
func (j *Journal) Replay(fn func(Frame) error) (Report, error) {
	j.mu.Lock()
	if j.started || j.closing {
		j.mu.Unlock()
		return Report{}, fmt.Errorf("replay: %w", ErrState)
	}
	j.mu.Unlock()
	r, err := j.files.replay(fn)
	if err == nil {
		j.c.front.extend(&r, j.files.walNext, j.files.after)
		err = j.c.front.replay(fn)
	}
	if err != nil {
		return r, fmt.Errorf("replay journal %s: %w", j.o.Dir, err)
	}
	return r, nil
}

// Start makes durable what Replay passed on, and lets commits run. Nothing replayed may be served before it has
// returned. After an error it may be called again.
func (j *Journal) Start() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started || j.closing {
		return fmt.Errorf("start: %w", ErrState)
	}
	if err := j.files.start(j.c.front.pending); err != nil {
		return fmt.Errorf("start journal %s: %w", j.o.Dir, err)
	}
	if err := j.startFront(); err != nil {
		return fmt.Errorf("start journal %s: %w", j.o.Dir, err)
	}
	if err := j.c.tail.attach(); err != nil {
		return fmt.Errorf("start journal %s: %w", j.o.Dir, errors.Join(err, j.c.tail.close()))
	}
	j.started = true
	go j.run()
	return nil
}

// Stage queues a group for the next commit: it lands whole in one frame or not at all. done is called exactly once, in
// staging order, from the committer's goroutine, with nil after the syncs that cover the group; it must not block. An
// empty group is a barrier: it is answered after everything staged before it, and costs no frame.
//
// After a failed commit, and after a group that could not be taken, every group is answered with an error until the
// queue has drained; a caller that falls back to its last acknowledged state in done is then right whatever it staged
// meanwhile. group and the Bytes in it are borrowed until done. Safe for concurrent use; groups of one partition must
// be staged in their order.
func (j *Journal) Stage(group []Entry, done func(error)) {
	s := staged{entries: group, done: done}
	err := s.measure(j.o.FrameMax)
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.ended:
		s.refused = ErrClosed
	case j.rejecting != nil:
		s.refused = j.rejecting
	case err != nil:
		j.rejecting, s.refused = err, err
	case j.queued+s.bytes > MaxQueue || len(j.queue) >= MaxGroups:
		j.rejecting, s.refused = ErrFull, ErrFull
	}
	if s.refused != nil {
		s.entries, s.bytes = nil, 0
	}
	was := j.queued
	j.queued += s.bytes
	j.queue = append(j.queue, s)
	if j.ended {
		j.answerLate()
	} else if len(j.queue) == 1 || was < j.o.FrameMax && j.queued >= j.o.FrameMax {
		j.signal()
	}
}

// measure checks a group and computes its sizes.
func (s *staged) measure(frameMax int) error {
	s.bytes = len(s.entries) * maxEntryHead
	s.fixed = s.bytes
	size := headerSize + len(s.entries)*(maxEntryHead+crcSize)
	for i := range s.entries {
		e := &s.entries[i]
		switch e.Kind {
		case Append, TopicCreated, Truncate, StartMoved, TopicDeleted:
		default:
			return fmt.Errorf("entry kind %d: %w", e.Kind, ErrInvalid)
		}
		if len(e.Bytes) > math.MaxInt32 || len(e.Bytes) > 0 && e.Kind != Append && e.Kind != TopicCreated {
			return fmt.Errorf("%d bytes in an entry of kind %s: %w", len(e.Bytes), e.Kind, ErrInvalid)
		}
		s.bytes += len(e.Bytes)
		if !free(e) {
			size += len(e.Bytes)
			s.fixed += len(e.Bytes)
		}
	}
	if size > frameMax {
		return fmt.Errorf("group of %d entries, %d bytes of which cannot be pointed at: %w", len(s.entries), size, ErrInvalid)
	}
	return nil
}

// Defer has seal called once, by the committer, at the start of the next commit and before it collects: what seal
// stages is part of that commit. This is how records that meet in one commit become one batch.
func (j *Journal) Defer(seal func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seals = append(j.seals, seal)
	if j.ended {
		j.answerLate()
	} else if len(j.seals) == 1 {
		j.signal()
	}
}

// signal makes the committer look again.
func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Mark is the last acknowledged frame: what a checkpoint records before it flushes.
func (j *Journal) Mark() Mark { return Mark{j.id, j.last.Load()} }

// Bytes are the batch bytes committed after the mark last given to Drop, inside frames and pointed at.
func (j *Journal) Bytes() (inline, pointed int64) { return j.tally.bytes() }

// Drop unlinks the whole wal segments that end at or below m, oldest first, once a checkpoint that records m is durable.
// What the front holds up to there goes to the wal before. It may run beside commits, but not in a done or a seal. After
// an error it may be called again.
func (j *Journal) Drop(m Mark) error {
	if m.ID != j.id {
		return fmt.Errorf("drop to mark of journal %016x: %w", m.ID, ErrForeign)
	}
	if err := j.drainTo(m.Index); err != nil {
		return fmt.Errorf("drop journal to %d: drain the front: %w", m.Index, err)
	}
	j.tally.drop(m.Index)
	n, err := j.files.dropTo(m.Index)
	j.stats.dropped.Add(int64(n))
	if err != nil {
		return fmt.Errorf("drop journal to %d: %w", m.Index, err)
	}
	return nil
}

// SetInterval changes the least time between the starts of two commits, from the next one on.
func (j *Journal) SetInterval(d time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.interval = max(d, 0)
	j.signal()
}

// Stats are counters since Open, for metrics.
func (j *Journal) Stats() Stats {
	s := j.stats.stats()
	s.Segments = j.files.count()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.Queued = j.queued
	return s
}

// Close commits what is staged, drains the front, ends the committer and closes the files. What is staged later is answered with
// ErrClosed, by a goroutine of its own.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closing {
		j.mu.Unlock()
		return ErrClosed
	}
	j.closing = true
	started := j.started
	if !started {
		j.ended, j.late = true, true
	}
	j.mu.Unlock()
	if !started {
		j.drainLate()
		close(j.stopped)
	}
	j.signal()
	<-j.stopped
	err := j.c.tail.close()
	if started && len(j.c.front.ends) == 0 { // the next start may do without the front
		err = errors.Join(err, j.files.setMark(0))
	}
	if err != nil {
		return fmt.Errorf("close journal %s: %w", j.o.Dir, err)
	}
	return nil
}
