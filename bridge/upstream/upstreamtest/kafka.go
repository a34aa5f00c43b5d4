// Package upstreamtest has what tests of links stand on: a Kafka with transactions that fails wherever it is told to, a
// board's log that grows, loses and compacts, and a world that throws both about by a seed.
package upstreamtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// Kafka is a cluster that does what Apache Kafka does of producers, transactions and read_committed. It keeps time by
// package time: run it in a synctest bubble. Its methods are safe for concurrent use.
type Kafka struct {
	// NoFencing is a defect: an old epoch may still write and commit.
	NoFencing bool
	// Plain: a topic is made with no settings but its cleanup.policy.
	Plain bool
	// NoTransactions: Open with a transactional id is refused.
	NoTransactions bool
	// Timeout ends open transactions of who does not say how long he wants to have, Longest is the most there is; 0: any time.
	Timeout, Longest time.Duration
	// Single: each transaction has an epoch of its own (transaction.version 2).
	Single bool
	// DenyMarks: nobody may end what hangs. Keep says that a topic's partitions lose nothing.
	DenyMarks bool
	Keep      func(topic string) bool
	// Unshaken is a defect: clients go on with new connections, and do not say so.
	Unshaken bool

	mu       sync.Mutex
	rng      *rand.Rand
	faults   Faults
	topics   map[string]*topic
	holders  map[string]*holder // by transactional id
	producer int64              // ids given
	late     []func()           // requests that the network holds back
	holds    func(id string) bool
	groups   map[string]*group
	asked    int // for settings
	// restarts is how often it came back: connections of before are dead. lost is how many ends of transactions it lost then.
	restarts, lost int
	loseAll        bool
	// forgotten is how many questions where a partition begins and ends are to be asked elsewhere.
	forgotten int
}

// Faults are the chances of what goes wrong, 0 to 1, for each step of a session.
type Faults struct {
	// Lost: the connection breaks before the request arrives. Silent: it arrives, and the answer is lost. Late: it is
	// given up, and arrives when somebody else may have come.
	Lost, Silent, Late float64
	// Bumped: the coordinator ends the transaction and takes the epoch away.
	Bumped float64
	// Restart: with the end of a transaction the peer is restarted, and some partitions do not get their marker.
	Restart float64
	// Latency is how long each step takes at most.
	Latency time.Duration
}

type topic struct {
	name       string
	id         [16]byte
	compacted  bool
	partitions []*replica
	refuse     func(upstream.Record) error
	settings   map[string]string
	fixed      error // why nobody may change or see them
	hidden     error // why nobody may read its records
}

type replica struct {
	list []entry
	// first is where it begins, all what it ever had from there on that was not truncated.
	first int64
	all   []entry
	epoch int32
	topic string
	// producers is what it knows of them.
	producers map[int64]*standing
}

// standing is what a partition knows of a producer.
type standing struct {
	epoch int16
	stamp int64
	txn   *txn // what is open, nil for nothing
}

// end is the offset of the next record.
func (p *replica) end() int64 {
	if n := len(p.list); n > 0 {
		return p.list[n-1].offset + 1
	}
	return p.first
}

func (p *replica) add(e entry) {
	p.list = append(p.list, e)
	p.all = append(p.all, e)
}

// entry is a record upstream.
type entry struct {
	upstream.Record
	offset int64
	txn    *txn // nil: no transaction
	marker bool
	epoch  int32
	ends   *txn // of a marker
	// producer is the epoch of who wrote it in a transaction.
	producer int16
}

// txn is what a transaction has in one partition, and what went on in it.
type txn struct {
	open, committed bool
	producer        int64
	lost            *fate // what its marker would have been, where that was lost
}

// fate is how a transaction ends that has lost markers: as it has ended where somebody has written one since.
type fate struct{ commit bool }

// holder is who has a transactional id.
type holder struct {
	id    int64
	epoch int16
	open  bool // a transaction is
	other bool // it is nobody's who could end what hangs: nothing is lost of it
	until time.Time
	// parts are where the open transaction has written.
	parts []*replica
}

