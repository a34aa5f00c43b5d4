package mqtt

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"millrace/broker/auth"
	"millrace/broker/record"
)

// store keeps durable sessions in the sessions topic. A session is written when its subscriptions change (before the
// client hears of it), when it loses its connection, and lazily while it is connected: QoS 1 deliveries cost no write,
// so after a crash what was delivered since is delivered again.
//
// What QoS 2 promises is in records of its own beside the session's: one for each packet identifier of the client's that
// is not released (unreleased), and one for the deliveries in flight (exactly). They end with the session.
type store struct {
	s      *Server
	tables tables
	groups groupRecords
}

// Keys of the sessions topic: the client identifier, which has no U+0000 in it [MQTT-1.5.4-2], or that and one of these.
const (
	keyArrival    = "\x00i" // and two bytes: a packet identifier; the value is a version
	keyDeliveries = "\x00o"
	keyWill       = "\x00w" // see willrecord.go; not the session's: it may outlive that
)

// ownerHeader is the record header that says whose session it is; a session without one is anybody's.
const ownerHeader = "owner"

var arrivalValue = []byte{1}

// arrival is the record of a packet identifier that came with QoS 2.
func (o *store) arrival(ss *session, id uint16) record.Record {
	return record.Record{Timestamp: o.s.cfg.Clock.Now().UnixMilli(), Key: arrivalKey(ss.id, id), Value: arrivalValue}
}

func arrivalKey(client string, id uint16) []byte {
	return binary.BigEndian.AppendUint16(append([]byte(client), keyArrival...), id)
}

// snapshot is the session's record value, and its number; covered is what of exactly.handed it makes superfluous. Take no
// lock around it.
func (s *Server) snapshot(ss *session) (value []byte, n uint64, covered map[*stream]int64) {
	ss.mu.Lock()
	filters := filtersOf(ss.own())
	ss.mu.Unlock()
	cursors := make(map[*stream]int64)
	for _, st := range s.streams.reached(filters...) {
		st.mu.Lock()
		cursors[st] = st.pos
		ss.mu.Lock()
		if next, behind := ss.lag[st]; behind {
			cursors[st] = next
		} else if !ss.open() {
			delete(cursors, st) // newer than the session's last connection, or no more is known
		}
		ss.mu.Unlock()
		st.mu.Unlock()
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for st, next := range ss.lag {
		cursors[st] = next // also where today's rules reach nothing
	}
	ss.dirty = false
	var away int64
	if ss.client == nil {
		away = s.cfg.Clock.Now().UnixMilli()
	}
	handed := maps.Clone(ss.exact.handed)
	covered = make(map[*stream]int64)
	for st, end := range handed {
		if next, ok := cursors[st]; ok && next >= end {
			covered[st] = end
			delete(handed, st)
		}
	}
	ss.exact.made++
	return encodeSession(ss, cursors, handed, away), ss.exact.made, covered
}

// put writes the session; done is called once, quickly, when it is durable or not.
func (o *store) put(ss *session, done func(error)) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	if ss.over {
		done(errSessionOver)
		return
	}
	value, n, covered := o.s.snapshot(ss)
	recs := []record.Record{{Key: []byte(ss.id), Value: value, Headers: ss.ownerHeaders()}}
	table, groups := o.beside(ss)
	if table {
		recs = append(recs, record.Record{Key: []byte(ss.id + keyDeliveries)})
	}
	o.appendWith(groups, recs, func(err error) {
		if err == nil {
			ss.mu.Lock()
			for st, end := range covered {
				if ss.exact.handed[st] == end {
					delete(ss.exact.handed, st)
				}
			}
			ss.mu.Unlock()
		}
		ss.landed(n, false, err)
		done(err)
	})
}

// beside reports whether the session has a delivery table, and the groups whose records go with its own.
func (o *store) beside(ss *session) (table bool, groups []*group) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.exact.table, ss.groups()
}

// putTable writes the session's delivery table, if it has to be.
func (o *store) putTable(ss *session) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	ss.mu.Lock()
	x := &ss.exact
	x.queued = false
	if ss.over || x.busy || x.wanted <= x.made {
		ss.mu.Unlock()
		return
	}
	value := encodeTable(ss)
	x.made++
	n := x.made
	x.busy, x.table, x.tabled = true, true, n
	groups := ss.groups()
	ss.mu.Unlock()
	o.appendWith(groups, []record.Record{{Key: []byte(ss.id + keyDeliveries), Value: value}}, func(err error) {
		if err != nil {
			o.s.log.Error("mqtt: deliveries could not be written, trying again", "client", ss.id, "error", err)
		}
		ss.landed(n, true, err)
	})
}

