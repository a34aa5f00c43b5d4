package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/broker/record"
)

// store keeps durable sessions in the sessions topic. A session is written when its subscriptions change (before the
// client hears of it), when it loses its connection, and lazily while it is connected: QoS 1 deliveries cost no write,
// so after a crash what was delivered since is delivered again.
type store struct{ s *Server }

const sessionVersion = 1

// snapshot is the session's record value. Take no lock around it.
func (s *Server) snapshot(ss *session) []byte {
	ss.mu.Lock()
	filters := make([]string, len(ss.subs))
	for i, sub := range ss.subs {
		filters[i] = sub.filter
	}
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
		away = s.cfg.Now().UnixMilli()
	}
	return encodeSession(ss, cursors, away)
}

// encodeSession: version, expiry, ms of disconnection (0: connected), the partitions spoken of, cursors, in-flight
// messages, subscriptions. Under ss.mu.
func encodeSession(ss *session, cursors map[*stream]int64, away int64) []byte {
	places := make(map[*stream]uint64)
	var table []*stream
	place := func(st *stream) uint64 {
		i, ok := places[st]
		if !ok {
			i = uint64(len(table))
			places[st] = i
			table = append(table, st)
		}
		return i
	}
	var body []byte
	body = binary.AppendUvarint(body, uint64(len(cursors)))
	for st, next := range cursors {
		body = binary.AppendUvarint(body, place(st))
		body = binary.AppendUvarint(body, uint64(next))
	}
	body = binary.AppendUvarint(body, uint64(len(ss.inflight)))
	for _, d := range ss.inflight {
		body = binary.AppendUvarint(body, place(d.st))
		body = binary.AppendUvarint(body, uint64(d.offset))
		body = binary.AppendUvarint(body, uint64(d.id))
	}
	body = binary.AppendUvarint(body, uint64(len(ss.subs)))
	for _, sub := range ss.subs {
		flags := sub.qos | sub.retain<<4
		if sub.noLocal {
			flags |= 4
		}
		if sub.asIs {
			flags |= 8
		}
		body = append(appendString(body, sub.filter), flags)
		body = binary.AppendUvarint(body, uint64(sub.id))
		body = binary.AppendUvarint(body, uint64(len(sub.starts)))
		for _, p := range sub.starts {
			body = binary.AppendUvarint(body, place(p.st))
			body = binary.AppendUvarint(body, uint64(p.offset))
		}
	}
	out := append(make([]byte, 0, 16+18*len(table)+len(body)), sessionVersion)
	out = binary.AppendUvarint(out, uint64(ss.expiry))
	out = binary.AppendUvarint(out, uint64(away))
	out = binary.AppendUvarint(out, uint64(ss.lastID))
	out = binary.AppendUvarint(out, uint64(len(table)))
	for _, st := range table {
		id := st.part.ID()
		out = append(out, id[:]...)
		out = binary.AppendUvarint(out, uint64(st.index))
	}
	return append(out, body...)
}

var errSession = errors.New("session record is not readable")

// sessionReader reads uvarints and keeps the first failure.
type sessionReader struct {
	p   []byte
	bad bool
}

