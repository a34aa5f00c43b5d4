package mqtt

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"millrace/broker/auth"
)

// resting are the durable sessions without a connection: each is one string, and becomes a session again when its client is
// back. A session rests when the log has all of it (rest), so what is here is what the log has; one whose write failed, or one
// of whose packet identifiers is on its way, stays a session until that is settled. ADR 17.
//
// life guards all but mu and what is below it.
type resting struct {
	s *Server
	// all are the sessions by client identifier. Each begins with its identifier, so that a key is no memory of its own.
	// Invariant: no session is both here and in Server.sessions.
	all map[string]string
	// subs and shared count their subscriptions; shared are those of groups.
	subs, shared int64
	begun        time.Time // what times are counted from, with a monotonic reading
	sweeping     *deadline // the next sweep, nil: nothing has an end
	swept        time.Time

	mu      sync.Mutex
	tired   []*session // whose record has landed: they may rest
	running bool       // a goroutine takes them from there
}

const (
	// sweepGap is how long sweeps are apart at least: one looks at every session that rests.
	sweepGap = 10 * time.Second
	// sweepMost is how many sessions one sweep ends before it lets others have life.
	sweepMost = 512
)

// restingCost is about what a resting session holds in memory, in bytes: its string, and its place in the map.
func restingCost(bytes string) int64 { return 64 + int64(len(bytes)) + int64(len(bytes)/8) }

