// Package group is the coordinator of consumer groups, the classic protocol of Apache Kafka: who is a member, who gets
// which partitions, and how far each group has read.
//
// A group is a state machine without clock, disk or goroutine: step takes an event and a time and gives back what is to
// be written and who is to be answered. Coordinator is what runs the machines: it keeps their timers, writes their
// records to the compacted topic __consumer_offsets, in Apache Kafka's own format, and reads them back at the start.
package group

import (
	"fmt"
	"math"
	"slices"
)

// Phase is the state a group is in; the names are Apache Kafka's.
type Phase uint8

// The phases of a group.
const (
	// Empty has no members; it may have offsets.
	Empty Phase = iota
	// PreparingRebalance waits for its members to join the next generation.
	PreparingRebalance
	// CompletingRebalance waits for its leader's assignment, and for that to be on flash.
	CompletingRebalance
	// Stable has a generation in which every member has its assignment.
	Stable
	// Dead is being deleted.
	Dead
)

var phases = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String is the name the protocol has for the phase.
func (p Phase) String() string { return phases[p] }

// Limits are the settings and bounds of groups. Times are in milliseconds.
type Limits struct {
	// InitialDelayMS is `group.initial.rebalance.delay.ms`: how long the first generation of an empty group waits for
	// company, and again for each that came meanwhile.
	InitialDelayMS int64
	// MinSessionMS and MaxSessionMS are `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
	MinSessionMS, MaxSessionMS int64
	// Members is `group.max.size`, Offsets the most partitions one group keeps offsets of, Groups the most groups.
	Members, Offsets, Groups int
	// RetentionMS is `offsets.retention.minutes`, SweepMS `offsets.retention.check.interval.ms`.
	RetentionMS, SweepMS int64
}

// newMemberMS is how long a member that was never in a generation may wait for one: nothing shows whether its client
// is still there. It is Apache Kafka's.
const newMemberMS = 5 * 60 * 1000

// never is the alarm of a group that waits for nothing.
const never = math.MaxInt64

// group is one consumer group. It is owned by whoever calls step.
type group struct {
	id     string
	limits *Limits
	phase  Phase
	// protocolType is the kind of members, "" until there was one; protocol is the one of this generation.
	protocolType, protocol string
	// generation counts from 0, the group's that never had members.
	//
	// Invariant: it never falls.
	generation int32
	// leader is the member that assigns.
	//
	// Invariant: it is a member's id, or "" exactly when there is no member.
	leader string
	// members in the order they came, and by id; instances are the ids of static members.
	members   []*member
	byID      map[string]*member
	instances map[string]string
	// pending are the ids that were given out and not joined with yet, and when they are void.
	pending map[string]int64
	offsets offsets
	// flight counts the commits of a partition's offset that are not durable yet.
	flight map[Place]int
	// idle is when the group became empty, in ms; changed the wall clock's time of the last change of phase.
	idle, changed int64

	// prepared is when the members that have not joined are given up.
	prepared int64
	// first is set in the first rebalance of an empty group, which waits for company: more says that some came, left
	// for how long it may go on.
	first, more bool
	left        int64
	// completed is when the members that have not synced are given up, never when there are none.
	completed int64

	// alarm is not after the earliest deadline there is, never when there is none.
	alarm int64
	// size is what the group takes in memory, in bytes.
	size int64

	seq     int64
	writing map[int64]pendingWrite // writes that are not durable yet, by number
	storing bool                   // one of them is this generation's assignment

	now moment
	out effects
}

// effects are what one step asks for.
type effects struct {
	replies []reply
	writes  []write
}

type reply struct {
	to   ticket
	body any
}

// write are records to append in one piece. What became of it comes back as written{seq}.
type write struct {
	seq     int64
	records []keyValue
}

// pendingWrite is what happens once a write is durable, or failed.
type pendingWrite func(err error)

func newGroup(id string, limits *Limits) *group {
	return &group{
		id: id, limits: limits, byID: map[string]*member{}, instances: map[string]string{}, pending: map[string]int64{},
		offsets: offsets{}, flight: map[Place]int{}, completed: never, alarm: never, size: groupCost + 2*int64(len(id)), writing: map[int64]pendingWrite{},
	}
}

// step has an event happen at a time and returns what follows from it.
func (g *group) step(now moment, e event) effects {
	g.now, g.out = now, effects{}
	switch e := e.(type) {
	case Join:
		g.join(e)
	case Sync:
		g.sync(e)
	case Heartbeat:
		g.answer(e.tell, g.heartbeat(e))
	case Leave:
		g.leave(e)
	case Commit:
		g.commit(e)
	case DeleteGroup:
		g.delete(e)
	case DeleteOffsets:
		g.deleteOffsets(e)
	case tick:
		g.tick()
	case written:
		if then := g.writing[e.seq]; then != nil {
			delete(g.writing, e.seq)
			then(e.err)
		}
	case sweep:
		g.sweep()
	case forget:
		g.forget(e)
	default:
		panic(fmt.Sprintf("group: event %T", e))
	}
	out := g.out
	g.out = effects{}
	return out
}

// answer has one who asked be answered. nil errors stay errors.
func (g *group) answer(to ticket, body any) {
	if to != 0 {
		g.out.replies = append(g.out.replies, reply{to, body})
	}
}

func (g *group) append(records []keyValue, then pendingWrite) {
	g.seq++
	g.writing[g.seq] = then
	g.out.writes = append(g.out.writes, write{g.seq, records})
}

// wake has the group be told the time at ms, if not earlier.
func (g *group) wake(ms int64) { g.alarm = min(g.alarm, ms) }

