package mqtt

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/record"
)

const (
	readBytes   = 64 << 10 // of one read of the log
	recordBytes = 64 << 20 // one batch decompressed
	turnReads   = 4        // reads of one stream before another gets its turn
	retryDelay  = time.Second
)

// stream is one partition as the door reads it: one reader at the tail for everybody, and shared scans for those behind.
type stream struct {
	all      *streams
	part     Partition
	topic    string
	index    int32
	interest *interest
	dirty    atomic.Bool // queued for the tail reader
	gone     atomic.Bool // the topic was deleted

	// mu is held while the tail reader hands out what it read. pos is the next offset it reads.
	// Invariant: pos <= part.High(), and no session gets a record at or after pos from a scan.
	mu  sync.Mutex
	pos int64

	chunks [2]atomic.Pointer[chunk] // by turn; nil while a scan has it, or there is none

	waitMu  sync.Mutex
	waiting []*reader // lag here and may be sent to
	queued  bool      // in the queue of the scans
	turn    turn      // of the last scan
}

// job is work for the scans: a stream with readers behind, or a session or group with messages to send again.
type job interface{ run() }

// streams owns the readers: one goroutine for all tails, a few for the scans.
type streams struct {
	s      *Server
	cancel func() // of OnAdvance
	wg     sync.WaitGroup

	mu    sync.Mutex
	byKey map[streamKey]*stream
	tails []*stream // dirty ones, in order
	jobs  []job
	tail  *sync.Cond
	scan  *sync.Cond
	ended bool

	kept atomic.Int64 // bytes of all chunks that are kept
	gaps atomic.Int64 // records, or undecodable batches, that sessions never got
	hit  uint64       // the tail reader's generation of reader.hits
}

type streamKey struct {
	id    [16]byte
	index int32
}

func newStreams(s *Server) *streams {
	a := &streams{s: s, byKey: make(map[streamKey]*stream)}
	a.tail, a.scan = sync.NewCond(&a.mu), sync.NewCond(&a.mu)
	a.cancel = s.cfg.Log.OnAdvance(a.advanced)
	for _, name := range s.cfg.Log.Names() {
		for i := range s.cfg.Log.Partitions(name) {
			if p, ok := s.cfg.Log.Partition(name, int32(i)); ok {
				a.get(p, p.High())
			}
		}
	}
	a.wg.Add(1 + s.cfg.Scans)
	go a.runTails()
	for range s.cfg.Scans {
		go a.runScans()
	}
	return a
}

func (a *streams) close() {
	a.cancel()
	a.mu.Lock()
	a.ended = true
	a.jobs, a.tails = nil, nil
	a.tail.Broadcast()
	a.scan.Broadcast()
	a.mu.Unlock()
	a.wg.Wait()
}

// internal topics hold the door's own state or the broker's and are nobody's messages.
func internal(topic string) bool { return strings.HasPrefix(topic, "__") }

// get returns the stream of p, made with its tail at pos when it is new. It is nil for internal topics but that of the
// retained messages, see reaches.
func (a *streams) get(p Partition, pos int64) *stream {
	key := streamKey{p.ID(), p.Index()}
	a.mu.Lock()
	defer a.mu.Unlock()
	if st := a.byKey[key]; st != nil {
		return st
	}
	if internal(p.Topic()) && p.Topic() != retainedTopic {
		return nil
	}
	st := &stream{all: a, part: p, topic: p.Topic(), index: p.Index(), pos: pos}
	st.interest = a.s.index.interest(st.topic)
	a.byKey[key] = st
	return st
}

// find is the stream with that key, or nil.
func (a *streams) find(key streamKey) *stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byKey[key]
}

// reached lists the streams whose records may match one of the filters.
func (a *streams) reached(filters ...string) (list []*stream) {
	if len(filters) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	verdict := make(map[string]bool)
	for _, st := range a.byKey {
		v, ok := verdict[st.topic]
		if !ok {
			v = slices.ContainsFunc(filters, func(f string) bool { return reaches(a.s.cfg.Router, f, st.topic) })
			verdict[st.topic] = v
		}
		if v {
			list = append(list, st)
		}
	}
	return list
}

// advanced is called from the committer.
func (a *streams) advanced(p Partition) {
	st := a.find(streamKey{p.ID(), p.Index()})
	if st == nil {
		// A partition made since we started: everything in it is newer than any subscription that reached nothing of it.
		if st = a.get(p, p.Start()); st == nil {
			return
		}
	}
	st.wakeTail()
}

func (st *stream) wakeTail() {
	if st.dirty.Swap(true) {
		return
	}
	a := st.all
	a.mu.Lock()
	if !a.ended {
		a.tails = append(a.tails, st)
		a.tail.Signal()
	}
	a.mu.Unlock()
}

func (a *streams) push(j job) {
	a.mu.Lock()
	if !a.ended {
		a.jobs = append(a.jobs, j)
		a.scan.Signal()
	}
	a.mu.Unlock()
}

func (a *streams) runTails() {
	defer a.wg.Done()
	t := &tailReader{a: a}
	for {
		a.mu.Lock()
		for len(a.tails) == 0 && !a.ended {
			a.tail.Wait()
		}
		if a.ended {
			a.mu.Unlock()
			return
		}
		st := a.tails[0]
		if a.tails = a.tails[1:]; len(a.tails) == 0 {
			a.tails = nil
		}
		a.mu.Unlock()
		st.dirty.Store(false)
		t.read(st)
	}
}

