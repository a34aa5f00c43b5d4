package mqtt

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"millrace/bridge/mqtt/packet"
)

// group is the sessions that share a subscription (4.8.2): a cursor over the log whose messages go to one member each, in
// turns, and what was handed out and has not arrived. It is no queue: while nobody has room it falls behind on the log.
// It is there as long as a session has the subscription, connected or not.
type group struct {
	reader
	key string        // the whole filter
	sub *subscription // what is in the index while a member is connected

	// Under reader.mu:
	live        []*subscription // of connected members
	turn        int             // whose it is, in live
	size, keeps int             // members, and those of them that outlive their connections; life guards changes
	over        bool
	// past is, for each partition, the end of what it has handed out or was not there for. Together with lag it is the
	// cursor: where the group is not behind, nothing that was to be handed out lies between past and the tail.
	past map[*stream]int64

	handed  handed
	waiting atomic.Bool // for a member that has room
	queued  atomic.Bool // in the queue of the scans
	dirty   atomic.Bool // it changed since it was written
}

// handed is what a group has handed out. Its lock comes after every other.
type handed struct {
	mu sync.Mutex
	// all are the messages that would have to be handed out again after a crash: not acknowledged, or of QoS 2 and not durable in
	// the delivery table of their member. Bounded by the members' windows: while something is in again nothing new goes out.
	all   map[position]struct{}
	again []position // have come back from members that are gone, and go first
	over  bool       // the group has ended: nothing comes back
}

func (d *delivery) at() position { return position{d.st, d.offset} }

func (h *handed) out(p position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all = make(map[position]struct{})
	}
	h.all[p] = struct{}{}
}

// ended says that d never has to be handed out again. It may hold any lock.
func (g *group) ended(d *delivery) {
	g.handed.mu.Lock()
	defer g.handed.mu.Unlock()
	delete(g.handed.all, d.at())
	g.dirty.Store(true)
}

// back takes p back; false when the group has ended.
func (h *handed) back(p position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over && !slices.Contains(h.again, p) {
		h.all[p] = struct{}{}
		h.again = append(h.again, p)
	}
	return !h.over
}

// first is what has to be handed out again first.
func (h *handed) first() (position, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.again) == 0 {
		return position{}, false
	}
	return h.again[0], true
}

// take takes the first of again, which p is, or puts it back.
func (h *handed) take(p position, back bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if back {
		h.again = slices.Insert(h.again, 0, p)
		h.all[p] = struct{}{}
		return
	}
	if h.again = h.again[1:]; len(h.again) == 0 {
		h.again = nil
	}
	delete(h.all, p)
}

// shareOf cuts the filter of a shared subscription; ok is false when it is none. valid says whether the name and the
// filter are allowed [MQTT-4.8.2-1] [MQTT-4.8.2-2].
func shareOf(key string) (filter string, valid, ok bool) {
	rest, ok := strings.CutPrefix(key, packet.SharePrefix)
	name, filter, _ := strings.Cut(rest, "/")
	return filter, name != "" && !strings.ContainsAny(name, "+#") && packet.ValidFilter(filter), ok
}

// groupCost is about what a group holds in memory, in bytes, beside its cursor.
func groupCost(key string) int64 { return 1024 + 2*int64(len(key)) }

// group is the one with that key, made when it is not there, without members. Under life.
func (s *Server) group(key string) *group {
	g := s.groups[key]
	if g == nil {
		filter, _, _ := shareOf(key)
		g = &group{key: key, past: make(map[*stream]int64)}
		g.s, g.to = s, g
		g.handed.all = make(map[position]struct{})
		g.sub = &subscription{group: g, filter: filter}
		s.groups[key] = g
	}
	return g
}

// begin puts a new group at the end of the log: it gets nothing older than itself. Under life.
func (g *group) begin() {
	for _, st := range g.s.streams.reached(g.sub.filter) {
		high := st.part.High()
		g.mu.Lock()
		g.fallBehind(st, high)
		g.past[st] = high
		g.mu.Unlock()
	}
}

// join makes sub, of a connected session, a member's. Under life.
func (s *Server) join(sub *subscription) packet.Reason {
	g := s.groups[sub.filter]
	switch {
	case g == nil:
		if len(s.groups) >= s.cfg.MaxGroups || !s.cfg.State.TryAcquire(groupCost(sub.filter)) {
			return packet.QuotaExceeded
		}
		g = s.group(sub.filter)
		g.begin()
		g.restCost()
	case g.size >= s.cfg.MaxGroupMembers:
		return packet.QuotaExceeded
	}
	g.count(sub)
	g.enter(sub)
	return packet.Success
}