// touch begins a member's session anew.
func (g *group) touch(m *member) {
	m.deadline = g.now.ms + m.session
	g.wake(m.deadline)
}

// find is a member that may act under an instance id ("" for none).
func (g *group) find(id, instance string) (*member, error) {
	if instance != "" {
		switch known, ok := g.instances[instance]; {
		case !ok:
			return nil, ErrUnknownMember
		case known != id && g.byID[known].restored:
			// The log may lack the member's newest life, which was in no generation yet. Fenced it would end for good;
			// so it comes back with its instance id, and of two that claim it the older is fenced then.
			return nil, ErrUnknownMember
		case known != id:
			return nil, ErrFenced
		}
	}
	m := g.byID[id]
	if m == nil {
		return nil, ErrUnknownMember
	}
	m.restored = false
	return m, nil
}

// remove takes a member out; who waits for an answer of it gets err.
func (g *group) remove(m *member, err error) {
	g.cut(m, err)
	g.size -= m.cost()
	g.members = slices.DeleteFunc(g.members, func(x *member) bool { return x == m })
	delete(g.byID, m.id)
	if g.instances[m.instance] == m.id {
		delete(g.instances, m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

// cut answers who waits for a member with an error.
func (g *group) cut(m *member, err error) {
	g.answer(m.joining, JoinReply{Err: err, Member: m.id, Generation: -1})
	g.answer(m.syncing, SyncReply{Err: err})
	m.joining, m.syncing = 0, 0
}

// removed goes on after members were taken out.
func (g *group) removed() {
	switch g.phase {
	case Stable, CompletingRebalance:
		g.prepare()
	case PreparingRebalance:
		g.tryComplete()
	}
}

// vacant says whether nothing is lost with the group: it has nothing, and nothing of it was ever written.
func (g *group) vacant() bool {
	return g.phase == Empty && g.generation == 0 && len(g.members)+len(g.pending)+len(g.offsets)+len(g.writing) == 0
}

// gone says whether the group was deleted and nobody waits for it any more.
func (g *group) gone() bool { return g.phase == Dead && len(g.writing) == 0 }

// tick does what is due.
func (g *group) tick() {
	for id, at := range g.pending {
		if at <= g.now.ms {
			g.unexpect(id)
		}
	}
	late := g.late()
	for _, m := range late {
		g.remove(m, ErrUnknownMember)
	}
	if len(late) > 0 {
		g.removed()
	}
	switch {
	case g.phase != PreparingRebalance:
	case g.prepared > g.now.ms:
		g.tryComplete()
	case g.first && g.more && g.left > 0:
		g.wait()
	default:
		g.complete()
	}
	g.alarm = g.earliest()
}

// late are the members whose time is up.
func (g *group) late() (list []*member) {
	overdue := g.completed <= g.now.ms && (g.phase == CompletingRebalance || g.phase == Stable)
	for _, m := range g.members {
		if !m.kept() && m.deadline <= g.now.ms || overdue && !m.synced {
			list = append(list, m)
		}
	}
	if overdue {
		g.completed = never
	}
	return list
}

// earliest is when the next thing is due.
func (g *group) earliest() int64 {
	at := int64(never)
	for _, deadline := range g.pending {
		at = min(at, deadline)
	}
	for _, m := range g.members {
		if !m.kept() {
			at = min(at, m.deadline)
		}
	}
	switch g.phase {
	case PreparingRebalance:
		at = min(at, g.prepared)
	case CompletingRebalance, Stable:
		at = min(at, g.completed)
	}
	return at
}

// check says what is wrong with the group, for tests.
func (g *group) check() error {
	leaders := 0
	size := int64(groupCost) + 2*int64(len(g.id)) + g.offsets.cost()
	for id := range g.pending {
		size += pendingCost + int64(len(id))
	}
	for _, m := range g.members {
		size += m.cost()
		if m.id == g.leader {
			leaders++
		}
		switch {
		case g.byID[m.id] != m:
			return fmt.Errorf("member %s is not found by its id", m.id)
		case m.instance != "" && g.instances[m.instance] != m.id:
			return fmt.Errorf("instance %s is %s's, not %s's", m.instance, g.instances[m.instance], m.id)
		case m.joining != 0 && g.phase != PreparingRebalance:
			return fmt.Errorf("%s waits for a join in %s", m.id, g.phase)
		case m.syncing != 0 && g.phase != CompletingRebalance:
			return fmt.Errorf("%s waits for a sync in %s", m.id, g.phase)
		case g.phase == Stable && !m.supports(g.protocol):
			return fmt.Errorf("%s does not know %s", m.id, g.protocol)
		}
	}
	switch {
	case len(g.members) != len(g.byID):
		return fmt.Errorf("%d members, %d by id", len(g.members), len(g.byID))
	case len(g.members) > 0 && leaders != 1 || len(g.members) == 0 && g.leader != "":
		return fmt.Errorf("%d leaders of %d members, %q", leaders, len(g.members), g.leader)
	case (g.phase == Empty || g.phase == Dead) && len(g.members) > 0:
		return fmt.Errorf("%s with %d members", g.phase, len(g.members))
	case (g.phase == Stable || g.phase == CompletingRebalance) && len(g.members) == 0:
		return fmt.Errorf("%s without members", g.phase)
	case g.alarm > g.earliest():
		return fmt.Errorf("alarm at %d, something is due at %d", g.alarm, g.earliest())
	case g.size != size:
		return fmt.Errorf("size %d, counted %d", g.size, size)
	}
	return nil
}