func (a *streams) runScans() {
	defer a.wg.Done()
	for {
		a.mu.Lock()
		for len(a.jobs) == 0 && !a.ended {
			a.scan.Wait()
		}
		if a.ended {
			a.mu.Unlock()
			return
		}
		j := a.jobs[0]
		a.jobs[0] = nil
		if a.jobs = a.jobs[1:]; len(a.jobs) == 0 {
			a.jobs = nil
		}
		a.mu.Unlock()
		j.run()
	}
}

// tailReader reads every partition once for all sessions that are up to date.
type tailReader struct {
	a    *streams
	buf  []byte
	subs []*subscription
	hit  []*reader
	m    message
}

func (t *tailReader) read(st *stream) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for range turnReads {
		high := st.part.High()
		if st.pos >= high {
			break
		}
		if st.interest.n.Load() == 0 {
			st.pos = high // nobody's filter reaches this topic
			break
		}
		var err error
		if t.buf, err = st.part.ReadBatches(t.buf[:0], st.pos, readBytes); err == nil {
			st.pos, err = each(t.buf, st.pos, recordBytes, func(r *record.Record) bool {
				t.deliver(st, r)
				return true
			})
		}
		if err != nil {
			if !st.failed(err, &st.pos) {
				return
			}
			continue
		}
		if len(t.buf) == 0 {
			st.pos = high // all of it is damaged: the log has counted and told the gap
		}
	}
	if cap(t.buf) > 1<<20 {
		t.buf = nil
	}
	if st.pos < st.part.High() {
		st.wakeTail()
	}
}

// failed deals with a read error at *pos: true when *pos was moved to where reading can go on.
func (st *stream) failed(err error, pos *int64) bool {
	s := st.all.s
	switch start := st.part.Start(); {
	case errors.Is(err, ErrGone):
		st.all.drop(st)
		return false
	case errors.Is(err, ErrOutOfRange) && *pos < start:
		st.all.gaps.Add(start - *pos)
		s.log.Warn("mqtt: records were removed before they could be delivered", "topic", st.topic, "partition", st.index,
			"from", *pos, "to", start)
		*pos = start
		return true
	case errors.Is(err, errUnreadable):
		st.all.gaps.Add(1)
		s.log.Error("mqtt: a batch is left out", "topic", st.topic, "partition", st.index, "next", *pos, "error", err)
		return true
	}
	s.log.Error("mqtt: read failed, trying again", "topic", st.topic, "partition", st.index, "offset", *pos, "error", err)
	s.deadlines.at(s.cfg.Now().Add(retryDelay), func() {
		st.wakeTail()
		st.queue()
	})
	return false
}

// sweep drops the streams of deleted topics, which nobody may have read from since, and reports whether there were any.
func (a *streams) sweep() (dropped bool) {
	a.mu.Lock()
	all := make([]*stream, 0, len(a.byKey))
	for _, st := range a.byKey {
		all = append(all, st)
	}
	a.mu.Unlock()
	for _, st := range all {
		st.sweepChunk(far)
		st.sweepChunk(near)
		// At its end a partition is not read from the disk: it only says whether it is there.
		if _, err := st.part.ReadBatches(nil, st.part.High(), 1); errors.Is(err, ErrGone) {
			a.drop(st)
			dropped = true
		}
	}
	return dropped
}

// Streams is the number of partitions the door knows.
func (s *Server) Streams() int {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	return len(s.streams.byKey)
}

// Lost is how many records, or batches that cannot be decoded, sessions never got since the start, because retention had
// removed them or they were damaged.
func (s *Server) Lost() int64 { return s.streams.gaps.Load() }

// drop forgets the stream of a deleted topic.
func (a *streams) drop(st *stream) {
	st.gone.Store(true)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byKey[streamKey{st.part.ID(), st.index}] != st {
		return
	}
	delete(a.byKey, streamKey{st.part.ID(), st.index})
	for _, other := range a.byKey {
		if other.topic == st.topic {
			return
		}
	}
	a.s.index.forget(st.topic)
}

// deliver offers one record to every reader that is at the tail and has a matching subscription [MQTT-3.3.2-3]. Those
// behind find it in the log [MQTT-4.5.0-1]; each partition is read in its order by both [MQTT-4.6.0-6].
func (t *tailReader) deliver(st *stream, r *record.Record) {
	if !t.m.read(t.a.s, st.topic, st.index, r) || !t.m.live(st) {
		return
	}
	t.subs = t.a.s.index.match(t.m.topic, t.subs[:0])
	t.a.hit++
	for _, sub := range t.subs {
		r := sub.reader()
		if r.hitGen != t.a.hit {
			r.hitGen, r.hits = t.a.hit, r.hits[:0]
			t.hit = append(t.hit, r)
		}
		r.hits = append(r.hits, sub)
	}
	for _, r := range t.hit {
		r.mu.Lock()
		if _, behind := r.lag[st]; !behind && r.to.offer(st, &t.m, r.hits) == blocked {
			r.fallBehind(st, t.m.offset)
		}
		r.mu.Unlock()
	}
	clear(t.subs)
	clear(t.hit)
	t.hit = t.hit[:0]
}

// message reads the one record at offset; nil when the log does not have it any more.
func (st *stream) message(offset int64, scratch *[]byte) (m *message, err error) {
	if *scratch, err = st.part.ReadBatches((*scratch)[:0], offset, 1); err != nil {
		return nil, err
	}
	_, err = each(*scratch, offset, recordBytes, func(r *record.Record) bool {
		if got := new(message); r.Offset == offset && got.read(st.all.s, st.topic, st.index, r) {
			m = got
			// Of a compressed batch the record's memory is used again by the next step.
			m.body = slices.Clone(m.body)
			m.props.Correlation = slices.Clone(m.props.Correlation)
		}
		return false
	})
	return m, err
}