// NewKafka makes an empty cluster.
func NewKafka(rng *rand.Rand) *Kafka {
	return &Kafka{Timeout: time.Minute, rng: rng, topics: map[string]*topic{}, holders: map[string]*holder{}, groups: map[string]*group{}}
}

// Fail sets what goes wrong from now on.
func (k *Kafka) Fail(f Faults) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = f
}

// Upgrade gives it transactions, where NoTransactions was set.
func (k *Kafka) Upgrade() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.NoTransactions = false
}

// Create makes a topic, anew where there is one of that name.
func (k *Kafka) Create(name string, partitions int, compacted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.create(name, partitions, compacted)
}

func (k *Kafka) create(name string, partitions int, compacted bool) *topic {
	t := &topic{name: name, compacted: compacted, settings: map[string]string{}}
	t.grow(partitions)
	binary.BigEndian.PutUint64(t.id[:], k.rng.Uint64())
	k.topics[name] = t
	return t
}

func (t *topic) grow(n int) {
	for len(t.partitions) < n {
		t.partitions = append(t.partitions, &replica{topic: t.name, producers: map[int64]*standing{}})
	}
}

// Refuse makes a topic refuse records that fn has an error for. Nil ends it.
func (k *Kafka) Refuse(name string, fn func(upstream.Record) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.topics[name] == nil {
		k.create(name, 1, false)
	}
	k.topics[name].refuse = fn
}

// Settings are those of a topic that somebody has set.
func (k *Kafka) Settings(name string) map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.topics[name]; t != nil {
		return maps.Clone(t.settings)
	}
	return nil
}

// Set sets a setting of a topic.
func (k *Kafka) Set(topic, name, value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.topics[topic].settings[name] = value
}

// Fix has a topic refuse to tell or change its settings, with nil no more.
func (k *Kafka) Fix(topic string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.topics[topic].fixed = err
}

// Asked is how often settings were asked for.
func (k *Kafka) Asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// Rewrite changes every record of a topic.
func (k *Kafka) Rewrite(name string, fn func(upstream.Record) upstream.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.topics[name].partitions {
		for i := range p.list {
			if !p.list[i].marker {
				p.list[i].Record = fn(p.list[i].Record)
			}
		}
	}
}

// Partitions is how many partitions a topic has, 0 where there is none.
func (k *Kafka) Partitions(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.topics[name]; t != nil {
		return len(t.partitions)
	}
	return 0
}

// Committed is what a consumer reads of a partition with read_committed, after every open transaction was ended.
func (k *Kafka) Committed(name string, partition int) (list []upstream.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.topics[name]
	if t == nil || partition >= len(t.partitions) {
		return nil
	}
	for _, e := range t.partitions[partition].list {
		if !e.marker && (e.txn == nil || e.txn.committed) {
			list = append(list, e.Record)
		}
	}
	return list
}

// Compact lets a compacted topic's records go that a later committed one has the key of, all but the last of a partition.
func (k *Kafka) Compact(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.topics[name]
	if t == nil {
		return
	}
	for _, p := range t.partitions {
		list := p.list
		latest := map[string]int64{}
		for _, e := range list {
			if !e.marker && (e.txn == nil || e.txn.committed) {
				latest[string(e.Key)] = e.offset
			}
		}
		var kept []entry
		for _, e := range list {
			settled := e.txn == nil || !e.txn.open
			stale := !e.marker && settled && (latest[string(e.Key)] != e.offset || e.txn != nil && !e.txn.committed)
			if !stale || e.offset == list[len(list)-1].offset {
				kept = append(kept, e)
			}
		}
		p.list = kept
	}
}

// Hang opens a transaction of somebody else in a partition, which ends by itself.
func (k *Kafka) Hang(name string, partition int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.topics[name]
	if t == nil || int(partition) >= len(t.partitions) {
		return
	}
	h := k.begin()
	k.holders[fmt.Sprint("other", k.rng.Uint64())] = h
	k.append(h, t.partitions[partition], upstream.Record{Topic: name, Partition: partition, Key: []byte("other"), Value: []byte("?")})
}

