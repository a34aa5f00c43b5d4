// Package partitiontest is what tests of partitions stand on: a journal in memory that can be stepped, made to fail and
// cut off from its unsynced tail, and fixtures that read like the situation they set up.
package partitiontest

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// ErrInjected is the error of commits that Fail made fail.
var ErrInjected = errors.New("partitiontest: injected failure")

// Frames is what a fake journal has on its disk: it outlives the Journal, as files outlive a process.
type Frames struct {
	mu     sync.Mutex
	id     uint64
	next   uint64
	frames []journal.Frame // committed, not dropped; Bytes are copies
	gaps   []journal.Gap
}

// NewFrames is an empty disk.
func NewFrames() *Frames { return &Frames{id: 7, next: 1} }

// Len is the number of frames kept.
func (f *Frames) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.frames)
}

// Lose forgets the last n frames: they were never synced.
func (f *Frames) Lose(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, len(f.frames))
	f.frames = f.frames[:len(f.frames)-n]
	f.next -= uint64(n)
}

// Damage takes frame i, counted from the oldest kept, out as bit rot would: others follow it.
func (f *Frames) Damage(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.frames[i].Index
	f.frames = slices.Delete(f.frames, i, i+1)
	f.gaps = append(f.gaps, journal.Gap{From: at, To: at})
}

// Add commits a frame that no partition staged.
func (f *Frames) Add(entries ...journal.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames = append(f.frames, journal.Frame{Index: f.next, Entries: entries})
	f.next++
}

// Journal is a fake of partition.Journal. It commits by itself, in a goroutine of its own, unless it is Hold.
type Journal struct {
	disk  *Frames
	after journal.Mark
	// InlineMax is the size from which on an append goes as a pointer, 0 for never. Set it before the first Stage.
	InlineMax int

	mu      sync.Mutex
	queue   []group
	seals   []func()
	held    bool
	failing int
	inline  int64
	pointed int64
	started bool
	closing bool
	wake    chan struct{}
	stopped chan struct{}

	committing sync.Mutex // one commit at a time
}

type group struct {
	entries []journal.Entry
	done    func(error)
}

// Open opens the journal on the disk's frames behind the mark.
func Open(disk *Frames, after journal.Mark) *Journal {
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if disk.next <= after.Index {
		disk.next = after.Index + 1
	}
	return &Journal{disk: disk, after: after, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// Replay passes the frames after the mark on.
func (j *Journal) Replay(fn func(journal.Frame) error) (journal.Report, error) {
	j.disk.mu.Lock()
	frames, gaps := slices.Clone(j.disk.frames), slices.Clone(j.disk.gaps)
	j.disk.mu.Unlock()
	report := journal.Report{ID: j.disk.id}
	for _, g := range gaps {
		if g.From > j.after.Index {
			report.Gaps = append(report.Gaps, g)
			report.Missing += g.To - g.From + 1
		}
	}
	for i, f := range frames {
		if f.Index <= j.after.Index {
			continue
		}
		f.Last = i == len(frames)-1
		report.Frames++
		report.Entries += int64(len(f.Entries))
		if err := fn(f); err != nil {
			return report, err
		}
	}
	return report, nil
}

// Start lets commits run.
func (j *Journal) Start() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.started {
		return journal.ErrState
	}
	j.started = true
	go j.run()
	return nil
}

func (j *Journal) run() {
	defer close(j.stopped)
	for range j.wake {
		for j.pending() {
			j.commit()
		}
		j.mu.Lock()
		closing := j.closing
		j.mu.Unlock()
		if closing {
			return
		}
	}
}

func (j *Journal) pending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return (!j.held || j.closing) && (len(j.queue) > 0 || len(j.seals) > 0)
}

func (j *Journal) poke() {
	select {
	case j.wake <- struct{}{}:
	default: // it is awake
	}
}

// Stage queues a group.
func (j *Journal) Stage(entries []journal.Entry, done func(error)) {
	j.mu.Lock()
	j.queue = append(j.queue, group{entries, done})
	j.mu.Unlock()
	j.poke()
}

