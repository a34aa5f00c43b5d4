// Package mqtttest is a log in memory for tests of the MQTT door: it holds commits back, refuses them and forgets its
// front on demand.
package mqtttest

import (
	"context"
	"slices"
	"sync"

	"millrace/bridge/mqtt"
	"millrace/broker/record"
)

// Log is a mqtt.Log in memory. The zero value has no topics, makes any with one partition and commits at once.
type Log struct {
	// NumPartitions of topics that Ensure makes; 0: 1.
	NumPartitions int
	// NoCreate makes Ensure refuse.
	NoCreate bool

	mu       sync.Mutex
	topics   map[string][]*partition
	watchers map[int]func(mqtt.Partition)
	serial   byte
	watched  int
	hold     bool
	held     []func()
	err      error
	readErr  error
	reads    int64
	read     func(topic string, offset int64)
	offline  []string
	lose     func(topic string, r record.Record) bool
	stop     int      // commits after which hold begins; 0: never
	history  []commit // everything that became durable, in order
}

// commit is one step of the log's history: a topic that was made, or batches that landed together.
type commit struct {
	topic      string
	partitions int // of a topic that was made
	batches    []landed
}

type landed struct {
	topic string
	index int32
	batch record.Batch // as it lies in the log
}

type partition struct {
	log     *Log
	topic   string
	id      [16]byte
	index   int32
	start   int64
	high    int64
	batches []record.Batch
	gone    bool
}

var _ mqtt.Log = (*Log)(nil)

// Partitions implements mqtt.Log.
func (l *Log) Partitions(topic string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.topics[topic])
}

// Partition implements mqtt.Log.
func (l *Log) Partition(topic string, i int32) (mqtt.Partition, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i < 0 || int(i) >= len(l.topics[topic]) {
		return nil, false
	}
	return l.topics[topic][i], true
}

// Ensure implements mqtt.Log.
func (l *Log) Ensure(_ context.Context, topic string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.topics[topic] != nil {
		return nil
	}
	if l.NoCreate {
		return mqtt.ErrBadTopic
	}
	l.make(topic, max(l.NumPartitions, 1))
	return nil
}

func (l *Log) make(topic string, partitions int) {
	if l.topics == nil {
		l.topics = make(map[string][]*partition)
	}
	l.serial++
	for i := range partitions {
		l.topics[topic] = append(l.topics[topic], &partition{log: l, topic: topic, id: [16]byte{15: l.serial}, index: int32(i)})
	}
	l.history = append(l.history, commit{topic: topic, partitions: partitions})
}

// Commits is the number of steps of the log's history so far. Trim, Delete, Garble and Damage are none.
func (l *Log) Commits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.history)
}

// Cut is the log as a crash after n commits leaves it, as a log of its own.
func (l *Log) Cut(n int) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := &Log{NumPartitions: l.NumPartitions, NoCreate: l.NoCreate}
	for _, c := range l.history[:n] {
		if c.partitions > 0 {
			left.make(c.topic, c.partitions)
			continue
		}
		for _, b := range c.batches {
			p := left.topics[b.topic][b.index]
			p.batches = append(p.batches, b.batch)
			p.high = b.batch.NextOffset()
		}
		left.history = append(left.history, c)
	}
	return left
}

// StopAfter holds every commit from the n-th on, as Hold does.
func (l *Log) StopAfter(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = n
}

// Lose makes the log say of records that they are durable, and not keep them: those for which fn is true, until nil.
func (l *Log) Lose(fn func(topic string, r record.Record) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = fn
}

// Names implements mqtt.Log.
func (l *Log) Names() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.topics {
		names = append(names, name)
	}
	return names
}

// Offline implements mqtt.Log.
func (l *Log) Offline() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.offline
}

// SetOffline says which partitions are offline from now on. They can be used all the same.
func (l *Log) SetOffline(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offline = names
}