func (k *Kafka) append(h *holder, p *replica, r upstream.Record) {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	headers := r.Headers
	r.Headers = nil
	for _, hd := range headers {
		r.Headers = append(r.Headers, record.Header{Key: hd.Key, Value: bytes.Clone(hd.Value)})
	}
	e := entry{Record: r, offset: p.end(), epoch: p.epoch}
	if h != nil {
		st := p.producers[h.id]
		if st == nil {
			st = new(standing)
			p.producers[h.id] = st
		}
		if st.txn == nil {
			st.txn = &txn{open: true, producer: h.id}
		}
		st.epoch, st.stamp = h.epoch, r.Timestamp
		e.txn, e.producer = st.txn, h.epoch // a transaction whose end was lost goes on, too
		if !slices.Contains(h.parts, p) {
			h.parts = append(h.parts, p)
		}
	}
	p.add(e)
}

// end ends the open transaction of a holder.
func (k *Kafka) end(h *holder, commit bool) {
	if !h.open {
		return
	}
	marker := h.epoch
	if k.Single || !commit {
		marker++
	}
	if k.Single {
		h.epoch++
	}
	loses := 0.0
	if !h.other && k.rng.Float64() < k.faults.Restart {
		k.restarts++
		loses = k.rng.Float64() * 1.2
	}
	end := &fate{commit}
	for _, p := range h.parts {
		if k.loseAll || k.rng.Float64() < loses && (k.Keep == nil || !k.Keep(p.topic)) {
			k.lost++
			if x := p.producers[h.id].txn; x.lost == nil {
				x.lost = end
			}
			continue
		}
		p.mark(h.id, marker, commit)
	}
	h.open, h.parts = false, nil
}

// mark ends what a producer has open in a partition.
func (p *replica) mark(producer int64, epoch int16, commit bool) {
	st := p.producers[producer]
	if st == nil {
		st = new(standing)
		p.producers[producer] = st
	}
	x := st.txn
	if x == nil {
		x = &txn{producer: producer}
	}
	x.open, x.committed = false, commit
	st.txn, st.epoch, st.stamp = nil, epoch, time.Now().UnixMilli()
	p.add(entry{
		Record: upstream.Record{Timestamp: st.stamp}, offset: p.end(), marker: true, epoch: p.epoch, producer: epoch,
		ends: &txn{producer: producer, committed: commit},
	})
}

// expire ends transactions whose time is over, as the coordinator does: their epoch is gone.
func (k *Kafka) expire() {
	for _, h := range k.holders {
		if h.open && time.Now().After(h.until) {
			k.end(h, false)
			h.epoch++
		}
	}
}

// Expire ends every open transaction.
func (k *Kafka) Expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.holders {
		if h.open {
			k.end(h, false)
			h.epoch++
		}
	}
}

// Arrive lets requests arrive that the network has held back. Others arrive by themselves within lateMax.
func (k *Kafka) Arrive() {
	k.mu.Lock()
	late := k.late
	k.late = nil
	k.mu.Unlock()
	for _, fn := range late {
		fn()
	}
}

// HoldCommits has the network hold back the commits of which hold says so, by transactional id; their sessions end.
func (k *Kafka) HoldCommits(hold func(id string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.holds = hold
}

// held holds a commit back that is to be.
func (k *Kafka) held(id string, commit func() error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holds == nil || !k.holds(id) {
		return false
	}
	k.hold(commit)
	return true
}

// lateMax is how late a request may come.
const lateMax = 20 * time.Second

// hold holds a request back.
func (k *Kafka) hold(request func() error) {
	var once sync.Once
	fn := func() {
		once.Do(func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			_ = request() // nobody hears it
		})
	}
	k.late = append(k.late, fn)
	time.AfterFunc(time.Duration(k.rng.Int64N(int64(lateMax))), fn)
}
