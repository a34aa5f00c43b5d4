// Package upstreamtest has what tests of links stand on: a Kafka with transactions that fails wherever it is told to, a
// board's log that grows, loses and compacts, and a world that throws both about by a seed.
package upstreamtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
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
	// NoTransactions: Open with a transactional id is refused.
	NoTransactions bool
	// Timeout ends open transactions.
	Timeout time.Duration

	mu       sync.Mutex
	rng      *rand.Rand
	faults   Faults
	topics   map[string]*topic
	holders  map[string]*holder // by transactional id
	producer int64              // ids given
	late     []func()           // requests that the network holds back
}

// Faults are the chances of what goes wrong, 0 to 1, for each step of a session.
type Faults struct {
	// Lost: the connection breaks before the request arrives. Silent: it arrives, and the answer is lost. Late: it is
	// given up, and arrives when somebody else may have come.
	Lost, Silent, Late float64
	// Bumped: the coordinator ends the transaction and takes the epoch away.
	Bumped float64
	// Latency is how long each step takes at most.
	Latency time.Duration
}

type topic struct {
	id         [16]byte
	compacted  bool
	partitions []*replica
	refuse     func(upstream.Record) error
}

type replica struct{ list []entry }

// entry is a record upstream.
type entry struct {
	upstream.Record
	offset int64
	txn    *txn // nil: no transaction
	marker bool
}

type txn struct{ open, committed bool }

// holder is who has a transactional id.
type holder struct {
	id    int64
	epoch int16
	txn   *txn
	until time.Time
	// parts are where the open transaction has written.
	parts map[*replica]bool
}

// NewKafka makes an empty cluster.
func NewKafka(rng *rand.Rand) *Kafka {
	return &Kafka{Timeout: time.Minute, rng: rng, topics: map[string]*topic{}, holders: map[string]*holder{}}
}

// Fail sets what goes wrong from now on.
func (k *Kafka) Fail(f Faults) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = f
}

// Create makes a topic, anew where there is one of that name.
func (k *Kafka) Create(name string, partitions int, compacted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.create(name, partitions, compacted)
}

func (k *Kafka) create(name string, partitions int, compacted bool) *topic {
	t := &topic{compacted: compacted}
	t.grow(partitions)
	binary.BigEndian.PutUint64(t.id[:], k.rng.Uint64())
	k.topics[name] = t
	return t
}

