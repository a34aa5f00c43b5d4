// Produce: v3-13, named from 0
//
//   - v0-2 end the connection, as at Apache Kafka 4, which names them all the same (see wire.apis).
//   - acks 1 and -1 are answered when every batch is durable, that is synced and committed, whatever `flush.messages`
//     leaves of it; acks 0 is answered by nothing, and by the end of the connection when a batch was refused.
//   - acks -1 wants min.insync.replicas in sync, else NOT_ENOUGH_REPLICAS; one board has one replica of everything.
//   - v3: exactly one record batch of magic 2 for each partition; v7: zstd.
//   - v8 (KIP-467): the error message says why; single records are not blamed.
//   - v10 (KIP-951): on NOT_LEADER the leader and its address.
//   - v13 (KIP-516): topics by id.
//   - Transactional batches are refused with INVALID_TXN_STATE: no transaction can have begun (see InitProducerId).
//   - Topics of the broker itself are refused with INVALID_TOPIC_EXCEPTION.
//   - A topic that does not exist is UNKNOWN_TOPIC_OR_PARTITION: only Metadata creates topics, as at Apache Kafka.

package api

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// produceNumbers gives every waiting produce request a key of its own.
type produceNumbers struct{ last atomic.Uint64 }

// produce is one Produce request on its way.
type produce struct {
	h       *Handler
	req     *server.Request
	body    *kmsg.ProduceRequest
	img     *catalog.Image
	reply   func(server.Answer)
	release func()
	key     Key

	// pending counts the appends that are not done, and one more until all were begun.
	pending atomic.Int32
	// answered is set by whoever replies: the last append, or the deadline.
	answered atomic.Bool

	mu sync.Mutex // the committer fills parts in while a deadline may answer with what there is
	// parts are the answers in the order of the request; done tells which are final.
	parts []part
}

type part struct {
	kmsg.ProduceResponseTopicPartition
	err  error
	done bool
}

// Produce appends batches and replies when all of them are durable or refused, or with REQUEST_TIMED_OUT for the
// rest when the request's timeout passes first; those may still become durable.
func (h *Handler) Produce(req *server.Request, b *kmsg.ProduceRequest, reply func(server.Answer)) {
	n := 0
	for i := range b.Topics {
		n += len(b.Topics[i].Partitions)
	}
	p := &produce{
		h: h, req: req, body: b, img: h.config.Catalog.Image(), reply: reply,
		release: req.Hold(), parts: make([]part, n),
		key: Key{produce: h.produce.last.Add(1)},
	}
	p.pending.Store(int32(n) + 1)
	at := 0
	for i := range b.Topics {
		t := &b.Topics[i]
		refused := codeNone
		switch {
		case b.TransactionID != nil && !h.allowed(req, auth.Write, auth.TransactionNamed(*b.TransactionID)):
			refused = codeTxnIDAuthorization
		case !h.allowedTopic(req, auth.Write, p.img, t.Topic, t.TopicID):
			refused = codeTopicAuthorization
		}
		for j := range t.Partitions {
			p.begin(at, t, &t.Partitions[j], refused)
			at++
		}
	}
	if p.pending.Load() == 1 { // all refused, or committed meanwhile
		p.release()
		p.Complete(false)
		return
	}
	// The count of its own keeps the request from ending before it is parked.
	if _, err := h.config.Waits.Watch(p, []Key{p.key}, int64(max(b.TimeoutMillis, 1))); err != nil {
		// No room to wait for the deadline: the last append replies, whenever that is.
		h.log.Debug("produce waits without a deadline", "err", err)
	}
	p.finished()
}

