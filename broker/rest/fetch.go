package rest

import (
	"errors"
	"fmt"
	"net/http"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// WaitCost is what a request that waits holds, in bytes: two goroutines and net/http's buffers.
const WaitCost = 24 << 10

// triesMax is how often a read begins anew that met damage, which is stepped over then.
const triesMax = 8

var errWaits = &fault{status: http.StatusServiceUnavailable, code: codeRequestTimedOut, text: "too many wait for records"}

// fetch answers with records of one partition: what there is, or after a wait what there is then.
func (s *Server) fetch(w http.ResponseWriter, r *http.Request, session *auth.Session) error {
	name := r.PathValue("topic")
	if err := catalog.ValidTopicName(name); err != nil {
		return err
	}
	if !s.config.Authorizer.Allowed(session, auth.Read, auth.TopicNamed(name)) {
		return errTopicDenied
	}
	form, err := accepted(r)
	if err != nil {
		return err
	}
	q, err := queryOf(r)
	if err != nil {
		return err
	}
	t := s.config.Board.Image().Topic(name)
	if t == nil {
		return fmt.Errorf("topic %s: %w", name, catalog.ErrUnknownTopic)
	}
	if q.partition < 0 {
		if n := len(t.Partitions); n > 1 {
			return bad(http.StatusBadRequest, "topic %s has %d partitions: say which, from partition=0 to partition=%d", name, n, n-1)
		}
		q.partition = 0
	}
	log, err := s.find(t, q.partition)
	if err != nil {
		return err
	}
	if err := s.begin(log, &q); err != nil {
		return err
	}
	if q.waitMS > 0 {
		if err := s.wait(w, r, log, q); err != nil {
			return err
		}
		if s.config.Board.Get(t.ID, q.partition) != log { // gone meanwhile, or gone and back
			if s.config.Board.Image().TopicByID(t.ID) == nil {
				return fmt.Errorf("topic %s: %w", name, catalog.ErrUnknownTopic)
			}
			if log, err = s.find(t, q.partition); err != nil {
				return err
			}
		}
	}
	return s.serve(w, r, log, q, form)
}

// begin finds the offset to begin at.
func (s *Server) begin(log *partition.Partition, q *query) error {
	at := q.offset
	switch {
	case q.since > 0:
		at = q.since
	case q.offset >= 0:
		return inRange(log, q.offset)
	}
	offset, _, _, err := log.ListOffset(at)
	if err == nil && offset < 0 { // nothing is that young
		offset, _, _, err = log.ListOffset(atLatest)
	}
	q.offset = offset
	return err
}

// inRange says whether there is, or may be, a record at an offset. Beyond what is durable there may be some soon.
func inRange(log *partition.Partition, offset int64) error {
	start, high := log.Start(), log.High()
	if offset >= start && offset <= log.End() {
		return nil
	}
	return &fault{
		status: http.StatusRequestedRangeNotSatisfiable, code: codeOffsetOutOfRange, start: &start, high: &high,
		text: fmt.Sprintf("offset %d is out of range: %s has %d to %d", offset, log, start, high),
	}
}

// waiting is a GET that waits for records.
type waiting struct {
	board  Board
	log    *partition.Partition
	offset int64
	done   chan struct{} // closed once
}

// Ready implements purgatory.Op.
func (o *waiting) Ready() bool {
	return o.offset < o.log.High() || o.offset < o.log.Start() || o.board.Get(o.log.TopicID(), o.log.Index()) != o.log
}

// Complete implements purgatory.Op.
func (o *waiting) Complete(bool) { close(o.done) }

// Cost implements purgatory.Op.
func (o *waiting) Cost() int64 { return WaitCost }

var _ purgatory.Op = (*waiting)(nil)

// wait returns when there is something to read, when the time is over, and when the door closes.
func (s *Server) wait(w http.ResponseWriter, r *http.Request, log *partition.Partition, q query) error {
	if err := s.unhurried(w); err != nil {
		return err
	}
	op := &waiting{s.config.Board, log, q.offset, make(chan struct{})}
	if op.Ready() {
		return nil
	}
	select {
	case s.waits <- struct{}{}:
	default:
		return errWaits
	}
	defer func() { <-s.waits }()
	cancel, err := s.config.Board.Watch(op, log.TopicID(), log.Index(), q.waitMS)
	switch {
	case errors.Is(err, purgatory.ErrClosed):
		return nil // it is told what there is
	case err != nil:
		return errWaits
	}
	select {
	case <-op.done:
		return nil
	case <-s.closing:
		cancel()
		return nil
	case <-r.Context().Done(): // the reader has gone
		cancel()
		return r.Context().Err()
	}
}

// errMore is a first record that needs a larger answer than was asked for.
var errMore = errors.New("rest: the first record takes more")

// serve renders what is there into memory of the budget, lets go of the log, and sends it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, log *partition.Partition, q query, form format) error {
	// One record of a megabyte fits in base64 where memory.limit is left alone, and then goes alone.
	most := s.room.size() * 4 / 7
	usual := min(q.bytes, s.room.size()/8)
	for _, limit := range []int64{usual, most} {
		out, memory, err := s.render(r, log, q, form, limit, limit == most)
		if errors.Is(err, errMore) {
			q.records = 1 // that one, and no more of what was not asked for
			continue
		}
		if err != nil {
			return err
		}
		defer memory.free()
		peer := s.room.holds(s.config.Stall, http.NewResponseController(w).SetWriteDeadline)
		defer peer.over()
		w.Header().Set("Content-Type", types[form])
		s.pieces(w, http.StatusOK, out, peer.patient)
		return nil
	}
	return errMore // the last limit never asks for more
}

