// Fetch: v4-18
//
//   - v7 (KIP-227): incremental sessions, in a cache bounded by number and by bytes. A session unused for two
//     minutes gives way to a new one; with no room the answer has session id 0 and the reader fetches in full.
//   - v9 (KIP-320): a leader epoch below or above ours is FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH.
//   - v12 (KIP-595): where the last fetched epoch says that the logs part, that is told and nothing is served.
//     KIP-951: on NOT_LEADER the leader. The addresses of v16 are not sent; readers ask for metadata.
//   - v13 (KIP-516): topics by id.
//   - MinBytes counts bytes below the high watermark. While a fetch waits they are estimated from the logs' sizes, so
//     that an answer may come with a little less than was asked for.
//   - MaxBytes is at most `fetch.max.bytes`; the first batch is sent whatever its size (KIP-74).
//   - read_committed reads the same as read_uncommitted: there are no transactions.
//   - Replicas (replica id from 0) are refused with REPLICA_NOT_AVAILABLE: partitions have one replica.
//   - Preferred read replica (KIP-392): none.
//   - A fetch of a reader that has gone is given up at once, and so is the wait for a topic that is deleted. None waits
//     longer than an hour.

package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/purgatory"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// fetchWaitMax bounds how long a fetch may wait, in milliseconds.
const fetchWaitMax = 3_600_000

// fetchedSize is about what the answer for one partition takes beside its records, in bytes, encoded and not.
const fetchedSize = 192

// fetch is one Fetch request on its way. Nothing of it changes once it waits.
type fetch struct {
	h       *Handler
	header  wire.Header
	ctx     context.Context // ends when the server closes
	reply   func(server.Answer)
	session *session
	full    bool // the answer names every partition
	readers []reader
	min     int64 // bytes to wait for
	max     int   // bytes of records in the answer
	aborted bool  // read_committed: the list of aborted transactions is wanted
}

// reader is one partition of a fetch.
type reader struct {
	*want
	replica
	// have and size are, when the fetch began to wait and measured was set, the bytes it could read and the log's size.
	have, size int64
	measured   bool
}

// Fetch replies with what there is when that is MinBytes, an error, or all there will be for MaxWait milliseconds.
// The spans of the answer are read in the connection's goroutine when it writes.
func (h *Handler) Fetch(req *server.Request, b *kmsg.FetchRequest, reply func(server.Answer)) (cancel func() bool) {
	f := &fetch{
		h: h, header: req.Header, ctx: req.Context, reply: reply,
		min: int64(b.MinBytes), max: min(int(max(b.MaxBytes, 0)), h.config.FetchMax), aborted: b.IsolationLevel == 1,
	}
	if b.ReplicaID >= 0 || b.ReplicaState.ID >= 0 {
		f.refuse(codeReplicaNotAvailable)
		return nil
	}
	wants, code := f.open(b)
	if code != codeNone {
		f.refuse(code)
		return nil
	}
	img := h.config.Catalog.Image()
	f.readers = make([]reader, len(wants))
	keys := make([]Key, 0, len(wants))
	allowed := false
	for i, w := range wants {
		f.readers[i] = reader{want: w, replica: h.find(img, w.name, w.id, w.index)}
		if i == 0 || w.name != wants[i-1].name || w.id != wants[i-1].id {
			allowed = h.allowedTopic(req, auth.Read, img, w.name, w.id)
		}
		if !allowed {
			f.readers[i].replica = replica{code: codeTopicAuthorization}
		}
		if r := &f.readers[i]; r.log != nil {
			keys = append(keys, Key{Topic: r.topic.ID, Partition: r.index})
		}
	}
	if b.MaxWaitMillis <= 0 || len(keys) == 0 || f.Ready() {
		f.Complete(false)
		return nil
	}
	f.measure()
	ticket, err := h.config.Waits.Watch(f, keys, int64(min(b.MaxWaitMillis, fetchWaitMax)))
	if err != nil {
		f.Complete(true) // no room to wait: the reader is told what there is, and comes again
		return nil
	}
	return func() bool { return h.config.Waits.Cancel(ticket) }
}