func (r *sessionReader) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 || v > limit {
		r.bad, r.p = true, nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *sessionReader) take(n int) []byte {
	if n > len(r.p) {
		r.bad, r.p = true, nil
		return make([]byte, min(n, 16))
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}

// decodeSession is encodeSession's inverse; find turns the name of a partition into its stream, nil when it is gone:
// what lay there is gone with it. ss is filled; away is when its connection ended, 0 when it had one.
func decodeSession(p []byte, ss *session, find func(streamKey) *stream) (away int64, err error) {
	r := &sessionReader{p: p}
	if v := r.take(1); r.bad || v[0] != sessionVersion {
		return 0, fmt.Errorf("%w: version %d", errSession, v[0])
	}
	ss.expiry = uint32(r.uint(never))
	away = int64(r.uint(1 << 62))
	ss.lastID = uint16(r.uint(65535))
	table := make([]*stream, 0, min(len(r.p)/17, 1024))
	for n := r.uint(uint64(len(r.p) / 17)); n > 0 && !r.bad; n-- {
		key := streamKey{id: [16]byte(r.take(16))}
		key.index = int32(r.uint(1<<31 - 1))
		table = append(table, find(key))
	}
	at := func() (st *stream, offset int64) {
		i := r.uint(uint64(max(len(table), 1) - 1))
		offset = int64(r.uint(1<<63 - 1))
		if int(i) < len(table) {
			st = table[i]
		}
		return st, offset
	}
	for n := r.uint(uint64(len(r.p) / 2)); n > 0 && !r.bad; n-- {
		if st, next := at(); st != nil {
			ss.fallBehind(st, next)
		}
	}
	for n := r.uint(uint64(len(r.p) / 3)); n > 0 && !r.bad; n-- {
		st, offset := at()
		if id := uint16(r.uint(65535)); st != nil && id != 0 {
			ss.inflight = append(ss.inflight, delivery{st, offset, id})
		}
	}
	for n := r.uint(uint64(len(r.p) / 4)); n > 0 && !r.bad; n-- {
		sub := &subscription{session: ss, filter: string(r.take(int(r.uint(65535))))}
		flags := r.take(1)[0]
		sub.qos, sub.noLocal, sub.asIs, sub.retain = flags&3, flags&4 != 0, flags&8 != 0, flags>>4&3
		sub.id = uint32(r.uint(never))
		for n := r.uint(uint64(len(r.p) / 2)); n > 0 && !r.bad; n-- {
			if st, offset := at(); st != nil {
				sub.starts = append(sub.starts, position{st, offset})
			}
		}
		ss.subs = append(ss.subs, sub)
	}
	if r.bad || len(r.p) != 0 {
		return 0, errSession
	}
	return away, nil
}

// put writes the session; done is called once, quickly, when it is durable or not.
func (o *store) put(ss *session, done func(error)) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	if ss.over {
		done(errSessionOver)
		return
	}
	o.append(ss, o.s.snapshot(ss), done)
}

// errSessionOver is returned by put for a session that has ended: it must not come back with the next start.
var errSessionOver = errors.New("the session has ended")

// remove ends the session in the log.
func (o *store) remove(ss *session, done func(error)) {
	ss.writing.Lock()
	defer ss.writing.Unlock()
	ss.over = true
	o.append(ss, nil, done)
}

func (o *store) append(ss *session, value []byte, done func(error)) {
	p, err := o.s.own(o.s.ctx, sessionsTopic)
	if err != nil {
		done(err)
		return
	}
	o.s.wg.Add(1)
	rec := record.Record{Timestamp: o.s.cfg.Now().UnixMilli(), Key: []byte(ss.id), Value: value}
	p.AppendRecords([]record.Record{rec}, true, func(_ int64, err error) {
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

// logged is a done for writes nobody waits for: after an error the session is dirty, so the next checkpoint tries again.
func (o *store) logged(ss *session) func(error) {
	return func(err error) {
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
	values := make(map[string][]byte)
	if err := scanAll(p, func(r *record.Record) {
		if r.Value == nil {
			delete(values, string(r.Key))
		} else {
			values[string(r.Key)] = slices.Clone(r.Value)
		}
	}); err != nil {
		return err
	}
	now := o.s.cfg.Now()
	o.s.life.Lock()
	defer o.s.life.Unlock()
	for id, value := range values {
		ss := &session{s: o.s, id: id, stored: true}
		away, err := decodeSession(value, ss, o.s.streams.find)
		if err != nil {
			// Half a session would lose messages silently; without one the client hears that it has none.
			o.s.log.Error("mqtt: session dropped", "client", id, "error", err)
			continue
		}
		ss.cost = sessionCost(id)
		for _, sub := range ss.subs {
			ss.cost += filterCost(sub.filter)
		}
		ss.away = int64(len(ss.lag)) * cursorCost
		o.s.cfg.State.Overdraw(ss.cost + ss.away) // it was acknowledged: it is kept whatever the limit says now
		o.s.sessions[id] = ss
		since := now
		if away > 0 {
			since = time.UnixMilli(away)
		}
		o.s.expireLater(ss, since)
	}
	return nil
}

// checkpointLater writes the cursors of sessions that moved, every CheckpointInterval, and forgets deleted topics.
func (s *Server) checkpointLater() {
	s.deadlines.at(s.cfg.Now().Add(s.cfg.CheckpointInterval), func() {
		s.life.Lock()
		swept := s.streams.sweep()
		var moved []*session
		for _, ss := range s.sessions {
			ss.mu.Lock()
			if swept {
				ss.forgetGone()
			}
			if ss.dirty && ss.stored {
				moved = append(moved, ss)
			}
			ss.mu.Unlock()
		}
		for _, ss := range moved {
			s.store.put(ss, s.store.logged(ss))
		}
		s.life.Unlock()
		s.checkpointLater()
	})
}
