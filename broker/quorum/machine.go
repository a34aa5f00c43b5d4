package quorum

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
)

// machine is raft's state machine: the image. Raft calls it from one goroutine.
type machine struct {
	image atomic.Pointer[catalog.Image]
	// due is told when enough was applied since the last snapshot; it holds one.
	due chan struct{}
	// since counts the bytes applied since the last snapshot, size is how large that one was.
	since, size atomic.Int64

	// goal is the index whose application closes reached.
	goal    uint64
	reached chan struct{}
}

var _ raft.FSM = (*machine)(nil)

// snapshotEvery is how many bytes of commands are applied before a snapshot is taken: it bounds the replay of a start
// and the log's size. A large image is written less often than that.
const snapshotEvery = 128 << 10

// snapshotAgain is how many bytes more are applied before a snapshot that failed is tried again: on a full disk every
// command would write a whole image in vain.
const snapshotAgain = snapshotEvery / 8

func newMachine(img *catalog.Image, goal uint64) *machine {
	m := &machine{due: make(chan struct{}, 1), goal: goal, reached: make(chan struct{})}
	m.image.Store(img)
	if goal == 0 {
		close(m.reached)
	}
	return m
}

// applied is what a proposal gets back.
type applied struct {
	image *catalog.Image
	err   error
}

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any {
	next, err := m.next(l)
	if err == nil {
		m.image.Store(next)
	}
	if m.goal != 0 && l.Index >= m.goal {
		m.goal = 0
		close(m.reached)
	}
	m.since.Add(frameSize(entrySize(l)))
	if m.full() {
		select {
		case m.due <- struct{}{}:
		default: // it knows
		}
	}
	return applied{image: next, err: err}
}

func (m *machine) next(l *raft.Log) (*catalog.Image, error) {
	c, err := catalog.Decode(l.Data)
	if err != nil {
		return nil, fmt.Errorf("catalog command %d: %w", l.Index, err)
	}
	return catalog.Apply(m.image.Load(), c)
}

// full tells whether enough was applied for a snapshot.
func (m *machine) full() bool { return m.since.Load() >= max(snapshotEvery, m.size.Load()) }

// Snapshot implements raft.FSM: the image is immutable, so taking it costs nothing.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	return &imageSnapshot{m, m.image.Load(), m.since.Load()}, nil
}

// Restore implements raft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(io.LimitReader(r, catalog.MaxSnapshotSize+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	img, err := catalog.DecodeImage(b)
	if err != nil {
		return err
	}
	m.size.Store(int64(len(b)))
	m.since.Store(0)
	m.image.Store(img)
	return nil
}

// imageSnapshot is an image on its way to the disk.
type imageSnapshot struct {
	m     *machine
	image *catalog.Image
	since int64
}

func (s *imageSnapshot) Persist(sink raft.SnapshotSink) error {
	b, err := s.image.Encode()
	if err != nil {
		return err
	}
	if _, err := sink.Write(b); err != nil {
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	s.m.size.Store(int64(len(b)))
	s.m.since.Add(-s.since)
	return nil
}

func (s *imageSnapshot) Release() {}