func (t *topic) grow(n int) {
	for len(t.partitions) < n {
		t.partitions = append(t.partitions, new(replica))
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
	h := &holder{txn: &txn{open: true}, until: time.Now().Add(k.Timeout), parts: map[*replica]bool{}}
	k.holders[fmt.Sprint("other", k.rng.Uint64())] = h
	k.append(h, t.partitions[partition], upstream.Record{Topic: name, Partition: partition, Key: []byte("other"), Value: []byte("?")})
}

func (k *Kafka) append(h *holder, p *replica, r upstream.Record) {
	var next int64
	if n := len(p.list); n > 0 {
		next = p.list[n-1].offset + 1
	}
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	headers := r.Headers
	r.Headers = nil
	for _, hd := range headers {
		r.Headers = append(r.Headers, record.Header{Key: hd.Key, Value: bytes.Clone(hd.Value)})
	}
	e := entry{Record: r, offset: next}
	if h != nil {
		e.txn = h.txn
		h.parts[p] = true
	}
	p.list = append(p.list, e)
}

// end ends the open transaction of a holder.
func (k *Kafka) end(h *holder, commit bool) {
	if h.txn == nil {
		return
	}
	h.txn.open, h.txn.committed = false, commit
	for p := range h.parts {
		p.list = append(p.list, entry{offset: p.list[len(p.list)-1].offset + 1, marker: true})
	}
	h.txn, h.parts = nil, nil
}

// expire ends transactions whose time is over, as the coordinator does: their epoch is gone.
func (k *Kafka) expire() {
	for _, h := range k.holders {
		if h.txn != nil && time.Now().After(h.until) {
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
		if h.txn != nil {
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

var (
	errLost = errors.New("connection lost")
	errGone = errors.New("no answer in time")
)

// Client is one board's way to the cluster, for one life.
type Client struct {
	k    *Kafka
	mu   sync.Mutex
	dead bool
	cut  bool
}

// Client is a way to the cluster.
func (k *Kafka) Client() *Client { return &Client{k: k} }

// Kill ends everything this client does, at once, as a power cut does.
func (c *Client) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

// Cut cuts the link, or mends it.
func (c *Client) Cut(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
}

func (c *Client) down() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead || c.cut
}

// ask is a request that changes nothing: it does not matter when it comes late.
func (c *Client) ask(ctx context.Context, request func() error) error { return c.do(ctx, request, nil) }

// do is one request: it arrives or not, and is answered or not. late is what it does when it comes late, nil for nothing.
func (c *Client) do(ctx context.Context, request, late func() error) error {
	k := c.k
	k.mu.Lock()
	f := k.faults
	var wait time.Duration
	if f.Latency > 0 {
		wait = time.Duration(k.rng.Int64N(int64(f.Latency)))
	}
	dice := k.rng.Float64()
	k.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.down() {
		return errLost
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expire()
	switch {
	case dice < f.Lost:
		return errLost
	case dice < f.Lost+f.Late:
		if late != nil {
			k.hold(late)
		}
		return errGone
	}
	err := request()
	if dice < f.Lost+f.Late+f.Silent {
		return errGone
	}
	return err
}

// Open implements upstream.Remote.
func (c *Client) Open(ctx context.Context, id string) (upstream.Session, error) {
	s := &session{c: c, id: id, epoch: -1}
	if id == "" {
		return s, nil
	}
	if c.k.NoTransactions {
		return nil, upstream.ErrNoTransactions
	}
	takeOver := func() error {
		k := c.k
		h := k.holders[id]
		if h == nil {
			k.producer++
			h = &holder{id: k.producer}
			k.holders[id] = h
		}
		if !k.NoFencing {
			k.end(h, false)
			h.epoch++
		}
		s.epoch = h.epoch
		return nil
	}
	if err := c.do(ctx, takeOver, takeOver); err != nil {
		return nil, err
	}
	return s, nil
}

type session struct {
	c     *Client
	id    string
	epoch int16
}

func (s *session) Cluster() string { return "fake" }

func (s *session) Close() {}

// Ensure implements upstream.Session.
func (s *session) Ensure(ctx context.Context, topics []upstream.Topic) error {
	return s.c.ask(ctx, func() error {
		for i := range topics {
			want := &topics[i]
			t := s.c.k.topics[want.Name]
			if t == nil {
				t = s.c.k.create(want.Name, int(want.Partitions), want.Configs["cleanup.policy"] == "compact")
			}
			t.grow(int(want.Partitions))
			want.ID, want.Have, want.Compacted, want.Err = t.id, int32(len(t.partitions)), t.compacted, nil
		}
		return nil
	})
}

// Cursors implements upstream.Session.
func (s *session) Cursors(
	ctx context.Context, name string, partition int32, from int64, fn func(key, value []byte) error,
) (end int64, err error) {
	end = -1
	for {
		var list []entry
		open := false
		err := s.c.ask(ctx, func() error {
			all := s.c.k.topics[name].partitions[partition].list
			if end < 0 {
				end = 0
				if n := len(all); n > 0 {
					end = all[n-1].offset + 1
				}
			}
			for _, e := range all {
				open = open || e.offset < end && e.txn != nil && e.txn.open
				if e.offset >= from && e.offset < end && !e.marker && (e.txn == nil || e.txn.committed) {
					list = append(list, e)
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if !open {
			for _, e := range list {
				if err := fn(e.Key, e.Value); err != nil {
					return 0, err
				}
			}
			return end, nil
		}
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0, ctx.Err()
		}
	}
}

// holder is the session's, unless somebody else took over.
func (s *session) holder() (*holder, error) {
	h := s.c.k.holders[s.id]
	if h == nil || h.epoch != s.epoch && !s.c.k.NoFencing {
		return nil, fmt.Errorf("invalid producer epoch: %w", upstream.ErrFenced)
	}
	return h, nil
}

// Send implements upstream.Session: two requests with the records, and one that commits.
func (s *session) Send(ctx context.Context, recs []upstream.Record) error {
	half := len(recs) / 2
	for _, some := range [][]upstream.Record{recs[:half], recs[half:]} {
		if len(some) == 0 {
			continue
		}
		some = clone(some)
		produce := func() error { return s.produce(some) }
		if err := s.c.do(ctx, produce, produce); err != nil {
			return err
		}
	}
	if s.id == "" {
		return nil
	}
	commit := func() error {
		k := s.c.k
		h, err := s.holder()
		if err != nil {
			return err
		}
		if k.rng.Float64() < k.faults.Bumped {
			k.end(h, false)
			h.epoch++
			return fmt.Errorf("invalid producer epoch: %w", upstream.ErrFenced)
		}
		k.end(h, true)
		return nil
	}
	return s.c.do(ctx, commit, commit)
}

func (s *session) produce(recs []upstream.Record) error {
	k := s.c.k
	var h *holder
	if s.id != "" {
		var err error
		if h, err = s.holder(); err != nil {
			return err
		}
	}
	for _, r := range recs {
		t := k.topics[r.Topic]
		if t == nil || int(r.Partition) >= len(t.partitions) {
			return errors.New("unknown topic or partition")
		}
		if t.refuse != nil {
			if err := t.refuse(r); err != nil {
				if h != nil {
					k.end(h, false)
				}
				return &upstream.RefusedError{Topic: r.Topic, Partition: r.Partition, Err: err}
			}
		}
	}
	if h != nil && h.txn == nil {
		h.txn, h.until, h.parts = &txn{open: true}, time.Now().Add(k.Timeout), map[*replica]bool{}
	}
	for _, r := range recs {
		k.append(h, k.topics[r.Topic].partitions[r.Partition], r)
	}
	return nil
}

// clone copies records whose bytes are the sender's: a request that comes late comes with what was in it.
func clone(recs []upstream.Record) []upstream.Record {
	list := make([]upstream.Record, len(recs))
	for i, r := range recs {
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		headers := make([]record.Header, 0, len(r.Headers))
		for _, h := range r.Headers {
			headers = append(headers, record.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
		}
		r.Headers = headers
		list[i] = r
	}
	return list
}
