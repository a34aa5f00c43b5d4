package mqtt

import (
	"errors"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
	"millrace/broker/record"
)

var errSessions = errors.New("too many sessions")

// errOwner is returned by attach for an id whose session is another user's, who may be away: it is neither taken over nor
// ended by somebody else.
var errOwner = errors.New("the client identifier belongs to another user")

// ownerHeaders are those of the session's record.
func (ss *session) ownerHeaders() []record.Header {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.owner == "" || ss.owner == auth.Anonymous {
		return nil
	}
	return []record.Header{{Key: ownerHeader, Value: []byte(ss.owner)}}
}

// yields says whether a client may have a session of owner's.
func yields(owner auth.Principal, c *client) bool {
	return owner == "" || owner == auth.Anonymous || owner == c.who.Principal
}

// attach gives the client its session: the one its id has [MQTT-3.1.3-2], or a new one [MQTT-3.1.2-4] [MQTT-3.1.2-5]
// [MQTT-3.1.2-6] [MQTT-3.1.4-4], [MQTT-3.1.2-4] of 3.1.1, [MQTT-3.1.2-6] of 3.1.1, [MQTT-3.1.4-3] of 3.1.1.
// An older connection with the same id is ended first [MQTT-3.1.4-3], [MQTT-3.1.4-2] of 3.1.1. It returns when what CONNACK says is
// durable, but for the will: willKept waits for that.
func (s *Server) attach(c *client, clean bool) (present bool, err error) {
	s.life.Lock()
	defer s.life.Unlock()
	var old *session
	ends := clean // the session that was
	for {
		var over bool
		if old, over, err = s.known(c); err != nil {
			return false, err
		}
		if old == nil {
			break
		}
		ends = ends || over
		over = over || clean
		c.before = s.takeOver(old)
		if old = s.sessions[c.id]; old == nil || !over {
			break
		}
		s.forget(old)
		if !old.stored {
			continue
		}
		// The old state must not come back after a crash. Whoever takes the id while we wait is taken over in turn.
		s.life.Unlock()
		err := s.store.wait(s.store.remove, old)
		s.life.Lock()
		if err != nil {
			return false, err
		}
	}
	ss := old
	if ss == nil {
		if len(s.sessions)+len(s.resting.all) >= s.cfg.MaxSessions || !s.cfg.State.TryAcquire(sessionCost(c.id)) {
			return false, errSessions
		}
		ss = newSession(s, c.id)
		s.charge(ss, sessionCost(c.id))
		s.sessions[c.id] = ss
	} else {
		s.deadlines.cancel(ss.expires)
	}
	s.connect(ss, c)
	s.wills.settle(c, ends)
	return old != nil, nil
}

func newSession(s *Server, id string) *session {
	ss := &session{id: id, unreleased: unreleased{state: s.cfg.State}}
	ss.s, ss.to = s, ss
	return ss
}

// takeOver ends the session's connection, if it has one, and returns it. Under life.
func (s *Server) takeOver(ss *session) *client {
	ss.mu.Lock()
	c := ss.client
	ss.mu.Unlock()
	if c == nil {
		return nil
	}
	w := c.takeWill()
	c.end(packet.SessionTakenOver, "another connection has the same client identifier")
	s.detach(ss, c)
	if w != nil {
		s.wills.ended(w, ss.expiry)
	}
	return c
}

// connect makes c the session's connection and puts its subscriptions to work. Under life.
func (s *Server) connect(ss *session, c *client) {
	ss.mu.Lock()
	ss.client, c.session = c, ss
	ss.owner = c.who.Principal
	ss.epoch++
	c.epoch = ss.epoch
	ss.held = true // until CONNACK is sent
	if ss.expiry != never || c.expiry != never {
		ss.dirty = true // its record says since when it has been away: after a crash it would expire from there
	}
	ss.expiry = c.expiry
	ss.window = c.window
	ss.keeps = ss.expiry > 0 || ss.stored
	ss.unsent, ss.blocked = len(ss.inflight), true
	for i := range ss.inflight {
		ss.inflight[i].sent = false
	}
	own, shared := ss.own(), ss.shared()
	ss.mu.Unlock()
	ss.follow(own)
	for _, sub := range shared {
		sub.group.enter(sub)
	}
}