// OnAdvance implements mqtt.Log.
func (l *Log) OnAdvance(fn func(mqtt.Partition)) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers == nil {
		l.watchers = make(map[int]func(mqtt.Partition))
	}
	n := l.watched
	l.watched++
	l.watchers[n] = fn
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, n)
	}
}

// Hold makes commits wait for Release.
func (l *Log) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = true
}

// Release commits what Hold kept, in order, with what comes meanwhile behind it, and lets the rest through.
func (l *Log) Release() {
	for {
		l.mu.Lock()
		if len(l.held) == 0 {
			l.hold, l.stop = false, 0
			l.mu.Unlock()
			return
		}
		commit := l.held[0]
		l.held = l.held[1:]
		l.mu.Unlock()
		commit()
	}
}

// ReleaseOne commits the i-th of what Hold keeps, before the others.
func (l *Log) ReleaseOne(i int) {
	l.mu.Lock()
	commit := l.held[i]
	l.held = slices.Delete(l.held, i, i+1)
	l.mu.Unlock()
	commit()
}

// Held is the number of commits that wait for Release.
func (l *Log) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// Fail makes every append answer err, until nil.
func (l *Log) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// FailReads makes every read answer err, until nil.
func (l *Log) FailReads(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readErr = err
}

// Garble appends a batch whose record cannot be decoded.
func (l *Log) Garble(topic string, i int32) {
	b := record.NewBuilder(record.None)
	b.Add(1, []byte(topic), make([]byte, 32), nil)
	batch, err := b.Build()
	if err != nil {
		panic(err)
	}
	for at := record.HeaderSize; at < len(batch); at++ {
		batch[at] = 0xff
	}
	l.mu.Lock()
	p := l.topics[topic][i]
	batch.Stamp(p.high, 0)
	p.batches = append(p.batches, slices.Clone(batch))
	p.high++
	l.mu.Unlock()
	l.tell(p)
}

// Damage appends n offsets of which nothing can be read.
func (l *Log) Damage(topic string, i int32, n int64) {
	l.mu.Lock()
	p := l.topics[topic][i]
	p.high += n
	l.mu.Unlock()
	l.tell(p)
}

func (l *Log) tell(p *partition) {
	l.mu.Lock()
	var watchers []func(mqtt.Partition)
	for _, fn := range l.watchers {
		watchers = append(watchers, fn)
	}
	l.mu.Unlock()
	for _, fn := range watchers {
		fn(p)
	}
}

func (l *Log) afterRead() func(string, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.read
}

// AfterRead makes every read, and every Skip that passes something by, from now on call fn before it returns, without a lock of the log; nil ends that. A fn that
// waits holds the reader up between what it has read and what it makes of it.
func (l *Log) AfterRead(fn func(topic string, offset int64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = fn
}

// Reads is the number of bytes ReadBatches has returned.
func (l *Log) Reads() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}

// Trim removes everything below start from a partition, as retention does.
func (l *Log) Trim(topic string, i int32, start int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.topics[topic][i]
	p.start = start
	p.batches = slices.DeleteFunc(p.batches, func(b record.Batch) bool { return b.NextOffset() <= start })
}

// Delete removes a topic.
func (l *Log) Delete(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.topics[topic] {
		p.gone = true
	}
	delete(l.topics, topic)
}

// Produce appends records as a Kafka client would, with their topic made when needed.
func (l *Log) Produce(topic string, i int32, recs ...record.Record) {
	if err := l.Ensure(context.Background(), topic); err != nil {
		panic(err)
	}
	p, _ := l.Partition(topic, i)
	p.AppendRecords(recs, false, func(int64, error) {})
}

// Records returns all records of a topic, by partition and offset.
func (l *Log) Records(topic string) (out []record.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.topics[topic] {
		for _, b := range p.batches {
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					panic(err)
				}
				r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
				r.Headers = slices.Clone(r.Headers)
				out = append(out, r)
			}
		}
	}
	return out
}