// count takes sub as a member's. Under life.
func (g *group) count(sub *subscription) {
	sub.session.mu.Lock()
	keeps := sub.session.keeps
	sub.session.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	sub.group = g
	g.size++
	if keeps {
		g.keeps++
	}
}

// part ends a membership, and with the last one the group. Under life.
func (s *Server) part(sub *subscription) {
	g := sub.group
	sub.session.mu.Lock()
	keeps := sub.session.keeps
	sub.session.mu.Unlock()
	g.mu.Lock()
	g.size--
	if keeps {
		g.keeps--
		s.store.owe(g)
	}
	g.over = g.size == 0
	over := g.over
	g.mu.Unlock()
	g.leave(sub)
	if over {
		s.end(g)
		s.cfg.State.Release(groupCost(g.key) + g.away)
		g.away = 0
	}
}

// end forgets a group that is over. Under life.
func (s *Server) end(g *group) {
	delete(s.groups, g.key)
	g.mu.Lock()
	g.over, g.lag = true, nil
	g.mu.Unlock()
	g.handed.mu.Lock()
	g.handed.over = true
	clear(g.handed.all)
	g.handed.again = nil
	g.handed.mu.Unlock()
}

// enter has a connected member get messages. With the first one the group follows the log again. Under life.
func (g *group) enter(sub *subscription) {
	g.mu.Lock()
	g.live = append(g.live, sub)
	first := len(g.live) == 1
	g.mu.Unlock()
	if first {
		g.follow([]*subscription{g.sub})
	}
	g.push()
}

// leave ends that; with the last one the group rests. Under life.
func (g *group) leave(sub *subscription) {
	g.mu.Lock()
	i := slices.Index(g.live, sub)
	if i >= 0 {
		g.live = slices.Delete(g.live, i, i+1)
	}
	last := i >= 0 && len(g.live) == 0
	if last {
		g.epoch++
	}
	keep := !g.over
	g.mu.Unlock()
	if last {
		g.rest([]*subscription{g.sub}, keep)
		g.dirty.Store(true)
	}
}

// replace puts sub in the place of old, of the same session. Under life.
func (g *group) replace(old, sub *subscription) {
	g.mu.Lock()
	if i := slices.Index(g.live, old); i >= 0 {
		g.live[i] = sub
	}
	g.mu.Unlock()
	g.push()
}

// open is of outlet.
func (g *group) open() bool { return len(g.live) > 0 }

// filters is of outlet.
func (g *group) filters() []*subscription { return []*subscription{g.sub} }

// offer hands m to a member, after what has come back. Under g.mu.
func (g *group) offer(st *stream, m *message, _ []*subscription) outcome {
	if g.over || m.offset < g.past[st] {
		return done
	}
	if _, more := g.handed.first(); more || g.hand(st, m) == blocked {
		g.blocked = true
		return blocked
	}
	g.past[st] = m.offset + 1
	g.dirty.Store(true)
	return done
}

// hand gives m to the next member that has room. Under g.mu.
func (g *group) hand(st *stream, m *message) outcome {
	for range 2 {
		result := unfit
		for range g.live {
			sub := g.live[g.turn%len(g.live)]
			g.turn = (g.turn + 1) % len(g.live)
			switch sub.session.share(sub, st, m) {
			case done:
				return done
			case blocked:
				result = blocked
			}
		}
		if result == unfit && len(g.live) > 0 {
			return done // nobody who is there may have it, or takes it [MQTT-3.1.2-25]
		}
		g.waiting.Store(true) // who gets room from here on says so; the second look is for who got it before
	}
	g.blocked = true
	return blocked
}

// wake is called when a member has room. It may hold any lock.
func (g *group) wake() {
	if g.waiting.Swap(false) {
		g.push()
	}
}

func (g *group) push() {
	if !g.queued.Swap(true) {
		g.s.streams.push(g)
	}
}

// run is the group's turn in the scans: what has come back first, then every partition it lags in.
func (g *group) run() {
	g.queued.Store(false)
	var scratch []byte
	for g.step(&scratch) {
	}
}