// Defer has seal called at the start of the next commit.
func (j *Journal) Defer(seal func()) {
	j.mu.Lock()
	j.seals = append(j.seals, seal)
	j.mu.Unlock()
	j.poke()
}

// Hold stops commits until Release; Step makes one meanwhile.
func (j *Journal) Hold() {
	j.mu.Lock()
	j.held = true
	j.mu.Unlock()
	j.committing.Lock() // the one under way is over
	defer j.committing.Unlock()
}

// Release lets commits run again.
func (j *Journal) Release() {
	j.mu.Lock()
	j.held = false
	j.mu.Unlock()
	j.poke()
}

// Step makes one commit of everything staged, in the caller's goroutine.
func (j *Journal) Step() { j.commit() }

// Fail makes the next n commits fail.
func (j *Journal) Fail(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failing = n
}

// Staged is the number of groups that wait.
func (j *Journal) Staged() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

func (j *Journal) take() []group {
	j.mu.Lock()
	defer j.mu.Unlock()
	taken := j.queue
	j.queue = nil
	return taken
}

func (j *Journal) commit() {
	j.committing.Lock()
	defer j.committing.Unlock()
	j.mu.Lock()
	seals := j.seals
	j.seals = nil
	j.mu.Unlock()
	for _, seal := range seals {
		seal()
	}
	taken := j.take()
	if len(taken) == 0 {
		return
	}
	if err := j.write(taken); err != nil {
		// As the real one: everything staged fails, in order, until nothing is left.
		for len(taken) > 0 {
			for _, g := range taken {
				g.done(err)
			}
			taken = j.take()
		}
		return
	}
	for _, g := range taken {
		g.done(nil)
	}
}

func (j *Journal) write(taken []group) error {
	j.mu.Lock()
	fail := j.failing > 0
	if fail {
		j.failing--
	}
	j.mu.Unlock()
	var entries []journal.Entry
	var inline, pointed int64
	for _, g := range taken {
		for _, e := range g.entries {
			if e.Kind == journal.Append && j.InlineMax > 0 && len(e.Bytes) >= j.InlineMax {
				if err := e.Sync(); err != nil {
					return err
				}
				e.Kind, e.CRC = journal.Pointer, record.Castagnoli(e.Bytes)
				pointed += int64(len(e.Bytes))
				e.Bytes = nil
			}
			inline += int64(len(e.Bytes))
			e.Bytes, e.Sync = bytes.Clone(e.Bytes), nil
			entries = append(entries, e)
		}
	}
	if fail {
		return ErrInjected
	}
	j.disk.Add(entries...)
	j.mu.Lock()
	j.inline += inline
	j.pointed += pointed
	j.mu.Unlock()
	return nil
}

// Mark is the last committed frame.
func (j *Journal) Mark() journal.Mark {
	j.disk.mu.Lock()
	defer j.disk.mu.Unlock()
	return journal.Mark{ID: j.disk.id, Index: j.disk.next - 1}
}

// Bytes is what was committed since the last Drop.
func (j *Journal) Bytes() (inline, pointed int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.inline, j.pointed
}

// Drop forgets the frames up to the mark.
func (j *Journal) Drop(m journal.Mark) error {
	j.disk.mu.Lock()
	j.disk.frames = slices.DeleteFunc(j.disk.frames, func(f journal.Frame) bool { return f.Index <= m.Index })
	j.disk.mu.Unlock()
	j.mu.Lock()
	j.inline, j.pointed = 0, 0
	j.mu.Unlock()
	return nil
}

// Crash ends the journal as a power cut does: what is staged is never answered.
func (j *Journal) Crash() {
	j.mu.Lock()
	j.queue, j.seals, j.closing = nil, nil, true
	started := j.started
	j.mu.Unlock()
	j.poke()
	if started {
		<-j.stopped
	}
}

// Close commits what is staged and ends.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.closing = true
	started := j.started
	j.mu.Unlock()
	j.poke()
	if started {
		<-j.stopped
	}
	return nil
}
