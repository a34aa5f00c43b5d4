package upstream

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// scoutsMost is how many transactions send a record ahead after one was refused, when they hold scoutLeast bytes or more. A peer
	// that still writes the end of the last transaction, in each partition, refuses all of the next one, which has come in vain.
	// Else a record ahead costs a round trip more, so it is not done for nothing.
	scoutsMost = 8
	scoutLeast = 32 << 10
)

// Send implements Session.
func (s *kafkaSession) Send(ctx context.Context, recs []Record) error {
	if len(recs) == 0 {
		return nil
	}
	if s.transactional {
		s.pace.wait(ctx)
		if err := s.cl.BeginTransaction(); err != nil {
			return classify(err)
		}
	}
	s.outcome.err = nil
	s.refused.Store(0)
	s.fill(recs)
	scout, began := -1, time.Now()
	if s.transactional && s.scouts > 0 {
		if scout = scouting(recs); scout >= 0 {
			if err := s.produce(ctx, scout, scout+1, -1); err != nil {
				return err
			}
			s.pace.took(time.Since(began))
		}
	}
	for first := 0; first < len(s.slab); {
		end := first + batch(recs[first:], s.batchBytes)
		if err := s.produce(ctx, first, end, scout); err != nil {
			return err
		}
		if first == 0 && scout < 0 {
			s.pace.took(time.Since(began))
		}
		first = end
	}
	if s.scouts = max(s.scouts-1, 0); s.refused.Swap(0) > 0 {
		s.scouts = scoutsMost
	}
	if s.transactional {
		if err := s.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return classify(err)
		}
		s.pace.end()
	}
	for i := range recs {
		recs[i].Offset = s.slab[i].Offset
	}
	clear(s.slab)
	clear(s.headers)
	return nil
}

// produce sends some of the records, without the one that went ahead, and waits until they are there.
func (s *kafkaSession) produce(ctx context.Context, from, to, ahead int) error {
	for i := from; i < to; i++ {
		if i != ahead {
			s.cl.Produce(ctx, &s.slab[i], s.outcome.promise)
		}
	}
	if err := s.cl.Flush(ctx); err != nil {
		return err
	}
	return s.outcome.result()
}

// scouting is which record may go ahead of a transaction: the first of the last one's partition, mostly a cursor; -1 where that is as
// good as all.
func scouting(recs []Record) int {
	last, total := &recs[len(recs)-1], 0
	for i := range recs {
		if total += framed(&recs[i]); total > scoutLeast {
			return slices.IndexFunc(recs, func(r Record) bool { return r.Topic == last.Topic && r.Partition == last.Partition })
		}
	}
	return -1
}

// batch is how many of the records can be sent together: the client makes one batch for each partition, of most bytes unless
// it is of one record.
func batch(recs []Record, most int) int {
	type place struct {
		topic     string
		partition int32
	}
	total := 0
	for i := range recs {
		total += framed(&recs[i])
	}
	if total+batchHead <= most {
		return len(recs)
	}
	sizes := map[place]int{}
	for i := range recs {
		at := place{recs[i].Topic, recs[i].Partition}
		size := framed(&recs[i])
		if n, some := sizes[at]; some && n+size+batchHead > most {
			return i
		}
		sizes[at] += size
	}
	return len(recs)
}

// batchHead is what a batch takes besides its records, in bytes.
const batchHead = 61

// framed is the most a record takes in a batch.
func framed(r *Record) int {
	n := len(r.Key) + len(r.Value) + 36
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 10
	}
	return n
}

// fill makes the client's records of ours, in memory that is used again. Nobody holds it: the last Send was acknowledged.
func (s *kafkaSession) fill(recs []Record) {
	n := 0
	for i := range recs {
		n += len(recs[i].Headers)
	}
	if cap(s.slab) < len(recs) {
		s.slab = make([]kgo.Record, len(recs))
	}
	if cap(s.headers) < n {
		s.headers = make([]kgo.RecordHeader, n)
	}
	s.slab, s.headers = s.slab[:len(recs)], s.headers[:0]
	for i := range recs {
		r := &recs[i]
		mark := len(s.headers)
		for _, h := range r.Headers {
			s.headers = append(s.headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		s.slab[i] = kgo.Record{
			Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp),
		}
		if end := len(s.headers); end > mark {
			s.slab[i].Headers = s.headers[mark:end:end]
		}
	}
}

// wait is retryWait, longer with each refusal of a Send: what is refused goes over the link whole again, and the client
// itself takes an answer for a success, whatever it says.
func (s *kafkaSession) wait(failures int) time.Duration {
	return retryWait(max(failures, int(s.refused.Add(1))))
}

// refusals counts what a client does when it is refused: it waits, or asks who leads what.
type refusals struct{ atomic.Int32 }

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (r *refusals) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	if key == int16(kmsg.Metadata) {
		r.Add(1)
	}
}
