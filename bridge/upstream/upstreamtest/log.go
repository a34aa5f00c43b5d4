package upstreamtest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// Log is a board's topics, in memory.
type Log struct {
	mu     sync.Mutex
	topics map[string][]*Partition
	// settings are by topic. The maps are not changed.
	settings map[string]map[string]string
	ids      uint64

	watching sync.Mutex // taken with a partition's lock held
	watch    map[int]func(string, [16]byte, int32)
	next     int
}

// NewLog makes a log without topics.
func NewLog() *Log {
	return &Log{topics: map[string][]*Partition{}, settings: map[string]map[string]string{}, watch: map[int]func(string, [16]byte, int32){}}
}

// Create makes a topic, anew where there is one of that name.
func (l *Log) Create(topic string, partitions int, compacted bool) []*Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids++
	l.topics[topic] = nil
	for i := range partitions {
		p := &Partition{log: l, topic: topic, index: int32(i), compacted: compacted}
		p.id[0], p.id[1] = byte(l.ids), 1
		l.topics[topic] = append(l.topics[topic], p)
	}
	return slices.Clone(l.topics[topic])
}

// Grow gives a topic more partitions.
func (l *Log) Grow(topic string, partitions int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.topics[topic][0]
	for i := len(l.topics[topic]); i < partitions; i++ {
		p := &Partition{log: l, topic: topic, index: int32(i), id: first.id, compacted: first.compacted}
		l.topics[topic] = append(l.topics[topic], p)
	}
}

// Delete deletes a topic. What holds its partitions can read them still.
func (l *Log) Delete(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.topics, topic)
}

// Names implements upstream.Log.
func (l *Log) Names() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.topics {
		list = append(list, name)
	}
	return list
}

// Partitions implements upstream.Log.
func (l *Log) Partitions(topic string) (list []upstream.Partition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.topics[topic] {
		if !p.offline {
			list = append(list, p)
		}
	}
	return list
}

// Count implements upstream.Log.
func (l *Log) Count(topic string) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int32(len(l.topics[topic]))
}

// Offline has a partition be one that cannot be used, or be back.
func (p *Partition) Offline(offline bool) {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	p.offline = offline
}

// Configs implements upstream.Log.
func (l *Log) Configs(topic string) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings[topic]
}

// Set gives a topic settings of its own.
func (l *Log) Set(topic string, settings map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settings[topic] = settings
}

// OnAdvance implements upstream.Log.
func (l *Log) OnAdvance(fn func(string, [16]byte, int32)) (cancel func()) {
	l.watching.Lock()
	defer l.watching.Unlock()
	l.next++
	n := l.next
	l.watch[n] = fn
	return func() {
		l.watching.Lock()
		defer l.watching.Unlock()
		delete(l.watch, n)
	}
}

func (l *Log) tell(p *Partition) {
	l.watching.Lock()
	defer l.watching.Unlock()
	for _, fn := range l.watch {
		fn(p.topic, p.id, p.index)
	}
}

// Partition is one of a Log's.
type Partition struct {
	log       *Log
	topic     string
	index     int32
	id        [16]byte
	compacted bool
	offline   bool // Log.mu guards it

	mu      sync.Mutex
	batches []record.Batch
	start   int64
	high    int64
	broken  error // what reads below intact return
	intact  int64
}

// Break has reads fail below an offset, with nil no more.
func (p *Partition) Break(err error, below int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.intact = err, below
}

// Topic, ID, Index and Compacted implement upstream.Partition.
func (p *Partition) Topic() string { return p.topic }

// ID is the topic's.
func (p *Partition) ID() [16]byte { return p.id }

// Index is the partition's number.
func (p *Partition) Index() int32 { return p.index }

// Compacted says whether its topic is.
func (p *Partition) Compacted() bool { return p.compacted }

// Start is the first offset.
func (p *Partition) Start() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.start
}

// High is the end.
func (p *Partition) High() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.high
}

// Size is how many bytes there are.
func (p *Partition) Size() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.batches {
		n += int64(len(b))
	}
	return n
}

// ReadBatches implements upstream.Partition.
func (p *Partition) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil && offset < p.intact {
		return dst, p.broken
	}
	if offset < p.start || offset > p.high {
		return dst, fmt.Errorf("%d of %d to %d: %w", offset, p.start, p.high, upstream.ErrOutOfRange)
	}
	before := len(dst)
	for _, b := range p.batches {
		if b.NextOffset() <= offset {
			continue
		}
		if len(dst) > before && len(dst)-before+len(b) > maxBytes {
			break
		}
		dst = append(dst, b...)
	}
	return dst, nil
}

// Append appends one batch.
func (p *Partition) Append(codec record.Codec, recs ...record.Record) {
	b := record.NewBuilder(codec)
	for _, r := range recs {
		b.Add(r.Timestamp, r.Key, r.Value, r.Headers)
	}
	built, err := b.Build()
	if err != nil {
		panic(err) // the test's own records
	}
	p.AppendBatch(slices.Clone(built))
}

// AppendBatch appends a batch as it is.
func (p *Partition) AppendBatch(b record.Batch) {
	p.mu.Lock()
	b.Stamp(p.high, 0)
	p.batches = append(p.batches, b)
	p.high = b.NextOffset()
	p.log.tell(p) // with the lock held: who is told must not ask back
	p.mu.Unlock()
}

// Hold calls fn with the lock of the partition held, as a broker may call what it knows of.
func (p *Partition) Hold(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// Damage takes offsets out of the log, as a hole does that was stepped over: whole batches, all but the last.
func (p *Partition) Damage(i int) (first, end int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.batches) < 2 || i >= len(p.batches)-1 {
		return 0, 0, false
	}
	b := p.batches[i]
	p.batches = slices.Delete(slices.Clone(p.batches), i, i+1)
	return b.BaseOffset(), b.NextOffset(), true
}

// Retain lets the oldest batches go until n are left.
func (p *Partition) Retain(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.batches) > n {
		p.batches = slices.Clone(p.batches[len(p.batches)-n:])
		p.start = p.high
		if n > 0 {
			p.start = p.batches[0].BaseOffset()
		}
	}
}

// Image is a copy of the log as it is, to be restored or given to a cloned board.
func (l *Log) Image() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := NewLog()
	c.ids = l.ids
	maps.Copy(c.settings, l.settings)
	for name, list := range l.topics {
		for _, p := range list {
			p.mu.Lock()
			c.topics[name] = append(c.topics[name], &Partition{
				log: c, topic: p.topic, index: p.index, id: p.id, compacted: p.compacted,
				batches: slices.Clone(p.batches), start: p.start, high: p.high,
			})
			p.mu.Unlock()
		}
	}
	return c
}

// Partition is one partition of a topic.
func (l *Log) Partition(topic string, index int) *Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.topics[topic][index]
}

// Records are the records of a partition that applications see, in order.
func (p *Partition) Records() (list []record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.batches {
		if b.Control() {
			continue
		}
		for r, err := range b.Records(record.DefaultMaxBytes) {
			if err != nil {
				panic(err) // the test's own records
			}
			r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
			r.Headers = slices.Clone(r.Headers)
			list = append(list, r)
		}
	}
	return list
}

// Clock is a board's, whose time is right.
type Clock struct{}

// Now is the time.
func (Clock) Now() time.Time { return time.Now() }

// Known is true.
func (Clock) Known() bool { return true }

// Export leaves stamps as they are.
func (Clock) Export(_ [16]byte, _ int32, _, stamp int64) (int64, bool) { return stamp, false }
