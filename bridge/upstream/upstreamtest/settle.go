package upstreamtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// Lost is how many ends of transactions it has lost.
func (k *Kafka) Lost() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

// LoseEnds has every end of a transaction lost in all partitions, or no more.
func (k *Kafka) LoseEnds(lose bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loseAll = lose
}

// Mend ends what hangs as it would have ended, as somebody who knows. It says how much there was.
func (k *Kafka) Mend() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hanging(func(p *replica, producer int64, st *standing) {
		p.mark(producer, st.epoch, st.txn.lost.commit)
		n++
	})
	return n
}

// Hanging says where the end of a transaction was lost.
func (k *Kafka) Hanging() (list []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hanging(func(p *replica, producer int64, st *standing) {
		list = append(list, fmt.Sprintf("%s: producer %d epoch %d, it would be committed: %v", p.topic, producer, st.epoch, st.txn.lost.commit))
	})
	return list
}

func (k *Kafka) hanging(fn func(*replica, int64, *standing)) {
	for _, t := range k.topics {
		for _, p := range t.partitions {
			for producer, st := range p.producers {
				if st.txn != nil && st.txn.lost != nil {
					fn(p, producer, st)
				}
			}
		}
	}
}

// ForgetProducers has partitions forget who has nothing open there, as they do after a day.
func (k *Kafka) ForgetProducers() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.topics {
		for _, p := range t.partitions {
			for producer, st := range p.producers {
				if st.txn == nil {
					delete(p.producers, producer)
				}
			}
		}
	}
}

// Identity implements upstream.Settler.
func (s *session) Identity(context.Context) (upstream.Identity, error) {
	s.c.k.mu.Lock()
	defer s.c.k.mu.Unlock()
	h := s.c.k.holders[s.id]
	if h == nil {
		return upstream.Identity{}, errors.New("no producer id")
	}
	return upstream.Identity{Producer: h.id, Epoch: s.epoch, Single: s.c.k.Single}, nil
}

// Shaken implements upstream.Settler: the client has made a new connection.
func (s *session) Shaken() bool {
	s.c.k.mu.Lock()
	defer s.c.k.mu.Unlock()
	shaken := s.restarts != s.c.k.restarts && !s.c.k.Unshaken
	s.restarts = s.c.k.restarts
	return shaken
}

// Counts implements upstream.Settler.
func (s *session) Counts(ctx context.Context, topics []string) (map[string]int32, error) {
	counts := map[string]int32{}
	return counts, s.c.ask(ctx, func() error {
		for _, name := range topics {
			if t := s.c.k.topics[name]; t != nil {
				counts[name] = int32(len(t.partitions))
			}
		}
		return nil
	})
}

// replica is a partition, nil where there is none.
func (k *Kafka) replica(topic string, partition int32) *replica {
	if t := k.topics[topic]; t != nil && partition >= 0 && int(partition) < len(t.partitions) {
		return t.partitions[partition]
	}
	return nil
}

var errUnknown = errors.New("unknown topic or partition")

// Ends implements upstream.Settler.
func (s *session) Ends(ctx context.Context, list []upstream.Spot) error {
	return s.c.ask(ctx, func() error {
		for i := range list {
			at := &list[i]
			p := s.c.k.replica(at.Topic, at.Partition)
			if at.Err = nil; p == nil {
				at.Err = errUnknown
				continue
			}
			at.Stable, at.End = p.end(), p.end()
			if n := p.open(); n < len(p.list) {
				at.Stable = p.list[n].offset
			}
		}
		return nil
	})
}

// Standing implements upstream.Settler.
func (s *session) Standing(ctx context.Context, list []upstream.Spot, producers []int64) error {
	return s.c.ask(ctx, func() error {
		for i := range list {
			at := &list[i]
			p := s.c.k.replica(at.Topic, at.Partition)
			if at.Err, at.Standings = nil, nil; p == nil {
				at.Err = errUnknown
				continue
			}
			if at.Err = s.c.k.topics[at.Topic].hidden; at.Err != nil {
				continue
			}
			for _, producer := range producers {
				st := p.producers[producer]
				if st == nil {
					continue
				}
				open := int64(-1)
				if st.txn != nil {
					open = p.list[slices.IndexFunc(p.list, func(e entry) bool { return e.txn == st.txn })].offset
				}
				at.Standings = append(at.Standings, upstream.Standing{Producer: producer, Epoch: st.epoch, Open: open, Stamp: st.stamp})
			}
		}
		return nil
	})
}

// Scan implements upstream.Settler.
func (s *session) Scan(
	ctx context.Context, topic string, partition int32, from, stamp int64, most int, fn func(record.Batch) (bool, error),
) (whole bool, err error) {
	var list []record.Batch
	err = s.c.ask(ctx, func() error {
		list = nil
		p := s.c.k.replica(topic, partition)
		if p == nil {
			return errUnknown
		}
		if from > 0 && from < p.first {
			return upstream.ErrOutOfRange
		}
		begin := slices.IndexFunc(p.list, func(e entry) bool {
			return from >= 0 && e.offset >= from || from < 0 && e.Timestamp >= stamp
		})
		whole = from >= 0 || p.first == 0 || begin > 0
		if begin < 0 {
			return nil
		}
		for i := begin; i < len(p.list); i++ {
			list = append(list, s.c.k.batch(p.list[i:i+1]))
		}
		return nil
	})
	read := 0
	for _, b := range list {
		if read >= most {
			return false, err
		}
		read += len(b)
		if enough, err := fn(b); err != nil || enough {
			return err == nil, err
		}
	}
	return whole && err == nil, err
}

// Mark implements upstream.Settler. It comes late, too.
func (s *session) Mark(ctx context.Context, list []upstream.Spot, m upstream.Marker) error {
	list = slices.Clone(list)
	mark := func() error {
		if s.c.k.DenyMarks {
			return upstream.ErrDenied
		}
		for i := range list {
			p := s.c.k.replica(list[i].Topic, list[i].Partition)
			if p == nil {
				return errUnknown
			}
			if st := p.producers[m.Producer]; st != nil && m.Epoch < st.epoch {
				return errors.New("invalid producer epoch")
			}
			if st := p.producers[m.Producer]; st != nil && st.txn != nil && st.txn.lost != nil {
				st.txn.lost.commit = m.Commit
			}
			p.mark(m.Producer, m.Epoch, m.Commit)
			if s.c.k.rng.Float64() < s.c.k.faults.Restart && i < len(list)-1 {
				return errGone // half way
			}
		}
		return nil
	}
	return s.c.do(ctx, mark, mark)
}

// Heedless is a defect: what hangs is always taken back, or with blind not even seen.
func Heedless(r upstream.Remote, blind bool) upstream.Remote { return heedless{r, blind} }

type heedless struct {
	upstream.Remote
	blind bool
}

// Open implements upstream.Remote.
func (r heedless) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return heedlessSession{s, r.blind}, nil
}

type heedlessSession struct {
	upstream.Session
	blind bool
}

// Ends implements upstream.Settler.
func (s heedlessSession) Ends(ctx context.Context, list []upstream.Spot) error {
	err := s.Session.Ends(ctx, list)
	for i := range list {
		if s.blind {
			list[i].Stable = math.MaxInt64
		}
	}
	return err
}

// Mark implements upstream.Settler.
func (s heedlessSession) Mark(ctx context.Context, list []upstream.Spot, m upstream.Marker) error {
	m.Commit = false
	return s.Session.Mark(ctx, list, m)
}
