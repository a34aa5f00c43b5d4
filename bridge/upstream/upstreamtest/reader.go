package upstreamtest

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/record"
)

// leaders is how many brokers share the partitions.
const leaders = 2

// begin begins a transaction of somebody.
func (k *Kafka) begin() *holder {
	k.producer++
	return &holder{id: k.producer, txn: &txn{open: true, producer: k.producer}, until: time.Now().Add(k.Timeout), parts: map[*replica]bool{}}
}

// Write appends records of somebody, without a transaction.
func (k *Kafka) Write(recs ...upstream.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range recs {
		k.append(nil, k.topics[r.Topic].partitions[r.Partition], r)
	}
}

// Transact appends records of somebody in a transaction, which is open until end is called, or its time is over.
func (k *Kafka) Transact(recs ...upstream.Record) (end func(commit bool)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.begin()
	k.holders[string(binary.BigEndian.AppendUint64([]byte("somebody"), uint64(h.id)))] = h
	for _, r := range recs {
		k.append(h, k.topics[r.Topic].partitions[r.Partition], r)
	}
	return func(commit bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.end(h, commit)
	}
}

// Retain lets all but the last n records of a partition go, and none of a transaction that is open.
func (k *Kafka) Retain(name string, partition, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.topics[name].partitions[partition]
	if i := min(len(p.list)-n, p.open()); i > 0 {
		end := p.end()
		p.list = slices.Clone(p.list[i:])
		if p.first = end; len(p.list) > 0 {
			p.first = p.list[0].offset
		}
	}
}

// open is the place in the list of the first record of a transaction that is open.
func (p *replica) open() int {
	if i := slices.IndexFunc(p.list, func(e entry) bool { return e.txn != nil && e.txn.open }); i >= 0 {
		return i
	}
	return len(p.list)
}

// Elect has every partition get another leader epoch, as a restart of brokers does.
func (k *Kafka) Elect() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.topics {
		for _, p := range t.partitions {
			p.epoch++
		}
	}
}

// Forget has the brokers not know what they lead, for so many questions where a partition begins and ends: they have just begun.
func (k *Kafka) Forget(questions int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgotten = questions
}

// Truncate elects a leader that lacks the records of a partition from an offset on. It says whether there was one.
func (k *Kafka) Truncate(name string, partition int, offset int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.topics[name].partitions[partition]
	p.epoch++
	later := func(e entry) bool { return e.offset >= offset }
	p.list, p.all = slices.DeleteFunc(p.list, later), slices.DeleteFunc(p.all, later)
	p.first = min(p.first, offset)
}

// End is the offset of a partition's next record.
func (k *Kafka) End(name string, partition int) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.topics[name].partitions[partition].end()
}

// Start is the offset of a partition's first record.
func (k *Kafka) Start(name string, partition int) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.topics[name].partitions[partition].first
}

// Grow gives a topic more partitions.
func (k *Kafka) Grow(name string, partitions int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.topics[name].grow(partitions)
}

// Placed is a record and its offset.
type Placed struct {
	upstream.Record
	Offset int64
}

// Everything is every committed record that a partition ever had from an offset on and that was not truncated, whether it was
// let go or not.
func (k *Kafka) Everything(name string, partition int, from int64) (list []Placed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.topics[name]
	if t == nil || partition >= len(t.partitions) {
		return nil
	}
	for _, e := range t.partitions[partition].all {
		if e.offset >= from && !e.marker && (e.txn == nil || e.txn.committed) {
			list = append(list, Placed{e.Record, e.offset})
		}
	}
	return list
}

// Read implements upstream.Source.
func (c *Client) Read(ctx context.Context) (upstream.Reader, error) {
	return &reader{c}, c.ask(ctx, func() error { return nil })
}

type reader struct{ c *Client }

func (r *reader) Cluster() string { return "fake" }
func (r *reader) Close()          {}

// Look implements upstream.Reader.
func (r *reader) Look(ctx context.Context, _ []string) (list []upstream.Origin, err error) {
	err = r.c.ask(ctx, func() error {
		list = nil
		for name, t := range r.c.k.topics {
			o := upstream.Origin{Name: name, ID: t.id}
			for i, p := range t.partitions {
				o.Leaders, o.Epochs = append(o.Leaders, int32(i%leaders)), append(o.Epochs, p.epoch)
			}
			list = append(list, o)
		}
		return nil
	})
	return list, err
}

// Settings implements upstream.Reader.
func (r *reader) Settings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	return all, r.c.ask(ctx, func() error {
		for _, name := range topics {
			if t := r.c.k.topics[name]; t != nil && t.compacted {
				all[name] = map[string]string{"cleanup.policy": "compact"}
			}
		}
		return nil
	})
}