// release ends the record of a packet identifier.
func (o *store) release(ss *session, id uint16) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	if ss.over { // its end ended that too
		ss.unreleased.land(id, nil)
		return
	}
	o.append([]record.Record{{Key: arrivalKey(ss.id, id)}}, func(err error) { ss.unreleased.land(id, err) })
}

// errSessionOver is returned by put for a session that has ended: it must not come back with the next start.
var errSessionOver = errors.New("the session has ended")

// remove ends the session in the log, with all that is its.
func (o *store) remove(ss *session, done func(error)) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	ss.over = true
	var recs []record.Record
	for _, id := range ss.unreleased.all() {
		recs = append(recs, record.Record{Key: arrivalKey(ss.id, id)})
	}
	table, groups := o.beside(ss)
	if table {
		recs = append(recs, record.Record{Key: []byte(ss.id + keyDeliveries)})
	}
	recs = append(recs, record.Record{Key: []byte(ss.id)}) // last: while it is there, so is the rest
	for len(recs) > removeMax+1 {                          // the table ends together with what groups say of it
		o.append(recs[:removeMax], o.logged(ss))
		recs = recs[removeMax:]
	}
	o.appendWith(groups, recs, done)
}

// removeMax bounds how many records of a session end in one append.
const removeMax = 512

// append writes records of a session. done is called once, quickly, when they are durable or not.
func (o *store) append(recs []record.Record, done func(error)) {
	p, err := o.s.own(o.s.ctx, sessionsTopic)
	if err != nil {
		done(err)
		return
	}
	for i := range recs {
		recs[i].Timestamp = o.s.cfg.Clock.Now().UnixMilli()
	}
	o.s.wg.Add(1)
	p.AppendRecords(recs, true, func(_ int64, err error) {
		defer o.s.wg.Done()
		done(err)
	})
}

// wait turns put and remove into calls that return when it is durable.
func (o *store) wait(write func(*session, func(error)), ss *session) error {
	c := make(chan error, 1)
	write(ss, func(err error) { c <- err })
	return <-c
}

// logged is a done for writes nobody waits for: after an error the session is dirty, so the next checkpoint tries again;
// otherwise it may rest, where it has no connection.
func (o *store) logged(ss *session) func(error) {
	return func(err error) {
		if err == nil {
			ss.mu.Lock()
			away := ss.client == nil
			ss.mu.Unlock()
			if away {
				o.s.resting.soon(ss)
			}
		}
		if err != nil && !errors.Is(err, errSessionOver) {
			ss.mu.Lock()
			ss.dirty = true
			ss.mu.Unlock()
			o.s.log.Error("mqtt: session could not be written", "client", ss.id, "error", err)
		}
	}
}

func (o *store) load() error {
	p, ok := o.s.cfg.Log.Partition(sessionsTopic, 0)
	if !ok {
		return nil
	}
	known, groups, wills := make(map[string]remembered), make(map[string][]byte), make(map[string]*will)
	if err := scanAll(p, func(r *record.Record) {
		if key, ok := strings.CutPrefix(string(r.Key), keyGroup); ok {
			if groups[key] = slices.Clone(r.Value); r.Value == nil {
				delete(groups, key)
			}
			return
		}
		client, kind, beside := strings.Cut(string(r.Key), "\x00")
		if kind == keyWill[1:] {
			o.s.wills.read(wills, client, r)
			return
		}
		m := known[client]
		switch {
		case !beside:
			if m.session, m.owner, m.offset = string(r.Value), "", r.Offset; m.session == "" {
				m.offset = 0
			}
			for _, h := range r.Headers {
				if h.Key == ownerHeader {
					m.owner = unique.Make(auth.Principal(h.Value)).Value() // few own many
				}
			}
		case kind == keyDeliveries[1:]:
			m.beside().table = slices.Clone(r.Value)
		case len(kind) == 3 && kind[:1] == keyArrival[1:]:
			m.beside().arrival(binary.BigEndian.Uint16([]byte(kind[1:])), r.Value != nil)
		}
		if m.more != nil && m.more.table == nil && len(m.more.ids) == 0 {
			m.more = nil
		}
		if m == (remembered{}) {
			delete(known, client)
		} else {
			known[client] = m
		}
	}); err != nil {
		return err
	}
	o.s.life.Lock()
	defer o.s.life.Unlock()
	o.restoreGroups(groups)
	for id, m := range known {
		known[id] = remembered{} // what it held goes as what rests comes
		o.restore(p, id, m)
	}
	o.settleGroups(groups)
	for _, ss := range o.s.sessions {
		o.s.rest(ss)
	}
	for _, w := range wills {
		o.s.wills.restore(w)
	}
	return nil
}