// render reads a span and writes its records, no more than limit bytes of them but one at least: with last set a record
// that is larger is left out, else it is errMore. What is returned with the answer is its memory.
func (s *Server) render(r *http.Request, log *partition.Partition, q query, form format, limit int64, last bool) ([]byte, *grant, error) {
	a := &answer{form: form, from: q.offset, records: q.records, limit: int(limit), last: last, next: q.offset}
	for range triesMax {
		span, err := s.span(log, q.offset, limit)
		if err != nil {
			return nil, nil, err
		}
		size := int64(slack) // of an answer without records
		if n := int64(span.Len()); n > 0 {
			size += n + limit
		}
		memory, err := s.room.take(r.Context(), size)
		if err != nil {
			span.Release()
			return nil, nil, err
		}
		batches, err := span.Append(nil)
		span.Release()
		if a.out == nil {
			a.out = make([]byte, 0, min(limit, 2*int64(span.Len()))+slack)
		}
		a.head(log, q.partition)
		if err == nil {
			err = a.batches(batches)
		}
		if err == nil {
			out := a.tail()
			memory.keep(int64(cap(out))) // the span is not needed any more
			return out, memory, nil
		}
		memory.free()
		if damage := (*segment.DamageError)(nil); !errors.As(err, &damage) { // which the next read steps over
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("%s at %d: %w", log, q.offset, record.ErrCorrupt)
}

// span is what there is at an offset: nothing at the high watermark.
func (s *Server) span(log *partition.Partition, offset, limit int64) (segment.Span, error) {
	span, err := log.Read(offset, int(limit))
	if errors.Is(err, partition.ErrOffsetOutOfRange) {
		if told := inRange(log, offset); told != nil {
			err = told
		}
	}
	if err != nil {
		return segment.Span{}, err
	}
	if n := int64(span.Len()); n > s.room.size() {
		span.Release()
		return segment.Span{}, &fault{
			status: http.StatusRequestEntityTooLarge, code: codeMessageTooLarge,
			text: fmt.Sprintf("the batch at offset %d has %d bytes, and this door holds %d: read it with a Kafka client", offset, n, s.room.size()),
		}
	}
	return span, nil
}
