package group

import "maps"

// join takes a member in, or keeps it, for the next generation.
func (g *group) join(e Join) {
	switch {
	case g.phase == Dead:
		g.answer(e.tell, e.fail(ErrUnavailable))
	case !g.supports(e.ProtocolType, e.Protocols):
		g.answer(e.tell, e.fail(ErrInconsistentProtocol))
	case e.Member == "" && e.Instance != "" && g.instances[e.Instance] != "":
		g.replace(g.byID[g.instances[e.Instance]], e)
	case e.Member == "" && e.Instance == "" && e.RequireID:
		g.expect(e)
	case e.Member == "":
		g.add(e.newID, e)
	default:
		g.joinAgain(e)
	}
}

// expect gives a new member the id it is to come back with (KIP-394): a client that gives up in between leaves a name
// behind, not a member everybody waits for.
func (g *group) expect(e Join) {
	if len(g.members) >= g.limits.Members || len(g.pending) >= g.limits.Members {
		g.answer(e.tell, e.fail(ErrFull))
		return
	}
	g.pending[e.newID] = g.now.ms + int64(e.SessionMS)
	g.size += pendingCost + int64(len(e.newID))
	g.wake(g.pending[e.newID])
	g.answer(e.tell, JoinReply{Err: ErrMemberIDRequired, Member: e.newID, Generation: -1})
}

// unexpect forgets an id that was given out.
func (g *group) unexpect(id string) {
	delete(g.pending, id)
	g.size -= pendingCost + int64(len(id))
}

// joinAgain is the join of a member that has an id.
func (g *group) joinAgain(e Join) {
	if _, pending := g.pending[e.Member]; pending && e.Instance == "" {
		g.unexpect(e.Member)
		g.add(e.Member, e)
		return
	}
	m, err := g.find(e.Member, e.Instance)
	switch {
	case err != nil:
		g.answer(e.tell, e.fail(err))
	case g.phase == CompletingRebalance && m.matches(e.Protocols),
		g.phase == Stable && m.id != g.leader && m.matches(e.Protocols):
		// It did not hear the answer, or only asks: nothing changes.
		g.touch(m)
		g.answer(e.tell, g.joined(m))
	default:
		g.update(m, e)
		g.advance()
	}
}

// add makes a new member.
func (g *group) add(id string, e Join) {
	if len(g.members) >= g.limits.Members {
		g.answer(e.tell, e.fail(ErrFull))
		return
	}
	m := &member{id: id, instance: e.Instance, fresh: true, deadline: g.now.ms + newMemberMS}
	if len(g.members) == 0 {
		g.protocolType, g.leader = e.ProtocolType, id
	}
	g.members = append(g.members, m)
	g.byID[id] = m
	if m.instance != "" {
		g.instances[m.instance] = id
	}
	g.size += m.cost()
	g.update(m, e)
	g.wake(m.deadline)
	if g.phase == PreparingRebalance && g.generation == 0 {
		g.more = true
	}
	g.advance()
}

// update takes over what a member says about itself; it waits for an answer from now on.
func (g *group) update(m *member, e Join) {
	g.cut(m, ErrRebalance) // an answer nobody waits for any more: its client has asked again
	g.describe(m, e)
	m.joining = e.tell
}

func (g *group) describe(m *member, e Join) {
	g.size -= m.cost()
	m.clientID, m.clientHost, m.protocols = e.ClientID, e.ClientHost, e.Protocols
	m.session, m.rebalance = int64(e.SessionMS), int64(e.RebalanceMS)
	g.size += m.cost()
}

