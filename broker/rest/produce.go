package rest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
)

const (
	// bodyMax bounds a body, in bytes; less where its memory would be more than there is.
	bodyMax = 2 << 20
	// chunkMax is how many bytes of records are appended at once, and recordCost more than one takes beside its bytes.
	chunkMax, recordCost, headerCost = 256 << 10, 64, 16
)

// limit is the largest body that is read, in bytes: what it costs is no more than one request may take.
func (s *Server) limit() int64 {
	size := s.room.size()
	return min(bodyMax, max((size-itemCost*itemsMax)/2, size/(2+itemCost/itemLeast)))
}

// outcome is what became of one record, as it is told: where it is, or why it is nowhere.
type outcome struct {
	Partition *int32 `json:"partition,omitempty"`
	Offset    *int64 `json:"offset,omitempty"`
	Code      *int16 `json:"error_code,omitempty"`
	Message   string `json:"message,omitempty"`
}

// outcomes is the answer to a POST. The first error is told at the top where nothing was written.
type outcomes struct {
	Code    int16     `json:"error_code,omitempty"`
	Message string    `json:"message,omitempty"`
	Offsets []outcome `json:"offsets"`
}

// post is one POST on its way.
type post struct {
	s       *Server
	topic   *catalog.Topic
	records []posted

	mu sync.Mutex // the committer fills in while a deadline may answer with what there is
	// offsets and errs say what became of each record; offsets are -1 while that is not known.
	offsets []int64
	errs    []error
	pending int
	done    chan struct{} // closed when pending is 0
}

// produce appends the records of a body and answers when each is durable or refused.
func (s *Server) produce(w http.ResponseWriter, r *http.Request, session *auth.Session) error {
	name := r.PathValue("topic")
	if err := s.mayWrite(session, name); err != nil {
		return err
	}
	form, err := formatOf(r)
	if err != nil {
		return err
	}
	size := r.ContentLength
	if size > s.limit() {
		return unreadable(&http.MaxBytesError{Limit: s.limit()})
	}
	if size < 0 {
		size = s.limit() // told in pieces: nobody knows
	}
	memory, err := s.room.take(r.Context(), costOf(size))
	if err != nil {
		return err
	}
	defer memory.free()
	peer := s.room.holds(s.config.Stall, http.NewResponseController(w).SetReadDeadline)
	raw, err := body(arriving{r.Body, peer}, r.ContentLength, s.limit())
	peer.over()
	var records []posted
	if err == nil {
		records, err = parse(form, raw)
	}
	if err != nil {
		return unreadable(err)
	}
	topic, err := s.ensure(r, session, name)
	if err == nil {
		err = s.unhurried(w)
	}
	if err != nil {
		return err
	}
	p := &post{s: s, topic: topic, records: records, offsets: make([]int64, len(records)), errs: make([]error, len(records)), done: make(chan struct{})}
	p.append()
	late := time.NewTimer(s.config.Commit)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
	case <-r.Context().Done():
	}
	s.tell(w, p)
	return nil
}

// mayWrite says whether a topic of that name can be written by who is there.
func (s *Server) mayWrite(session *auth.Session, name string) error {
	if err := catalog.ValidTopicName(name); err != nil {
		return err
	}
	if !s.config.Authorizer.Allowed(session, auth.Write, auth.TopicNamed(name)) {
		return errTopicDenied
	}
	if catalog.Reserved(name) {
		return &fault{status: http.StatusBadRequest, code: codeInvalidTopic, text: "topic " + name + " is the broker's own"}
	}
	return nil
}

var errTopicDenied = &fault{status: http.StatusForbidden, code: codeTopicAuthorization, text: "not authorized for the topic"}

// ensure finds a topic, or makes it where that is allowed.
func (s *Server) ensure(r *http.Request, session *auth.Session, name string) (*catalog.Topic, error) {
	if t := s.config.Board.Image().Topic(name); t != nil {
		return t, nil
	}
	if z := s.config.Authorizer; !z.Allowed(session, auth.Create, auth.Resource{Type: auth.Cluster, Name: auth.ClusterName}) &&
		!z.Allowed(session, auth.Create, auth.TopicNamed(name)) {
		return nil, errTopicDenied
	}
	err := s.config.Board.Ensure(r.Context(), name)
	if t := s.config.Board.Image().Topic(name); t != nil {
		return t, nil // what it lacks is told by its partitions
	}
	if err == nil {
		err = catalog.ErrUnknownTopic
	}
	return nil, fmt.Errorf("topic %s: %w", name, err)
}