// step hands out one message again; false when there is none or no room. The log is read without the group's lock.
func (g *group) step(scratch *[]byte) bool {
	g.mu.Lock()
	p, more := g.handed.first()
	if !more || !g.open() {
		if g.open() {
			g.blocked = false
			for st := range g.lag {
				st.wait(&g.reader)
			}
		}
		g.mu.Unlock()
		return false
	}
	g.mu.Unlock()
	m, err := p.st.message(p.offset, scratch)
	if err != nil && !lost(err) {
		g.s.log.Error("mqtt: read failed, trying again", "group", g.key, "topic", p.st.topic, "partition", p.st.index,
			"offset", p.offset, "error", err)
		g.s.deadlines.at(g.s.cfg.Now().Add(retryDelay), g.push)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if now, more := g.handed.first(); !more || now != p {
		return true // another scan has been here, or the group has ended
	}
	g.handed.take(p, false)
	g.dirty.Store(true)
	if m == nil {
		g.s.log.Warn("mqtt: message is no longer in the log", "group", g.key, "topic", p.st.topic, "partition", p.st.index,
			"offset", p.offset, "error", err)
	} else if g.hand(p.st, m) == blocked {
		g.handed.take(p, true)
		return false
	}
	return true
}

// turned are the groups that changed since they were written. Under life.
func (s *Server) turned() (list []*group) {
	for _, g := range s.groups {
		if g.dirty.Load() {
			g.pass()
			list = append(list, g)
		}
	}
	return list
}

// forgetGone takes the partitions of deleted topics out of the cursor.
func (g *group) forgetGone() {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := func(st *stream, _ int64) bool { return st.gone.Load() }
	maps.DeleteFunc(g.lag, gone)
	maps.DeleteFunc(g.past, gone)
}

// pass notes where the tail reader is, so that what nobody wanted is not read again after a crash.
func (g *group) pass() {
	for _, st := range g.s.streams.reached(g.sub.filter) {
		st.mu.Lock()
		g.mu.Lock()
		if _, behind := g.lag[st]; !behind && g.open() {
			g.past[st] = max(g.past[st], st.pos)
		}
		g.mu.Unlock()
		st.mu.Unlock()
	}
}

// share sends m by the shared subscription sub, if there is room. It is a new delivery even when another member had the
// message: DUP is 0 [MQTT-4.3.2-2] [MQTT-4.3.3-2]. Under the group's mu.
func (ss *session) share(sub *subscription, st *stream, m *message) outcome {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.client == nil || sub.gone {
		return blocked
	}
	qos := min(sub.qos, m.props.QoS) // [MQTT-4.8.2-3]
	var ids []uint32
	if sub.id != 0 {
		ids = []uint32{sub.id}
	}
	return ss.send(st, m, packet.Publish{QoS: qos, Retain: sub.asIs && m.props.Retain}, ids, sub.group)
}

// shared are the session's shared subscriptions. Under ss.mu.
func (ss *session) shared() []*subscription {
	return slices.DeleteFunc(slices.Clone(ss.subs), func(sub *subscription) bool { return sub.group == nil })
}

// giveBack returns what groups handed to the session with QoS 1, now that its connection has ended: others get it. QoS 2 is
// completed with this client, or nobody [MQTT-4.8.2-4]. Under ss.mu.
func (ss *session) giveBack() {
	ss.inflight = slices.DeleteFunc(ss.inflight, func(d delivery) bool {
		if d.group == nil || d.qos != 1 || !d.group.handed.back(d.at()) {
			return false
		}
		d.group.push()
		return true
	})
	if len(ss.inflight) == 0 {
		ss.inflight = nil
	}
}

// abandon ends what groups handed to the session with QoS 2: it has ended, and nobody else may get it [MQTT-4.8.2-5].
// Under ss.mu.
func (ss *session) abandon() {
	for i := range ss.inflight {
		if d := &ss.inflight[i]; d.group != nil {
			d.group.ended(d)
		}
	}
}

// groups are those that have something to do with the session. Under ss.mu.
func (ss *session) groups() (list []*group) {
	add := func(g *group) {
		if g != nil && !slices.Contains(list, g) {
			list = append(list, g)
		}
	}
	for _, sub := range ss.subs {
		add(sub.group)
	}
	for i := range ss.inflight {
		add(ss.inflight[i].group)
	}
	return list
}