// open sorts out the session and returns what the reader wants.
func (f *fetch) open(b *kmsg.FetchRequest) ([]*want, int16) {
	wants := wantsOf(b)
	cache := f.h.sessions
	byID := b.Version >= 13
	switch {
	case b.Version < 7 || b.SessionEpoch == sessionNone:
		if b.Version >= 7 && b.SessionID != 0 {
			cache.end(b.SessionID)
		}
		f.full = true
		return wants, codeNone
	case b.SessionEpoch == sessionFull:
		if b.SessionID != 0 {
			cache.end(b.SessionID)
		}
		f.full = true
		kept := make([]*want, len(wants))
		for i, w := range wants {
			one := *w
			kept[i] = &one
		}
		f.session = cache.begin(kept, byID)
		return wants, codeNone
	}
	var forget []wantKey
	for i := range b.ForgottenTopics {
		t := &b.ForgottenTopics[i]
		for _, p := range t.Partitions {
			forget = append(forget, wantKey{t.Topic, t.TopicID, p})
		}
	}
	s, wants, code := cache.update(b.SessionID, b.SessionEpoch, wants, forget, byID)
	f.session = s
	return wants, code
}

func wantsOf(b *kmsg.FetchRequest) []*want {
	n := 0
	for i := range b.Topics {
		n += len(b.Topics[i].Partitions)
	}
	all, wants := make([]want, n), make([]*want, 0, n)
	for i := range b.Topics {
		t := &b.Topics[i]
		for j := range t.Partitions {
			p, w := &t.Partitions[j], &all[len(wants)]
			*w = want{
				name: t.Topic, id: t.TopicID, index: p.Partition,
				offset: p.FetchOffset, epoch: p.CurrentLeaderEpoch, lastEpoch: p.LastFetchedEpoch, maxBytes: p.PartitionMaxBytes,
				high: -1, start: -1,
			}
			wants = append(wants, w)
		}
	}
	return wants
}

// refuse answers the whole request with a code. Before v7 there is no place for one but an empty answer.
func (f *fetch) refuse(code int16) {
	f.reply(func() *wire.Response { return wire.EncodeFetch(f.header, &wire.Fetch{Code: code}) })
}

// check is what keeps a partition from being read, before its log is.
func (f *fetch) check(r *reader) int16 {
	switch {
	case r.code != codeNone:
		return r.code
	case f.h.config.Logs.Log(r.topic.ID, r.index) != nil:
	case r.name == "": // deleted while the fetch waited
		return codeUnknownTopicID
	default:
		return codeUnknownTopicOrPartition
	}
	if code := fenced(r.log, r.epoch); code != codeNone {
		return code
	}
	if r.offset < r.log.Start() || r.offset > r.log.End() {
		return codeOffsetOutOfRange
	}
	return codeNone
}

// diverging is where the reader's log and this one part, nil if they do not.
func (r *reader) diverging() *wire.EpochEnd {
	if r.lastEpoch < 0 {
		return nil
	}
	if epoch, end := r.log.EpochEnd(r.lastEpoch); epoch < r.lastEpoch || end < r.offset {
		return &wire.EpochEnd{Epoch: epoch, End: end}
	}
	return nil
}

// measure notes what can be read now, so that Ready need not ask the disk while the fetch waits.
func (f *fetch) measure() {
	if f.min <= 1 {
		return // one record more is enough
	}
	for i := range f.readers {
		r := &f.readers[i]
		if r.log == nil {
			continue
		}
		r.size, r.measured = r.log.Size(), true
		if r.offset < r.log.High() {
			r.have = f.readable(r)
		}
	}
}

