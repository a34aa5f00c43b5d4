// Package grouptest is __consumer_offsets in memory, for tests of what keeps groups in it.
package grouptest

import (
	"context"
	"fmt"
	"sync"

	"millrace/broker/group"
	"millrace/broker/record"
)

// Topic is a group.Topic. Its zero value does not exist yet; Ensure makes it with N partitions. It is safe for
// concurrent use.
type Topic struct {
	// N is how many partitions it is made with; 0 means 1.
	N int
	// BatchMax is the largest batch it takes, in bytes; 0: any.
	BatchMax int
	// Missing says which topics do not exist; nil: all do.
	Missing func(topic string, id [16]byte) bool

	mu   sync.Mutex
	logs []*Log
	hold bool
	fail error
	held []func()
}

var _ group.Topic = (*Topic)(nil)

// Partitions implements group.Topic.
func (t *Topic) Partitions() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.logs)
}

// Log implements group.Topic.
func (t *Topic) Log(index int) (group.Log, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.logs[index], nil
}

// Ensure implements group.Topic.
func (t *Topic) Ensure(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		return t.fail
	}
	for len(t.logs) < max(t.N, 1) {
		t.logs = append(t.logs, &Log{topic: t})
	}
	return nil
}

// Gone implements group.Topic.
func (t *Topic) Gone(topic string, id [16]byte) bool { return t.Missing != nil && t.Missing(topic, id) }

// Fail has appends fail with err from now on; nil lets them work again.
func (t *Topic) Fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail = err
}

// Hold keeps appends from becoming durable until Commit.
func (t *Topic) Hold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold = true
}

// Commit makes what is held durable, in order, and holds no more.
func (t *Topic) Commit() {
	t.mu.Lock()
	held := t.held
	t.held, t.hold = nil, false
	t.mu.Unlock()
	for _, done := range held {
		done()
	}
}

// Crash is the topic as it comes back after a power cut: what is held is lost, and who waits for it never hears.
func (t *Topic) Crash() *Topic {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := &Topic{N: t.N, BatchMax: t.BatchMax, Missing: t.Missing}
	for _, l := range t.logs {
		next.logs = append(next.logs, &Log{topic: next, batches: l.batches[:l.durable:l.durable], durable: l.durable, next: l.high, high: l.high})
	}
	return next
}

// Records are all records of a partition that are durable, in order.
func (t *Topic) Records(index int) (list []record.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.logs[index]
	for _, b := range l.batches[:l.durable] {
		for r, err := range b.Records(record.DefaultMaxBytes) {
			if err != nil {
				panic(err)
			}
			list = append(list, r)
		}
	}
	return list
}

// Log is one partition. Every append is a batch.
type Log struct {
	topic      *Topic
	batches    []record.Batch
	durable    int // batches
	next, high int64
}

// AppendRecords implements group.Log.
func (l *Log) AppendRecords(recs []record.Record, done func(error)) {
	t := l.topic
	t.mu.Lock()
	if t.fail != nil {
		err := t.fail
		t.mu.Unlock()
		done(err)
		return
	}
	builder := record.NewBuilder(record.None)
	for i := range recs {
		builder.Add(recs[i].Timestamp, recs[i].Key, recs[i].Value, nil)
	}
	b, err := builder.Build()
	if err != nil {
		panic(fmt.Sprintf("grouptest: %v", err))
	}
	if t.BatchMax > 0 && len(b) > t.BatchMax {
		t.mu.Unlock()
		done(fmt.Errorf("grouptest: %d bytes: %w", len(b), group.ErrTooMany))
		return
	}
	b.Stamp(l.next, 0)
	l.batches = append(l.batches, b)
	l.next = b.NextOffset()
	n, high := len(l.batches), l.next
	commit := func() {
		t.mu.Lock()
		l.durable, l.high = n, high
		t.mu.Unlock()
		done(nil)
	}
	if t.hold {
		t.held = append(t.held, commit)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	commit()
}

// ReadBatches implements group.Log.
func (l *Log) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	for i, b := range l.batches[:l.durable] {
		if b.NextOffset() <= offset {
			continue
		}
		if len(dst) > 0 && len(dst)+len(b) > maxBytes {
			break
		}
		dst = append(dst, l.batches[i]...)
	}
	return dst, nil
}

// Start implements group.Log.
func (l *Log) Start() int64 { return 0 }

// High implements group.Log.
func (l *Log) High() int64 {
	l.topic.mu.Lock()
	defer l.topic.mu.Unlock()
	return l.high
}
