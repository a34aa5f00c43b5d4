package upstreamtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// ErrTopic is in what a topic refuses records with whatever partition they are for.
var ErrTopic = errors.New("not this topic")

var (
	errStuck = errors.New("cursors get nowhere")
	errLost  = errors.New("connection lost")
	errGone  = errors.New("no answer in time")
)

// Client is one board's way to the cluster, for one life.
type Client struct {
	k    *Kafka
	mu   sync.Mutex
	dead bool
	cut  bool
	// rate is how many bytes a second the link carries, 0 for any number, patience what transactions are given.
	rate     int
	patience time.Duration
	read     atomic.Int64
	asked    atomic.Int64
	searched atomic.Int64
}

// CursorsRead is how many records of cursor topics were read.
func (c *Client) CursorsRead() int64 { return c.read.Load() }

// Thin has the link carry so many bytes of records a second.
func (c *Client) Thin(rate int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate = rate
}

// Patience implements upstream.Patient.
func (c *Client) Patience(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patience = d
}

// carry takes as long as records take over the link.
func (c *Client) carry(ctx context.Context, recs []upstream.Record) error {
	n := 0
	for _, r := range recs {
		n += len(r.Key) + len(r.Value)
	}
	return c.take(ctx, n)
}

// take takes as long as so many bytes do.
func (c *Client) take(ctx context.Context, n int) error {
	c.mu.Lock()
	rate := c.rate
	c.mu.Unlock()
	if rate == 0 {
		return nil
	}
	t := time.NewTimer(time.Duration(n) * time.Second / time.Duration(rate))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
		if restarts := k.restarts; late != nil {
			k.hold(func() error {
				if k.restarts != restarts {
					return errLost // its connection is dead
				}
				return late()
			})
		}
		return errGone
	}
	restarts := k.restarts
	err := request()
	if k.restarts != restarts && late != nil && k.rng.IntN(2) == 0 {
		return errGone
	}
	if dice < f.Lost+f.Late+f.Silent {
		return errGone
	}
	return err
}

// Open implements upstream.Remote.
func (c *Client) Open(ctx context.Context, id string) (upstream.Session, error) {
	c.mu.Lock()
	s := &session{c: c, id: id, epoch: -1, patience: c.patience}
	c.mu.Unlock()
	if s.patience == 0 {
		s.patience = c.k.Timeout
	}
	if id == "" {
		return s, nil
	}
	c.k.mu.Lock()
	none := c.k.NoTransactions
	c.k.mu.Unlock()
	if none {
		return nil, upstream.ErrNoTransactions
	}
	if c.k.Longest > 0 && s.patience > c.k.Longest {
		return nil, upstream.ErrImpatient
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
		s.epoch, s.restarts = h.epoch, k.restarts // the client connects again, and asks again
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
	// restarts is that of the Kafka when it was connected.
	restarts int
	// patience is what its transactions are given.
	patience time.Duration
}

func (s *session) Cluster() string { return "fake" }

func (s *session) Close() {}

// Ensure implements upstream.Session.
func (s *session) Ensure(ctx context.Context, topics []upstream.Topic) error {
	return s.c.ask(ctx, func() error {
		for i := range topics {
			want := &topics[i]
			t := s.c.k.topics[want.Name]
			if t == nil && s.c.k.Plain && len(want.Configs) > 1 {
				want.Err = errors.New("invalid config")
				continue
			}
			if t == nil {
				t = s.c.k.create(want.Name, int(want.Partitions), want.Configs["cleanup.policy"] == "compact")
				maps.Copy(t.settings, want.Configs)
				want.Made = true
			}
			t.grow(int(want.Partitions))
			want.ID, want.Have, want.Compacted, want.Err = t.id, int32(len(t.partitions)), t.compacted, nil
		}
		return nil
	})
}

// Follow implements upstream.Session.
func (s *session) Follow(ctx context.Context, list []upstream.Setting) error {
	return s.c.ask(ctx, func() error {
		s.c.k.asked++
		for i := range list {
			set := &list[i]
			t := s.c.k.topics[set.Topic]
			if set.Err = t.fixed; set.Err != nil {
				continue
			}
			if v, is := t.settings[set.Name]; is {
				set.Is = &v
			}
			if same(set.Is, set.Want) || !same(set.Is, set.Was) {
				continue
			}
			if set.Is = set.Want; set.Want == nil {
				delete(t.settings, set.Name)
			} else {
				t.settings[set.Name] = *set.Want
			}
		}
		return nil
	})
}

func same(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// stuckAfter is how long cursors may get nowhere.
const stuckAfter = 5 * time.Minute

// Cursors implements upstream.Session.
func (s *session) Cursors(
	ctx context.Context, name string, partition int32, from int64, fn func(key, value []byte) error,
) (next int64, err error) {
	stuck := time.Now().Add(stuckAfter)
	for end := int64(-1); ; {
		if time.Now().After(stuck) {
			return from, errStuck
		}
		var list []entry
		open := false
		err := s.c.ask(ctx, func() error {
			all := s.c.k.topics[name].partitions[partition].list
			if end < 0 {
				end = s.c.k.topics[name].partitions[partition].end()
			}
			for _, e := range all {
				if open = open || e.offset < end && e.txn != nil && e.txn.open; open {
					break
				}
				if e.offset >= from && e.offset < end && !e.marker && (e.txn == nil || e.txn.committed) {
					list = append(list, e)
				}
			}
			return nil
		})
		if err != nil {
			return from, err
		}
		for _, e := range list {
			s.c.read.Add(1)
			if err := fn(e.Key, e.Value); err != nil {
				return from, err
			}
			from, stuck = e.offset+1, time.Now().Add(stuckAfter)
		}
		if !open {
			return end, nil
		}
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return from, ctx.Err()
		}
	}
}

// connected is a request of a transaction: it does not come with a new connection.
func (s *session) connected(request func() error) func() error {
	return func() error {
		if s.restarts != s.c.k.restarts && !s.c.k.Unshaken && s.id != "" {
			return errLost
		}
		return request()
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
		if err := s.c.carry(ctx, some); err != nil {
			return err
		}
		out := some
		some = clone(some)
		produce := func() error { return s.produce(some) }
		if err := s.c.do(ctx, s.connected(produce), produce); err != nil {
			return err
		}
		for i := range some {
			out[i].Offset = some[i].Offset
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
		s.epoch = h.epoch
		return nil
	}
	if s.c.k.held(s.id, commit) {
		return errGone
	}
	return s.c.do(ctx, s.connected(commit), commit)
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
				return &upstream.RefusedError{Topic: r.Topic, Partition: r.Partition, Whole: errors.Is(err, ErrTopic), Err: err}
			}
		}
	}
	if h != nil && !h.open {
		h.open, h.until = true, time.Now().Add(s.patience)
	}
	for i := range recs {
		r := &recs[i]
		p := k.topics[r.Topic].partitions[r.Partition]
		r.Offset = p.end()
		k.append(h, p, *r)
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