// sleeper is what a resting session's bytes say of it, in their order after the client identifier.
type sleeper struct {
	end    int64 // when it ends, in ms since resting.begun, or of Unix time when wall; 0: never
	wall   bool  // Config.Now has no monotonic reading
	table  bool  // the log has a delivery table of it
	owner  auth.Principal
	ids    []uint16 // of unreleased, ascending
	record []byte   // of encodeSession: what the table says is in it, the time of the disconnection is not
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func (z *sleeper) encode(id string) string {
	b := append(make([]byte, 0, len(id)+24+len(z.owner)+3*len(z.ids)+len(z.record)), id...)
	b = binary.AppendUvarint(b, uint64(z.end)<<1|flag(z.wall))
	b = binary.AppendUvarint(b, uint64(len(z.owner))<<1|flag(z.table))
	b = append(b, z.owner...)
	b = binary.AppendUvarint(b, uint64(len(z.ids)))
	last := uint16(0)
	for _, id := range z.ids {
		b = binary.AppendUvarint(b, uint64(id-last))
		last = id
	}
	return string(append(b, z.record...))
}

// decodeSleeper is encode's inverse.
func decodeSleeper(id, bytes string) (z sleeper) {
	r := &sessionReader{p: []byte(bytes[len(id):])}
	end := r.uint(1<<64 - 1)
	z.end, z.wall = int64(end>>1), end&1 != 0
	n := r.uint(1<<64 - 1)
	z.table = n&1 != 0
	z.owner = auth.Principal(r.take(int(n >> 1)))
	last := uint16(0)
	for n := r.uint(65535); n > 0; n-- {
		last += uint16(r.uint(65535))
		z.ids = append(z.ids, last)
	}
	z.record = r.p
	return z
}

// endOf reads when a session of decodeSleeper's bytes ends; zero: never.
func (r *resting) endOf(id, bytes string) time.Time {
	v, shift := uint64(0), 0
	for i := len(id); ; i++ { // as binary.Uvarint, of a string
		v |= uint64(bytes[i]&0x7f) << shift
		if shift += 7; bytes[i] < 0x80 {
			break
		}
	}
	switch ms := int64(v >> 1); {
	case ms == 0:
		return time.Time{}
	case v&1 != 0:
		return time.UnixMilli(ms)
	default:
		return r.begun.Add(time.Duration(ms) * time.Millisecond)
	}
}

// over reports whether it has ended, and only waits for a sweep.
func (r *resting) over(id, bytes string) bool {
	end := r.endOf(id, bytes)
	return !end.IsZero() && !end.After(r.s.cfg.Now())
}

// soon has ss rest once life is free. It is called by the commit.
func (r *resting) soon(ss *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tired = append(r.tired, ss)
	if !r.running {
		r.running = true
		r.s.wg.Go(r.run)
	}
}

func (r *resting) run() {
	for {
		r.mu.Lock()
		tired := r.tired
		r.tired = nil
		r.running = len(tired) > 0
		r.mu.Unlock()
		if len(tired) == 0 {
			return
		}
		for _, ss := range tired {
			r.s.life.Lock()
			r.s.rest(ss)
			r.s.life.Unlock()
		}
	}
}

// rest turns ss into bytes, if it has no connection and the log has all of it. From then on the session is nobody's: who
// still holds it, a connection that is ending, is told that it is over. Under life.
func (s *Server) rest(ss *session) bool {
	if s.sessions[ss.id] != ss || !ss.stored {
		return false
	}
	ss.writing.Lock()
	defer ss.writing.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	x := &ss.exact
	if ss.client != nil || ss.expiry == 0 || ss.dirty || x.made > x.durable || x.wanted > x.made || x.queued || x.busy {
		return false
	}
	ids, ok := ss.unreleased.rest()
	if !ok {
		return false
	}
	ss.over = true
	z := sleeper{table: x.table, owner: ss.owner, ids: ids, record: encodeSession(ss, ss.lag, x.handed, 0)}
	if e := ss.expires; e != nil {
		s.deadlines.cancel(e)
		if z.wall = e.at == e.at.Round(0); z.wall { // it has no monotonic reading
			z.end = max(1, e.at.UnixMilli())
		} else {
			z.end = max(1, e.at.Sub(s.resting.begun).Milliseconds())
		}
		s.resting.sweepAt(e.at)
	}
	bytes := z.encode(ss.id)
	delete(s.sessions, ss.id)
	s.resting.all[bytes[:len(ss.id)]] = bytes
	s.resting.count(ss, 1)
	s.charge(ss, -ss.cost)
	s.cfg.State.Release(ss.away)
	ss.away = 0
	s.cfg.State.Overdraw(restingCost(bytes)) // less than it was
	return true
}

// count takes the subscriptions of ss to those that rest, or from them.
func (r *resting) count(ss *session, n int64) {
	for _, sub := range ss.subs {
		if sub.group != nil {
			r.shared += n
		} else {
			r.subs += n
		}
	}
}

// charge has ss hold n bytes more of the State budget, which have been taken, or n fewer, which are given back. Under life.
func (s *Server) charge(ss *session, n int64) {
	ss.cost += n
	s.awake += n
	if n < 0 {
		s.cfg.State.Release(-n)
	}
}

// wake makes the session of bytes again. Its client's coming back is refused with errSessions when there is no room for it
// and sessions that are awake hold half of all there is: up to there it is let in whatever else is remembered, or those
// who rest could keep everybody out. must says that it is not refused, because it ends at once. Under life.
func (s *Server) wake(id, bytes string, must bool) (*session, error) {
	z := decodeSleeper(id, bytes)
	ss := newSession(s, id)
	ss.stored, ss.keeps, ss.owner = true, true, z.owner
	// A group that a delivery came from may have ended; those it is a member of have not.
	if _, err := decodeSession(z.record, ss, finder{s.streams.find, func(key string) *group { return s.groups[key] }}); err != nil {
		panic("mqtt: a resting session cannot be read: " + err.Error()) // we wrote it
	}
	ss.exact.table = z.table
	cost := sessionCost(id)
	for _, sub := range ss.subs {
		cost += filterCost(sub.filter)
		if _, _, shared := shareOf(sub.filter); shared {
			sub.group = s.groups[sub.filter]
		}
	}
	state := s.cfg.State
	state.Release(restingCost(bytes))
	if !state.TryAcquire(cost) {
		if !must && s.awake+cost > state.Size()/2 {
			state.Overdraw(restingCost(bytes))
			return nil, errSessions
		}
		state.Overdraw(cost)
	}
	s.charge(ss, cost)
	for _, id := range z.ids {
		ss.unreleased.load(id)
	}
	delete(s.resting.all, id)
	s.resting.count(ss, -1)
	s.sessions[ss.id] = ss
	return ss, nil
}

// known is the session the client's identifier has, nil when there is none; over says that its time has come. It is awake
// then. Under life.
func (s *Server) known(c *client) (ss *session, over bool, err error) {
	if ss := s.sessions[c.id]; ss != nil {
		if !yields(ss.owner, c) {
			return nil, false, errOwner
		}
		return ss, false, nil
	}
	bytes, ok := s.resting.all[c.id]
	if !ok {
		return nil, false, nil
	}
	over = s.resting.over(c.id, bytes) // then it is nobody's
	if !over && !yields(decodeSleeper(c.id, bytes).owner, c) {
		return nil, false, errOwner
	}
	ss, err = s.wake(c.id, bytes, over)
	return ss, over, err
}

// sweepAt has a sweep come at t at the latest, as far as sweepGap lets it. Under life.
func (r *resting) sweepAt(t time.Time) {
	if least := r.swept.Add(sweepGap); t.Before(least) {
		t = least
	}
	if r.sweeping != nil && !t.Before(r.sweeping.at) {
		return
	}
	r.s.deadlines.cancel(r.sweeping)
	r.sweeping = r.s.deadlines.at(t, func() {
		r.s.life.Lock()
		defer r.s.life.Unlock()
		r.sweep()
	})
}

// sweep ends the sessions whose time has come [MQTT-3.1.2-23] [MQTT-4.1.0-2], and sees to the next. Under life.
func (r *resting) sweep() {
	r.s.deadlines.cancel(r.sweeping)
	r.sweeping, r.swept = nil, r.s.cfg.Now()
	var due []string
	var next time.Time
	for id, bytes := range r.all {
		switch end := r.endOf(id, bytes); {
		case end.IsZero():
		case !end.After(r.swept) && len(due) < sweepMost:
			due = append(due, id)
		case next.IsZero() || end.Before(next):
			next = end
		}
	}
	for _, id := range due {
		ss, err := r.s.wake(id, r.all[id], true)
		if err != nil {
			continue // never: it must
		}
		r.s.forget(ss)
		r.s.wills.expire(id)
		r.s.store.remove(ss, r.s.store.logged(ss))
	}
	if len(due) == sweepMost {
		r.swept = time.Time{} // the rest of them at once
	}
	if !next.IsZero() {
		r.sweepAt(next)
	}
}

// rest is end for a session that goes on as bytes: what is unreleased. false: an identifier is on its way.
func (u *unreleased) rest() (ids []uint16, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.moving) > 0 || u.ended {
		return nil, false
	}
	u.ended = true
	u.state.Release(idCost * int64(len(u.ids)))
	return slices.Clone(u.ids), true
}
