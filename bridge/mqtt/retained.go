package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"

	"millrace/broker/record"
)

const (
	retainedTopic = "__mqtt_retained" // compacted: key the MQTT topic, value the payload, null for none
	sessionsTopic = "__mqtt_sessions" // compacted: key the client id, value the session, null for none
	maxRetained   = 50_000            // topics with a retained message
)

// retained is the index of retained messages: which offset of the retained topic holds each MQTT topic's newest. The
// messages themselves stay in the log (3.3.1.3): the newest of each topic [MQTT-3.3.1-5], [MQTT-3.3.1-5] of 3.1.1,
// [MQTT-3.3.1-7] of 3.1.1, whoever's session ends ([MQTT-3.1.2-7] of 3.1.1).
type retained struct {
	s *Server

	mu sync.RWMutex
	st *stream // nil until the topic exists
	// entries are in order of offsets. One that was replaced has an empty topic, until they outnumber the rest.
	entries []entry
	byTopic map[string]int // place in entries
	coming  int            // appended and not yet durable
}

type entry struct {
	offset int64
	topic  string
}

// own returns partition 0 of one of the door's own topics; state is ordered, so it lies in one partition.
func (s *Server) own(ctx context.Context, topic string) (Partition, error) {
	if p, ok := s.cfg.Log.Partition(topic, 0); ok {
		return p, nil
	}
	if err := s.ensure(ctx, topic); err != nil {
		return nil, err
	}
	if p, ok := s.cfg.Log.Partition(topic, 0); ok {
		return p, nil
	}
	return nil, fmt.Errorf("create %s: %w", topic, ErrGone)
}

// scanAll calls fn for every record of a partition.
func scanAll(p Partition, fn func(r *record.Record)) error {
	var buf []byte
	for next := p.Start(); next < p.High(); {
		var err error
		if buf, err = p.ReadBatches(buf[:0], next, readBytes); err != nil {
			if start := p.Start(); errors.Is(err, ErrOutOfRange) && start > next {
				next = start
				continue
			}
			return fmt.Errorf("read %s-%d at %d: %w", p.Topic(), p.Index(), next, err)
		}
		if len(buf) == 0 {
			return nil
		}
		if next, err = each(buf, next, recordBytes, func(r *record.Record) bool { fn(r); return true }); err != nil {
			return fmt.Errorf("read %s-%d at %d: %w", p.Topic(), p.Index(), next, err)
		}
	}
	return nil
}

func (t *retained) load() error {
	p, ok := t.s.cfg.Log.Partition(retainedTopic, 0)
	if !ok {
		return nil
	}
	t.attach(p)
	return scanAll(p, func(r *record.Record) { t.set(string(r.Key), r.Offset, r.Value == nil) })
}

// attach finds the stream retained messages are read through.
func (t *retained) attach(p Partition) {
	if st := t.stream(); st != nil && st.part == p {
		return
	}
	st := t.s.streams.get(p, p.High())
	t.mu.Lock()
	t.st = st
	t.mu.Unlock()
}

// stream is what retained messages are read through, nil while there never was one.
func (t *retained) stream() *stream {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.st
}

// put appends rec, whose key is an MQTT topic and whose value is nil to end its retained message [MQTT-3.3.1-6]
// [MQTT-3.3.1-7]. The index follows before done is called [MQTT-3.3.1-5].
func (t *retained) put(ctx context.Context, rec record.Record, done func(error)) {
	part, err := t.begin(ctx, rec, done)
	if err != nil || part.Partition == nil {
		done(err)
		return
	}
	part.Partition.AppendRecords(part.Records, false, part.Done)
}

// errNoPlace is returned by put and begin while there are as many retained messages as there may be.
var errNoPlace = fmt.Errorf("no more topics can have a retained message: %w", ErrFull)

// begin is put without the append, which is the caller's. The part is empty where there is nothing to do; then, and after
// an error, done will not be called.
func (t *retained) begin(ctx context.Context, rec record.Record, done func(error)) (Part, error) {
	topic, ends := string(rec.Key), rec.Value == nil
	t.mu.Lock()
	_, known := t.byTopic[topic]
	paid := !known && !ends
	if paid && (len(t.byTopic)+t.coming >= maxRetained || !t.s.cfg.State.TryAcquire(retainedCost(topic))) {
		t.mu.Unlock()
		return Part{}, errNoPlace
	}
	if ends && !known && t.coming == 0 {
		t.mu.Unlock()
		return Part{}, nil
	}
	t.coming++
	t.mu.Unlock()
	p, err := t.s.own(ctx, retainedTopic)
	if err != nil {
		t.landed(topic, 0, ends, paid, err)
		return Part{}, err
	}
	t.attach(p)
	return Part{p, []record.Record{rec}, func(base int64, err error) {
		t.landed(topic, base, ends, paid, err)
		done(err)
	}}, nil
}

// landed notes what became of a retained message; paid says that its place in the index was taken from the budget.
func (t *retained) landed(topic string, offset int64, ends, paid bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.coming--
	if err == nil {
		t.setLocked(topic, offset, ends)
	}
	if paid {
		t.s.cfg.State.Release(retainedCost(topic)) // the index has counted it
	}
}

func (t *retained) set(topic string, offset int64, ends bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.setLocked(topic, offset, ends)
}

func (t *retained) setLocked(topic string, offset int64, ends bool) {
	if i, ok := t.byTopic[topic]; ok {
		topic = t.entries[i].topic // the string the index already holds
		t.entries[i].topic = ""
		delete(t.byTopic, topic)
		t.s.cfg.State.Release(retainedCost(topic))
	}
	if !ends {
		t.s.cfg.State.Overdraw(retainedCost(topic))
		t.byTopic[topic] = len(t.entries)
		t.entries = append(t.entries, entry{offset, topic})
	}
	if len(t.entries) < 64 || len(t.entries) < 2*len(t.byTopic) {
		return
	}
	live := make([]entry, 0, len(t.byTopic)+16)
	for _, e := range t.entries {
		if e.topic != "" {
			t.byTopic[e.topic] = len(live)
			live = append(live, e)
		}
	}
	t.entries = live
}

// next is the offset of the first retained message in [from, end) whose topic matches the filter.
func (t *retained) next(filter string, from, end int64) (int64, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].offset >= from })
	for _, e := range t.entries[i:] {
		if e.offset >= end {
			break
		}
		if e.topic != "" && matches(filter, e.topic) {
			return e.offset, true
		}
	}
	return 0, false
}

// end is the offset past every retained message the index knows, and whether any matches the filter.
func (t *retained) end(filter string) (int64, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.entries) == 0 {
		return 0, false
	}
	end := t.entries[len(t.entries)-1].offset + 1
	if strings.ContainsAny(filter, "+#") {
		return end, true
	}
	_, ok := t.byTopic[filter]
	return end, ok
}