// find is a partition of a topic that this board leads.
func (s *Server) find(t *catalog.Topic, index int32) (*partition.Partition, error) {
	if index < 0 || int(index) >= len(t.Partitions) {
		return nil, fmt.Errorf("topic %s has partitions 0 to %d: %w", t.Name, len(t.Partitions)-1, catalog.ErrUnknownPartition)
	}
	if t.Partitions[index].Leader != s.config.NodeID {
		return nil, fmt.Errorf("%s-%d: %w", t.Name, index, partition.ErrNotLeader)
	}
	if p := s.config.Board.Get(t.ID, index); p != nil {
		return p, nil
	}
	if err := s.config.Board.Offline(t.ID, index); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s-%d is being opened or removed: %w", t.Name, index, partition.ErrNotLeader)
}

// append hands the records to their logs, those of a partition in their order.
func (p *post) append() {
	turn := p.s.turn.Add(1)
	places := make(map[int32][]int)
	for i := range p.records {
		r := &p.records[i]
		p.offsets[i] = -1
		switch n := len(p.topic.Partitions); {
		case r.partition >= 0:
		case r.Key == nil:
			r.partition = int32(turn % uint32(n))
		default:
			r.partition = record.PartitionForKey(r.Key, n)
		}
		places[r.partition] = append(places[r.partition], i)
	}
	p.pending = len(p.records) + 1 // one more until all were begun
	for index, at := range places {
		log, err := p.s.find(p.topic, index)
		if err != nil {
			p.finish(at, partition.AppendResult{Err: err})
			continue
		}
		p.into(log, len(p.topic.Partitions[index].ISR), at)
	}
	p.finish(nil, partition.AppendResult{})
}

// into appends the records at some places to their log, as many at once as one batch of the topic holds.
func (p *post) into(log *partition.Partition, inSync int, at []int) {
	o := partition.AppendOptions{Epoch: -1, InSync: inSync}
	most := min(chunkMax, log.Config().MaxMessageBytes-record.HeaderSize)
	for len(at) > 0 {
		n, size := 0, int64(0)
		var chunk []record.Record
		for _, i := range at {
			size += sizeOf(&p.records[i].Record)
			if size > most && n > 0 {
				break
			}
			chunk = append(chunk, p.records[i].Record)
			n++
		}
		mine := at[:n]
		at = at[n:]
		log.AppendRecords(chunk, o, func(r partition.AppendResult) { p.finish(mine, r) })
	}
}

// sizeOf is what a record takes in a batch, at most.
func sizeOf(r *record.Record) int64 {
	n := recordCost + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += headerCost + len(h.Key) + len(h.Value)
	}
	return int64(n)
}

// finish notes what became of the records at some places, one after the other in the log; without places it is the end of
// beginning.
func (p *post) finish(at []int, r partition.AppendResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, i := range at {
		if p.errs[i] = r.Err; r.Err == nil {
			p.offsets[i] = r.Base + int64(n)
		}
	}
	if p.pending -= max(len(at), 1); p.pending == 0 {
		close(p.done)
	}
}

var errLate = &fault{status: http.StatusGatewayTimeout, code: codeRequestTimedOut, text: "not durable in time; it may still become so"}

// tell answers with what became of every record.
func (s *Server) tell(w http.ResponseWriter, p *post) {
	p.mu.Lock()
	out := outcomes{Offsets: make([]outcome, len(p.records))}
	var first *fault
	failed := 0
	for i := range out.Offsets {
		o := &out.Offsets[i]
		if p.offsets[i] >= 0 {
			offset := p.offsets[i] // a copy: late commits go on while this is sent
			o.Partition, o.Offset = &p.records[i].partition, &offset
			continue
		}
		err := p.errs[i]
		if err == nil {
			err = errLate
		}
		f := s.faultOf(err)
		if failed++; first == nil {
			first = f
		}
		o.Code, o.Message = &f.code, f.text
	}
	p.mu.Unlock()
	switch failed {
	case 0:
		s.answer(w, http.StatusOK, out)
	case len(out.Offsets):
		out.Code, out.Message = first.code, first.text
		s.answer(w, first.status, out)
	default:
		s.answer(w, http.StatusMultiStatus, out)
	}
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