// replace gives the place of a static member to its client's next life (KIP-345). The group goes on undisturbed where
// the new one offers what the old one did; Apache Kafka lets even a changed list of topics pass until the next
// rebalance, and here that begins one.
func (g *group) replace(m *member, e Join) {
	old, leader := m.id, g.leader
	topics := m.metadata(g.protocol)
	g.cut(m, ErrFenced)
	delete(g.byID, old)
	g.size -= m.cost()
	m.id = e.newID
	g.size += m.cost()
	g.byID[m.id], g.instances[m.instance] = m, m.id
	if leader == old {
		g.leader = m.id
	}
	g.describe(m, e)
	m.fresh, m.restored = false, false
	g.touch(m)
	if g.phase != Stable || g.choose() != g.protocol || !sameTopics(topics, m.metadata(g.protocol)) {
		m.joining = e.tell
		g.advance()
		return
	}
	generation := g.generation
	g.append(g.metadata(nil), func(err error) {
		if err == nil && (g.phase != Stable || g.generation != generation || g.byID[e.newID] != m) {
			err = ErrRebalance
		}
		if err != nil {
			g.answer(e.tell, e.fail(err))
			return
		}
		r := g.joined(m)
		if !e.CanSkip {
			// Told that it leads it would assign anew: it is told the leader's old name.
			r.Leader, r.Members = leader, nil
		} else if m.id == g.leader {
			r.SkipAssignment = true
		}
		g.answer(e.tell, r)
	})
}

// joined is what a member is told of the generation.
func (g *group) joined(m *member) JoinReply {
	r := JoinReply{Member: m.id, Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader}
	if m.id == g.leader {
		r.Members = make([]JoinedMember, len(g.members))
		for i, o := range g.members {
			r.Members[i] = JoinedMember{o.id, o.instance, o.metadata(g.protocol)}
		}
	}
	return r
}

// advance begins a rebalance, or looks whether the one that runs is over.
func (g *group) advance() {
	if g.phase == PreparingRebalance {
		g.tryComplete()
		return
	}
	g.prepare()
}

// patience is how long members have to join, and then to sync: as the most patient asks.
func (g *group) patience() (ms int64) {
	for _, m := range g.members {
		ms = max(ms, m.rebalance)
	}
	return ms
}

// prepare begins a rebalance.
func (g *group) prepare() {
	g.abort(ErrRebalance)
	g.first, g.more, g.left = g.phase == Empty, false, 0
	g.enter(PreparingRebalance)
	g.completed = never
	if g.first {
		g.left = g.patience()
		g.wait()
		return
	}
	g.prepared = g.now.ms + g.patience()
	g.wake(g.prepared)
	g.tryComplete()
}

// wait has the first rebalance wait for company once more.
func (g *group) wait() {
	delay := min(g.limits.InitialDelayMS, g.left)
	g.left -= delay
	g.more = false
	g.prepared = g.now.ms + delay
	g.wake(g.prepared)
	if delay == 0 {
		g.complete()
	}
}

func (g *group) enter(p Phase) {
	g.phase, g.changed = p, g.now.wall
	if p == Empty {
		g.idle = g.now.ms
	}
}

// tryComplete ends the rebalance when everybody has joined who is expected.
func (g *group) tryComplete() {
	if g.first || len(g.pending) > 0 {
		return
	}
	for _, m := range g.members {
		if m.joining == 0 {
			return
		}
	}
	g.complete()
}

// complete begins the next generation with those that have joined, and with static members, which may be away.
func (g *group) complete() {
	joined := 0
	var leader string
	for i := 0; i < len(g.members); i++ {
		m := g.members[i]
		switch {
		case m.joining != 0:
			if joined++; leader == "" || m.id == g.leader {
				leader = m.id
			}
		case m.instance == "":
			g.remove(m, ErrUnknownMember)
			i--
		}
	}
	if joined == 0 && len(g.members) > 0 {
		g.first = false
		g.prepared = g.now.ms + g.patience()
		g.wake(g.prepared)
		return
	}
	g.generation++
	g.first = false
	if len(g.members) == 0 {
		g.protocol, g.leader = "", ""
		g.enter(Empty)
		g.append(g.metadata(nil), func(error) {}) // lost, the log has the generation before, whose members are gone
		return
	}
	g.leader, g.protocol = leader, g.choose()
	g.enter(CompletingRebalance)
	g.completed = g.now.ms + g.patience()
	g.wake(g.completed)
	for _, m := range g.members {
		// A static member that is away keeps what it has, and its session decides how long.
		if m.synced = m.joining == 0; m.synced {
			continue
		}
		g.answer(m.joining, g.joined(m))
		m.joining, m.fresh = 0, false
		g.touch(m)
	}
}

