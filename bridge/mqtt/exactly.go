package mqtt

import (
	"slices"
	"sync"

	"millrace/bridge/mqtt/packet"
)

// exactly is what makes a durable session's QoS 2 deliveries happen once whatever happens to the server: which message a
// packet identifier stands for is durable before the client sees it, and PUBREC is before PUBREL answers it. All of them
// are one small record, the delivery table. What has to wait for it is parked; while one record is on its way the next
// gathers, so a window of messages costs a few writes. Under session.mu.
type exactly struct {
	// made counts the records that told of the deliveries, tables and whole sessions; durable is the newest that landed,
	// wanted the one that has to be made. A change is durable when the record made after it is.
	// Invariant: durable <= made, wanted <= made+1.
	made, durable, wanted uint64
	queued, busy          bool   // the table is to be written; is on its way
	table                 bool   // the log has one
	tabled                uint64 // the record that was the last table
	// parked are bytes for the client; parked[:m.end] may go when record m.record is durable.
	parked []byte
	marks  []mark
	// handed is, for each partition, the end of what was delivered with QoS 2. After a crash the cursor may lie before it.
	handed map[*stream]int64
}

type mark struct {
	record uint64
	end    int
}

// durable reports whether the session outlives its connection.
func (ss *session) durable() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.keeps
}

// park keeps what fn appends until the deliveries as they are now are durable. Under ss.mu.
func (ss *session) park(fn func(dst []byte) []byte) {
	x := &ss.exact
	n := len(x.parked)
	x.parked = fn(x.parked)
	ss.s.outlets.used.Add(int64(len(x.parked) - n))
	if i := len(x.marks) - 1; i >= 0 && x.marks[i].record == x.made+1 {
		x.marks[i].end = len(x.parked)
	} else {
		x.marks = append(x.marks, mark{x.made + 1, len(x.parked)})
	}
	ss.record()
}

// unpark forgets what waits: the connection has ended. The bytes are returned for outlets.gone. Under ss.mu.
func (ss *session) unpark() int {
	n := len(ss.exact.parked)
	ss.exact.parked, ss.exact.marks = nil, nil
	return n
}

// record has the delivery table written. Under ss.mu.
func (ss *session) record() {
	x := &ss.exact
	x.wanted = x.made + 1
	if !x.queued && !x.busy {
		x.queued = true
		ss.s.store.tables.push(ss)
	}
}

// undurable reports whether something of the deliveries is not durable. Under ss.mu.
func (ss *session) undurable() bool {
	x := &ss.exact
	return len(x.parked) > 0 || slices.ContainsFunc(ss.inflight, func(d delivery) bool { return d.record > x.durable })
}

// landed notes what became of record n, a delivery table or the whole session, and sends what waited for it. It is
// called by the commit.
func (ss *session) landed(n uint64, table bool, err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	x := &ss.exact
	if table {
		x.busy = false
	}
	if err != nil {
		if ss.undurable() {
			x.wanted = x.made + 1
			ss.s.deadlines.at(ss.s.cfg.Now().Add(retryDelay), func() {
				ss.mu.Lock()
				defer ss.mu.Unlock()
				if ss.undurable() {
					ss.record()
				}
			})
		}
		return
	}
	x.durable = max(x.durable, n)
	for i := range ss.inflight {
		if d := &ss.inflight[i]; d.group != nil && d.qos == 2 && d.record <= x.durable {
			d.group.ended(d) // it is this client's now
		}
	}
	if !table && n > x.tabled {
		x.table = false // the session's own record says it all, and came with the end of the table
	}
	sent := 0
	for len(x.marks) > 0 && x.marks[0].record <= x.durable {
		sent, x.marks = x.marks[0].end, x.marks[1:]
	}
	if sent > 0 {
		ready, rest := x.parked[:sent], slices.Clone(x.parked[sent:])
		for i := range x.marks {
			x.marks[i].end -= sent
		}
		if x.parked = rest; len(rest) == 0 {
			x.parked, x.marks = nil, nil
		}
		ss.s.outlets.used.Add(-int64(sent)) // output counts it from here on
		if ss.client != nil {
			ss.client.out.add(func(dst []byte) []byte { return append(dst, ready...) })
		}
	}
	if x.wanted > x.made {
		ss.record()
	}
	ss.wakeLocked()
}