// detach takes the connection from the session and fixes its cursors: what is published from here on, and matches, comes
// with the next one ([MQTT-3.1.2-5] of 3.1.1). Under life.
func (s *Server) detach(ss *session, c *client) {
	ss.mu.Lock()
	if ss.client != c {
		ss.mu.Unlock()
		return
	}
	ss.held = true
	ss.epoch++
	own, shared := ss.own(), ss.shared()
	keep := ss.expiry > 0
	ss.mu.Unlock()
	ss.rest(own, keep)
	for _, sub := range shared {
		sub.group.leave(sub)
	}
	ss.mu.Lock()
	ss.client = nil
	ss.replays = nil
	parked := ss.unpark()
	ss.giveBack()
	ss.mu.Unlock()
	if parked > 0 {
		s.outlets.gone(parked)
	}
	if !keep {
		s.forget(ss)
		if ss.stored {
			ss.stored = false
			s.store.remove(ss, s.store.logged(ss))
		}
		return
	}
	ss.stored = true
	s.store.put(ss, s.store.logged(ss))
	s.expireLater(ss, s.cfg.Now())
}

// forget ends a session without a connection, never one that has one [MQTT-4.1.0-1]. Under life.
func (s *Server) forget(ss *session) {
	s.deadlines.cancel(ss.expires)
	if s.sessions[ss.id] == ss {
		delete(s.sessions, ss.id)
		s.charge(ss, -ss.cost)
		s.cfg.State.Release(ss.away)
		ss.away = 0
		ss.unreleased.end()
		ss.mu.Lock()
		shared := ss.shared()
		ss.giveBack()
		ss.abandon()
		ss.mu.Unlock()
		for _, sub := range shared {
			s.part(sub)
		}
	}
}

// What is remembered costs about this much memory, in bytes: a session that does not rest; a subscription of it, which is
// also in the index; one partition of the cursor of one without a connection; a retained message's place in the index.
func sessionCost(id string) int64     { return 960 + 2*int64(len(id)) }
func filterCost(filter string) int64  { return 320 + 2*int64(len(filter)) }
func retainedCost(topic string) int64 { return 160 + int64(len(topic)) }

const cursorCost = 48

// expireLater ends the session its expiry interval after since [MQTT-3.1.2-23] [MQTT-4.1.0-2]. Under life.
func (s *Server) expireLater(ss *session, since time.Time) {
	if ss.expiry == never {
		return
	}
	epoch := ss.epoch
	ss.expires = s.deadlines.at(since.Add(time.Duration(ss.expiry)*time.Second), func() {
		s.life.Lock()
		defer s.life.Unlock()
		if ss.epoch != epoch || s.sessions[ss.id] != ss {
			return // back, or replaced
		}
		s.forget(ss)
		s.wills.expire(ss.id)
		if ss.stored {
			s.store.remove(ss, s.store.logged(ss))
		}
	})
}

// leave is the end of a connection: the session loses it and the will, if there is one left, goes out or waits.
func (s *Server) leave(c *client) {
	s.life.Lock()
	defer s.life.Unlock()
	ss := c.session
	if ss == nil {
		return
	}
	w := c.takeWill()
	ss.mu.Lock()
	mine := ss.client == c
	ss.mu.Unlock()
	if mine {
		s.detach(ss, c)
	}
	switch {
	case w == nil: // [MQTT-3.1.2-12] of 3.1.1
	case s.stopping():
		s.drop(w) // its record stays, and the next start sends it (3.1.2.5)
	default:
		s.wills.ended(w, ss.expiry)
	}
}