// Bounds implements upstream.Reader.
func (r *reader) Bounds(ctx context.Context, list []upstream.Bound) error {
	return r.c.ask(ctx, func() error {
		for i := range list {
			b := &list[i]
			if r.c.k.forgotten > 0 {
				r.c.k.forgotten--
				b.Err = upstream.ErrMoved
				continue
			}
			t := r.c.k.topics[b.Topic]
			if t == nil || int(b.Partition) >= len(t.partitions) {
				b.Err = errors.New("unknown topic or partition")
				continue
			}
			p := t.partitions[b.Partition]
			b.Start, b.End, b.Same = p.first, p.end(), p.end()
			if j := slices.IndexFunc(p.list, func(e entry) bool { return e.epoch > b.Epoch }); j >= 0 {
				b.Same = p.list[j].offset
			}
			if b.Epoch < 0 {
				b.Same = -1
			}
			b.From = -1
			if b.Since > 0 {
				b.From = p.since(b.Since)
			}
		}
		return nil
	})
}

// since is the first offset with a stamp or a later one, -1 for none, as Kafka looks it up: from the last record on that its
// index of stamps may have before that. Of several with the very stamp it may pass over the first.
func (p *replica) since(stamp int64) int64 {
	begin, latest := 0, int64(-1)
	for i, e := range p.list {
		if e.marker || e.Timestamp < latest {
			continue
		}
		if latest = e.Timestamp; latest > stamp {
			break
		}
		begin = i
	}
	if i := slices.IndexFunc(p.list[begin:], func(e entry) bool { return !e.marker && e.Timestamp >= stamp }); i >= 0 {
		return p.list[begin+i].offset
	}
	return -1
}

// Fetch implements upstream.Reader.
func (r *reader) Fetch(ctx context.Context, leader int32, list []upstream.Portion, maxBytes int, wait time.Duration) error {
	for until := time.Now().Add(wait); ; {
		some := false
		err := r.c.ask(ctx, func() error {
			room := maxBytes
			for i := range list {
				some = r.c.k.portion(&list[i], leader, &room) || some
			}
			return nil
		})
		if err != nil || some || !time.Now().Before(until) {
			return err
		}
		t := time.NewTimer(500 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// portion fills in what a partition has, and says whether that is something.
func (k *Kafka) portion(q *upstream.Portion, leader int32, room *int) bool {
	q.Batches, q.Aborted, q.Err = nil, nil, nil
	t := k.topics[q.Topic]
	if t == nil || t.id != q.ID || int(q.Partition) >= len(t.partitions) || q.Partition%leaders != leader {
		q.Err = upstream.ErrMoved
		return true
	}
	p := t.partitions[q.Partition]
	switch {
	case p.epoch != q.Epoch:
		q.Err = upstream.ErrMoved
		return true
	case q.From < p.first || q.From > p.end():
		q.Err = upstream.ErrOutOfRange
		return true
	}
	stable := p.open()
	q.Stable = p.end()
	if stable < len(p.list) {
		q.Stable = p.list[stable].offset
	}
	list := p.list[:stable]
	i, _ := slices.BinarySearchFunc(list, q.From, func(e entry, offset int64) int { return int(e.offset - offset) })
	for back := k.rng.IntN(4); back > 0 && i > 0 && i < len(list) && together(&list[i-1], &list[i]); back-- {
		i-- // a batch that begins before
	}
	seen := map[*txn]bool{}
	for i < len(list) && *room > 0 {
		n := 1
		for most := 1 + k.rng.IntN(8); n < most && i+n < len(list) && together(&list[i+n-1], &list[i+n]); {
			n++
		}
		b := k.batch(list[i : i+n])
		if cut := k.rng.IntN(2) == 0; len(b) > *room && len(q.Batches) > 0 && cut {
			b = b[:*room] // the peer cuts where its limit is
		}
		if x := list[i].txn; x != nil && !x.committed && !seen[x] {
			seen[x] = true
			first := slices.IndexFunc(p.list, func(e entry) bool { return e.txn == x })
			q.Aborted = append(q.Aborted, upstream.Aborted{Producer: x.producer, First: p.list[first].offset})
		}
		q.Batches = append(q.Batches, b...)
		*room -= len(b)
		i += n
	}
	return len(q.Batches) > 0
}

// together says that two records may be in one batch.
func together(a, b *entry) bool {
	return b.offset == a.offset+1 && a.txn == b.txn && a.epoch == b.epoch && !a.marker && !b.marker
}

// batch is a batch of the peer's log.
func (k *Kafka) batch(list []entry) record.Batch {
	// A pooled zstd decoder belongs to the bubble it was made in: the lane against Apache Kafka has zstd.
	w := record.NewBuilder(record.Codec(k.rng.IntN(int(record.Zstd))))
	first := &list[0]
	if first.marker {
		kind := byte(0)
		if first.ends.committed {
			kind = 1
		}
		w = record.NewBuilder(record.None)
		w.Add(0, []byte{0, 0, 0, kind}, []byte{0, 0, 0, 0, 0, 0}, nil)
	}
	for i := range list {
		if e := &list[i]; !e.marker {
			w.Add(e.Timestamp, e.Key, e.Value, e.Headers)
		}
	}
	built, err := w.Build()
	if err != nil {
		panic(err) // the test's own records
	}
	b := slices.Clone(built)
	b.Stamp(first.offset, first.epoch)
	switch {
	case first.marker:
		b[22] |= 0x20
		b.SetProducer(first.ends.producer, 0, -1, true)
	case first.txn != nil:
		b.SetProducer(first.txn.producer, 0, 0, true)
	}
	return b
}