// received takes a PUBREC: the client has the message [MQTT-4.3.3-4], or will not have it. It reports whether the id was
// known.
func (ss *session) received(c *client, id uint16, reason packet.Reason) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.client != c {
		return true // taken over meanwhile
	}
	i := slices.IndexFunc(ss.inflight, func(d delivery) bool { return d.id == id && d.qos == 2 })
	if i < 0 {
		return false
	}
	if reason.Failed() { // the delivery has ended [MQTT-4.4.0-2]
		if ss.settle(i); ss.keeps {
			ss.record()
		}
		return true
	}
	d := &ss.inflight[i]
	waits := d.sent && d.released // its PUBREL is parked, or was sent, on this connection
	if !d.sent {                  // a PUBREC for what the last connection sent
		d.sent = true
		ss.unsent--
	}
	pubrel := &packet.Ack{Kind: packet.PUBREL, ID: id}
	switch {
	case !ss.keeps:
		d.released = true
		c.send(pubrel)
	case d.released && d.record <= ss.exact.durable: // again
		c.send(pubrel)
	case waits: // a repetition: the one that is parked answers it
	default:
		if !d.released {
			d.released, d.record = true, ss.exact.made+1
		}
		ss.park(func(dst []byte) []byte { return pubrel.Append(dst, c.version) })
	}
	ss.dirty = true
	return true
}

// completed takes a PUBCOMP, which costs no write: at worst the client is sent PUBREL once more.
func (ss *session) completed(c *client, id uint16) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.client != c {
		return
	}
	if i := slices.IndexFunc(ss.inflight, func(d delivery) bool { return d.id == id && d.qos == 2 && d.released }); i >= 0 {
		ss.settle(i)
	}
}

// had reports whether the message at offset was delivered with QoS 2 already: the cursor, which is written now and then,
// was behind when the server crashed. Under ss.mu.
func (ss *session) had(st *stream, offset int64) bool { return offset < ss.exact.handed[st] }

// handTo notes that what lies before end is the client's, as far as it comes by the cursor: what is sent because of a new
// subscription does not. Under ss.mu.
func (ss *session) handTo(st *stream, end int64) {
	if ss.exact.handed == nil {
		ss.exact.handed = make(map[*stream]int64, 1)
	}
	ss.exact.handed[st] = end
}

// tables writes the delivery tables of sessions, one goroutine for all: what a commit takes meets in it.
type tables struct {
	store *store
	wg    sync.WaitGroup

	mu    sync.Mutex
	cond  *sync.Cond
	queue []*session
	ended bool
}

func (t *tables) start(o *store) {
	t.store, t.cond = o, sync.NewCond(&t.mu)
	t.wg.Go(t.run)
}

func (t *tables) push(ss *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.queue = append(t.queue, ss)
		t.cond.Signal()
	}
}

func (t *tables) run() {
	var taken []*session
	for {
		t.mu.Lock()
		for len(t.queue) == 0 && !t.ended {
			t.cond.Wait()
		}
		taken, t.queue = t.queue, taken[:0]
		ended := t.ended
		t.mu.Unlock()
		if ended {
			return // the connections end too, and with them the sessions are written whole
		}
		for i, ss := range taken {
			t.store.putTable(ss)
			taken[i] = nil
		}
	}
}

func (t *tables) close() {
	t.mu.Lock()
	t.ended = true
	t.cond.Signal()
	t.mu.Unlock()
	t.wg.Wait()
}