// Ready implements purgatory.Op.
func (f *fetch) Ready() bool {
	var bytes int64
	for i := range f.readers {
		r := &f.readers[i]
		if f.check(r) != codeNone || r.diverging() != nil {
			return true
		}
		if r.offset >= r.log.High() {
			continue
		}
		if f.min <= 1 {
			return true
		}
		if r.measured {
			bytes += r.have + max(0, r.log.Size()-r.size)
		} else {
			bytes += f.readable(r)
		}
		if bytes >= f.min {
			return true
		}
	}
	return f.min <= 0
}

// readable is how many bytes one partition has for the reader.
func (f *fetch) readable(r *reader) int64 {
	span, err := r.log.Read(r.offset, int(max(r.maxBytes, 0)))
	if err != nil {
		return f.min // an error is told at once
	}
	defer span.Release()
	return int64(span.Len())
}

// Cost implements purgatory.Op.
func (f *fetch) Cost() int64 { return 256 + int64(len(f.readers))*192 }

// Complete implements purgatory.Op.
func (f *fetch) Complete(bool) { f.reply(f.answer) }

var _ purgatory.Op = (*fetch)(nil)

// answer reads what there is and builds the response, in the connection's goroutine.
func (f *fetch) answer() *wire.Response {
	room, err := f.h.room(f.ctx, len(f.readers)*fetchedSize)
	if err != nil {
		return &wire.Response{Close: true}
	}
	out := &wire.Fetch{}
	if f.session != nil {
		out.SessionID = f.session.id
	}
	left, first := f.max, true
	gave := make(map[wantKey]bool)
	for i := range f.readers {
		r := &f.readers[i]
		p := f.read(r, left, first)
		n := 0
		if p.Records != nil {
			n = p.Records.Len()
			left -= n
			first = false
		}
		if f.session != nil {
			tell := f.session.changed(r.key(), p.High, p.Start, p.Code, n > 0)
			if n > 0 {
				gave[r.key()] = true
			}
			if !f.full && !tell && p.Diverging == nil {
				continue
			}
		}
		if t := len(out.Topics) - 1; t < 0 || out.Topics[t].Name != r.name || out.Topics[t].ID != r.id {
			out.Topics = append(out.Topics, wire.FetchTopic{Name: r.name, ID: r.id})
		}
		t := &out.Topics[len(out.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	if f.session != nil {
		f.session.rotate(gave)
	}
	r := wire.EncodeFetch(f.header, out)
	// A slow reader keeps no more from others than what it is sent beside the records.
	keep := min(room, int64(r.Size()-(f.max-left)))
	if keep <= smallAnswer {
		keep = 0
	}
	f.h.config.Answers.Release(room - keep)
	return f.h.withRoom(r, keep)
}

// read answers one partition with at most left bytes, unless it is the first with any.
func (f *fetch) read(r *reader, left int, first bool) wire.FetchPartition {
	p := wire.FetchPartition{Index: r.index, High: -1, Stable: -1, Start: -1, NoAborted: !f.aborted}
	if p.Code = f.check(r); p.Code != codeNone {
		switch {
		case p.Code == codeNotLeader && r.state != nil && r.state.Leader != catalog.NoLeader:
			p.Leader = &wire.Leader{ID: r.state.Leader, Epoch: r.state.LeaderEpoch}
		case p.Code == codeOffsetOutOfRange:
			p.Start = r.log.Start()
		}
		return p
	}
	p.High, p.Start = r.log.High(), r.log.Start()
	if f.aborted {
		p.Stable = p.High
	}
	if p.Diverging = r.diverging(); p.Diverging != nil || r.offset >= p.High || left <= 0 && !first {
		return p
	}
	limit := min(left, int(max(r.maxBytes, 0)))
	span, err := r.log.Read(r.offset, limit)
	if err != nil {
		f.h.log.Warn("fetch failed", "topic", r.topic.Name, "partition", r.index, "offset", r.offset, "err", err)
		p.Code = codeOf(err)
		return p
	}
	if span.Len() == 0 || span.Len() > limit && !first {
		span.Release()
		return p
	}
	p.Records = span
	return p
}