// remembered is what the log has of one client. There is one for each while the log is read: it is small.
type remembered struct {
	session string // its record; empty: none
	offset  int64  // of it
	owner   auth.Principal
	more    *besides // nil: nothing
}

// besides are the records beside a session's.
type besides struct {
	table []byte // nil: none
	ids   []uint16
}

func (m *remembered) beside() *besides {
	if m.more == nil {
		m.more = new(besides)
	}
	return m.more
}

func (m *besides) arrival(id uint16, there bool) {
	i, known := slices.BinarySearch(m.ids, id)
	switch {
	case there && !known:
		m.ids = slices.Insert(m.ids, i, id)
	case !there && known:
		m.ids = slices.Delete(m.ids, i, i+1)
	}
}

// restore makes the session again that the log remembers. Under life.
func (o *store) restore(part Partition, id string, m remembered) {
	more := m.beside()
	ss := newSession(o.s, id)
	ss.stored, ss.keeps, ss.owner = true, true, m.owner
	ss.exact.table = more.table != nil
	if m.session == "" {
		// A crash came between its end and that of what is its, or before its beginning: nobody was promised anything.
		for _, id := range more.ids {
			ss.unreleased.load(id)
		}
		ss.unreleased.end()
		o.remove(ss, o.logged(ss))
		return
	}
	find := finder{o.s.streams.find, o.s.group}
	away, err := decodeSession([]byte(m.session), ss, find)
	if err == nil && more.table != nil {
		err = decodeTable(more.table, ss, find)
	}
	if err != nil {
		// Half a session would lose messages silently; without one the client hears that it has none.
		o.s.log.Error("mqtt: session dropped", "client", id, "error", err)
		return
	}
	for _, id := range more.ids {
		ss.unreleased.load(id)
	}
	cost := sessionCost(id)
	for _, sub := range ss.subs {
		cost += filterCost(sub.filter)
		if _, _, shared := shareOf(sub.filter); shared {
			sub.group = o.s.group(sub.filter)
			sub.group.count(sub)
		}
	}
	o.s.cfg.State.Overdraw(cost) // it was acknowledged: it is kept whatever the limit says now
	o.s.charge(ss, cost)
	ss.restCost()
	o.s.sessions[id] = ss
	since := o.s.cfg.Now()
	if away > 0 {
		waited := o.s.cfg.Clock.AgeMS() - o.s.cfg.Clock.Arrived(part.ID(), part.Index(), m.offset, away)
		since = since.Add(-time.Duration(max(0, waited)) * time.Millisecond)
	}
	o.s.expireLater(ss, since)
	if !slices.ContainsFunc(ss.inflight, func(d delivery) bool { return d.group != nil }) {
		o.s.rest(ss) // else settleGroups has to look at it first
	}
}

// checkpointLater writes the cursors of sessions that moved, every CheckpointInterval, and forgets deleted topics.
func (s *Server) checkpointLater() {
	s.deadlines.at(s.cfg.Now().Add(s.cfg.CheckpointInterval), func() {
		s.life.Lock()
		swept := s.streams.sweep()
		var moved, away []*session
		for _, ss := range s.sessions {
			ss.mu.Lock()
			if swept {
				ss.forgetGone()
			}
			switch {
			case ss.dirty && ss.stored:
				moved = append(moved, ss)
			case ss.client == nil: // what kept it from resting may be over
				away = append(away, ss)
			}
			ss.mu.Unlock()
		}
		for _, ss := range away {
			s.rest(ss)
		}
		s.resting.sweep() // of those that were away when the server started the clock may have been set meanwhile
		for _, ss := range moved {
			s.store.put(ss, s.store.logged(ss))
		}
		for _, g := range s.groups {
			if swept {
				g.forgetGone()
			}
		}
		s.store.putGroups(s.turned())
		s.life.Unlock()
		s.checkpointLater()
	})
}