// begin checks one partition's batch and appends it, unless it is refused already.
func (p *produce) begin(at int, t *kmsg.ProduceRequestTopic, q *kmsg.ProduceRequestTopicPartition, refused int16) {
	out := &p.parts[at]
	out.Default()
	out.Partition, out.BaseOffset, out.LogAppendTime, out.LogStartOffset = q.Partition, -1, -1, -1
	r := p.h.find(p.img, t.Topic, t.TopicID, q.Partition)
	code, err := r.code, error(nil)
	switch {
	case p.body.Acks < -1 || p.body.Acks > 1:
		code, err = codeInvalidRequiredAcks, fmt.Errorf("acks is %d", p.body.Acks)
	case refused != codeNone:
		code = refused
	case r.topic != nil && catalog.Reserved(r.topic.Name):
		code, err = codeInvalidTopic, fmt.Errorf("topic %s is the broker's own", r.topic.Name)
	case code == codeNone:
		code, err = admit(p.body, q.Records)
	}
	if code != codeNone {
		p.mu.Lock()
		out.ErrorCode, out.err, out.done = code, err, true
		if code == codeNotLeader && r.state != nil {
			out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = r.state.Leader, r.state.LeaderEpoch
		}
		p.mu.Unlock()
		p.pending.Add(-1)
		return
	}
	o := partition.AppendOptions{Epoch: -1}
	if p.body.Acks == -1 {
		o.InSync = len(r.state.ISR)
	}
	r.log.Append(q.Records, o, func(a partition.AppendResult) {
		p.mu.Lock()
		out.done, out.err, out.ErrorCode = true, a.Err, codeOf(a.Err)
		if a.Err == nil {
			out.BaseOffset, out.LogAppendTime, out.LogStartOffset = a.Base, a.AppendTime, a.Start
		}
		p.mu.Unlock()
		p.finished()
	})
}

// admit checks what the request's version and kind allow of records; the log checks the rest.
func admit(b *kmsg.ProduceRequest, records []byte) (int16, error) {
	batch, rest, err := record.Next(records)
	switch {
	case len(records) == 0:
		return codeInvalidRecord, errors.New("no record batch")
	case err != nil:
		return codeOf(err), err
	case batch.Magic() != 2:
		return codeUnsupportedFormat, fmt.Errorf("record batch of magic %d", batch.Magic())
	case len(rest) > 0:
		return codeInvalidRecord, errors.New("more than one record batch for a partition")
	case batch.Codec() == record.Zstd && b.Version < 7:
		return codeUnsupportedCompression, fmt.Errorf("zstd in Produce v%d", b.Version)
	case batch.Transactional() || b.TransactionID != nil:
		return codeInvalidTxnState, errors.New("transactions are not offered")
	case batch.Control():
		return codeInvalidRecord, errors.New("control batches are the broker's own")
	}
	return codeNone, nil
}

// finished counts one append, or the beginning of all, as done. The last one gives the request's bytes back, which
// no append uses any more, and replies.
func (p *produce) finished() {
	if p.pending.Add(-1) > 0 {
		return
	}
	p.release()
	if p.h.config.Waits.Check(p.key) == 0 {
		p.Complete(false) // it was not parked, or its deadline took it out
	}
}

// Ready implements purgatory.Op.
func (p *produce) Ready() bool { return p.pending.Load() <= 0 }

// Cost implements purgatory.Op: the request's bytes are counted where they were reserved.
func (p *produce) Cost() int64 { return int64(len(p.parts)) * 160 }

// Complete implements purgatory.Op.
func (p *produce) Complete(bool) {
	if p.answered.CompareAndSwap(false, true) {
		p.reply(p.answer)
	}
}

// answer builds the response from what is done, in the connection's goroutine.
func (p *produce) answer() *wire.Response {
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := false
	resp := kmsg.NewPtrProduceResponse()
	resp.Topics = make([]kmsg.ProduceResponseTopic, len(p.body.Topics))
	at := 0
	for i := range p.body.Topics {
		t, out := &p.body.Topics[i], &resp.Topics[i]
		out.Topic, out.TopicID = t.Topic, t.TopicID
		out.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			q := &p.parts[at]
			at++
			if !q.done {
				q.ErrorCode = codeRequestTimedOut
			}
			q.ErrorMessage = saying(q.err)
			failed = failed || q.ErrorCode != codeNone
			out.Partitions[j] = q.ProduceResponseTopicPartition
			if q.CurrentLeader.LeaderID >= 0 && q.ErrorCode == codeNotLeader {
				p.h.tellBroker(p.req, p.img, q.CurrentLeader.LeaderID, &resp.Brokers)
			}
		}
	}
	if p.body.Acks != 0 {
		return wire.Encode(p.req.Header, resp)
	}
	if failed {
		return &wire.Response{Close: true} // the only way to tell who asked for no answer
	}
	return nil
}

// tellBroker adds a broker's address to those of a produce response, once.
func (h *Handler) tellBroker(req *server.Request, img *catalog.Image, id int32, to *[]kmsg.ProduceResponseBroker) {
	for _, b := range *to {
		if b.NodeID == id {
			return
		}
	}
	if b, ok := img.Broker(id); ok {
		e := h.endpoint(req, b)
		*to = append(*to, kmsg.ProduceResponseBroker{NodeID: id, Host: e.Host, Port: e.Port, Rack: textOrNull(b.Rack)})
	}
}