// sync gives a member its assignment, or takes everybody's from the leader.
func (g *group) sync(e Sync) {
	refuse := func(err error) { g.answer(e.tell, SyncReply{Err: err}) }
	if g.phase == Dead {
		refuse(ErrUnavailable)
		return
	}
	m, err := g.find(e.Member, e.Instance)
	switch {
	case err != nil:
		refuse(err)
	case e.Generation != g.generation:
		refuse(ErrIllegalGeneration)
	case e.ProtocolType != nil && *e.ProtocolType != g.protocolType, e.Protocol != nil && *e.Protocol != g.protocol:
		refuse(ErrInconsistentProtocol)
	case g.phase == PreparingRebalance:
		refuse(ErrRebalance)
	case g.phase == Stable:
		g.synced(m)
		g.touch(m)
		g.answer(e.tell, g.assigned(m))
	default: // CompletingRebalance: who is a member is in no other phase
		g.answer(m.syncing, SyncReply{Err: ErrRebalance})
		m.syncing = e.tell
		g.synced(m)
		if m.id == g.leader && !g.storing {
			g.store(e.Assignments)
		}
	}
}

// synced notes that a member has come for its assignment.
func (g *group) synced(m *member) {
	m.synced = true
	for _, o := range g.members {
		if !o.synced {
			return
		}
	}
	g.completed = never
}

func (g *group) assigned(m *member) SyncReply {
	return SyncReply{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}

// store writes the leader's assignment down. Members get it when it is on flash.
func (g *group) store(assignments map[string][]byte) {
	g.storing = true
	generation := g.generation
	mine := maps.Clone(assignments)
	if mine == nil {
		mine = map[string][]byte{}
	}
	g.append(g.metadata(mine), func(err error) {
		if g.phase != CompletingRebalance || g.generation != generation {
			return // a rebalance began meanwhile: its own assignment follows
		}
		g.storing = false
		if err != nil {
			g.abort(err)
			g.prepare()
			return
		}
		g.enter(Stable)
		for _, m := range g.members {
			g.size -= m.cost()
			m.assignment = mine[m.id]
			g.size += m.cost()
			if m.syncing != 0 {
				g.answer(m.syncing, g.assigned(m))
				m.syncing = 0
				g.touch(m)
			}
		}
	})
}

// abort answers everybody who waits for an assignment with an error.
func (g *group) abort(err error) {
	g.storing = false
	for _, m := range g.members {
		if m.syncing != 0 {
			g.answer(m.syncing, SyncReply{Err: err})
			m.syncing = 0
			g.touch(m)
		}
	}
}

// heartbeat keeps a member's session alive.
func (g *group) heartbeat(e Heartbeat) error {
	if g.phase == Dead {
		return ErrUnavailable
	}
	m, err := g.find(e.Member, e.Instance)
	if err != nil {
		return err
	}
	if e.Generation != g.generation {
		return ErrIllegalGeneration
	}
	g.touch(m)
	if g.phase == PreparingRebalance {
		return ErrRebalance
	}
	return nil
}

// leave takes members out at their own wish, or static ones at an administrator's.
func (g *group) leave(e Leave) {
	if g.phase == Dead {
		g.answer(e.tell, e.fail(ErrUnavailable))
		return
	}
	errs := make([]error, len(e.Members))
	left, unexpected := false, false
	for i, l := range e.Members {
		if _, pending := g.pending[l.Member]; pending && l.Instance == "" {
			g.unexpect(l.Member)
			unexpected = true
			continue
		}
		id := l.Member
		if id == "" && l.Instance != "" {
			id = g.instances[l.Instance]
		}
		m, err := g.find(id, l.Instance)
		if errs[i] = err; err == nil {
			g.remove(m, ErrUnknownMember)
			left = true
		}
	}
	if left {
		g.removed()
	} else if unexpected && g.phase == PreparingRebalance {
		g.tryComplete()
	}
	g.answer(e.tell, LeaveReply{Errors: errs})
}
