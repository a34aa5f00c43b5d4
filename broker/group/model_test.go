package group

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
)

var (
	seed  = flag.Uint64("seed", 0, "the one seed to run; 0: many")
	seeds = flag.Uint64("seeds", 300, "how many seeds to run")
)

// TestModel has random clients join, leave, die and come back, static ones too, while the log fails, is slow, or the
// coordinator restarts, and asks after every step what must hold.
func TestModel(t *testing.T) {
	first, n := uint64(1), *seeds
	if *seed != 0 {
		first, n = *seed, 1
	} else if testing.Short() {
		n = 50
	}
	var all tally
	for s := first; s < first+n; s++ {
		ok := t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			m := newModel(t, s)
			for range 400 {
				m.step()
			}
			m.heal()
			all.add(m.tally)
		})
		if !ok {
			t.Fatalf("again with: go test ./broker/group -run TestModel -seed=%d", s)
		}
	}
	t.Logf("%+v", all)
	if n > 10 && (all.stable == 0 || all.restarts == 0 || all.commits == 0 || all.fenced == 0 || all.replaced == 0 || all.refused == 0) {
		t.Errorf("something was never met: %+v", all)
	}
}

// tally counts what was met.
type tally struct{ stable, restarts, commits, refused, fenced, replaced, rebalances int }

func (a *tally) add(b tally) {
	a.stable += b.stable
	a.restarts += b.restarts
	a.commits += b.commits
	a.refused += b.refused
	a.fenced += b.fenced
	a.replaced += b.replaced
	a.rebalances += b.rebalances
}

// actor is a client that does what consumers do.
type actor struct {
	client
	dead    bool
	waiting bool     // for an answer
	todo    string   // "join", "sync" or "heartbeat"
	members []string // told by JoinGroup, to the leader
	// commits on their way: the generation they speak for, and whether that was over when they were sent.
	commit *sentCommit
}

type sentCommit struct {
	place Place
	at    int64
	over  bool
}

type model struct {
	*world
	tally
	r      *rand.Rand
	actors []*actor
	number int64

	// begun is the greatest generation anybody was told of since the last restart, done the greatest whose assignment
	// anybody got, ever.
	begun, done int32
	// leader is who leads generation begun, "" until somebody was told.
	leader string
	// assigned is what the leader of a generation gave to a member, by generation and member.
	assigned map[string]map[string]bool
	// heirs are the ids static members had before, by the id they have now.
	heirs map[string]string
	// acked are offsets that were acknowledged, open those that may be there all the same.
	acked map[Place]int64
	open  map[Place][]int64
}

func newModel(t *testing.T, seed uint64) *model {
	l := standardLimits()
	l.Members, l.Offsets = 6, 100
	m := &model{
		world: newWorld(t, l), r: rand.New(rand.NewPCG(seed, 7)), assigned: map[string]map[string]bool{},
		heirs: map[string]string{}, acked: map[Place]int64{}, open: map[Place][]int64{},
	}
	m.limits.InitialDelayMS = int64(m.r.IntN(2)) * 3000
	m.told = func(c *client, body any) { m.hear(c, body) }
	m.ended = func() { // one of the same name begins at generation 0 again; its members have other ids
		m.begun, m.done, m.leader = 0, 0, ""
		clear(m.assigned)
		clear(m.acked)
	}
	for i := range 7 {
		a := &actor{client: client{name: fmt.Sprint("c", i), generation: -1}, todo: "join", dead: i > 3}
		if i%3 == 0 {
			a.instance = fmt.Sprint("i", i%6) // two of them claim one
		}
		m.actors = append(m.actors, a)
	}
	return m
}

func (m *model) actor(c *client) *actor {
	for _, a := range m.actors {
		if a.name == c.name {
			return a
		}
	}
	return nil
}

// step has one random thing happen.
func (m *model) step() {
	a := m.actors[m.r.IntN(len(m.actors))]
	switch n := m.r.IntN(100); {
	case n < 55:
		m.act(a)
	case n < 65:
		m.commitOne(a)
	case n < 80:
		m.advance(int64(m.r.IntN(2000)))
	case n < 83:
		m.advance(int64(m.r.IntN(15_000)))
	case n < 85: // it dies without a word
		a.dead = true
	case n < 87: // and comes back as a new process
		m.revive(a)
	case n < 89:
		if !a.waiting && a.member != "" && a.instance == "" && !a.dead {
			a.dead = true
			m.do(Leave{Members: []Leaver{{a.member, ""}}, tell: m.ask(&client{name: "leaver"})})
		}
	case n < 93:
		m.hold = true
	case n < 96:
		m.hold = false
		m.flush()
	case n < 97:
		m.fail = !m.fail
	case n < 98:
		m.reboot()
	case n < 99: // it asks again on a new connection; what is said on the old one nobody hears
		if a.waiting {
			m.ghost(a)
			a.waiting = false
			m.act(a)
		}
	default:
		m.do(sweep{})
	}
}

func (m *model) revive(a *actor) {
	m.ghost(a)
	a.dead, a.waiting, a.member, a.generation, a.todo, a.commit = false, false, "", -1, "join", nil
}

// ghost has answers to a client's requests so far go nowhere.
func (m *model) ghost(a *actor) {
	for to, c := range m.asked {
		if c.name == a.name {
			m.asked[to] = &client{name: "ghost"}
		}
	}
	a.commit = nil
}

// reboot is a power cut.
func (m *model) reboot() {
	m.restarts++
	for _, a := range m.actors {
		a.waiting, a.commit = false, nil
	}
	m.hold, m.fail = false, false
	m.restart()
	m.begun, m.leader = m.done, ""
	if m.g != nil {
		if m.g.generation < m.done {
			m.t.Fatalf("after a restart generation %d, members were told %d", m.g.generation, m.done)
		}
		m.begun = m.g.generation
	}
	for p, at := range m.acked {
		var have int64 = -1
		if m.g != nil {
			if o, ok := m.g.offsets[p.Topic][p.Partition]; ok {
				have = o.at
			}
		}
		fine := have == at
		for _, o := range m.open[p] {
			fine = fine || have == o
		}
		if !fine {
			m.t.Fatalf("%v was acknowledged at %d, after a restart it is %d", p, at, have)
		}
		m.acked[p] = have
	}
	clear(m.open)
}

// act has a client do what it has to do next.
func (m *model) act(a *actor) {
	if a.dead || a.waiting {
		return
	}
	a.waiting = true
	switch a.todo {
	case "join":
		m.ids++
		if a.instance != "" && a.member == "" && m.g != nil && m.g.instances[a.instance] != "" {
			m.heirs[fmt.Sprintf("%s-%d", a.name, m.ids)] = m.g.instances[a.instance]
			m.replaced++
		}
		m.do(Join{
			Group: "g", Member: a.member, Instance: a.instance, ClientID: a.name, SessionMS: 10_000, RebalanceMS: 8_000,
			ProtocolType: consumerType, Protocols: []Protocol{{"range", subscription("t")}, {a.name, nil}},
			RequireID: a.instance == "", CanSkip: true, newID: fmt.Sprintf("%s-%d", a.name, m.ids), tell: m.ask(&a.client),
		})
	case "sync":
		e := Sync{Member: a.member, Instance: a.instance, Generation: a.generation}
		if a.members != nil {
			e.Assignments = map[string][]byte{}
			for _, id := range a.members {
				m.number++
				what := fmt.Sprint(m.number)
				e.Assignments[id] = []byte(what)
				key := fmt.Sprint(a.generation, " ", id)
				if m.assigned[key] == nil {
					m.assigned[key] = map[string]bool{}
				}
				m.assigned[key][what] = true
			}
			a.members = nil
		}
		e.tell = m.ask(&a.client)
		m.do(e)
	case "heartbeat":
		m.do(Heartbeat{Member: a.member, Instance: a.instance, Generation: a.generation, tell: m.ask(&a.client)})
	}
}

// commitOne sends an offset, on a connection of its own.
func (m *model) commitOne(a *actor) {
	if a.dead || a.commit != nil || a.generation < 0 {
		return
	}
	m.number++
	a.commit = &sentCommit{Place{"t", int32(m.r.IntN(4))}, m.number, a.generation < m.begun}
	m.open[a.commit.place] = append(m.open[a.commit.place], a.commit.at)
	e := Commit{Member: a.member, Instance: a.instance, Generation: a.generation, tell: m.ask(&client{name: a.name})}
	e.Offsets = []Committed{{Place: a.commit.place, Offset: a.commit.at, Epoch: -1, RetainMS: -1}}
	m.do(e)
}

// hear is a client that gets an answer.
func (m *model) hear(c *client, body any) {
	a := m.actor(c)
	if a == nil || a.dead {
		return
	}
	switch r := body.(type) {
	case JoinReply:
		a.waiting = false
		m.heardJoin(a, r)
	case SyncReply:
		a.waiting = false
		m.heardSync(a, r)
	case nil, error:
		err := asError(r)
		if c != &a.client { // of a commit
			m.heardCommit(a, err)
			return
		}
		a.waiting = false
		m.follow(a, err)
	}
}

func (m *model) heardJoin(a *actor, r JoinReply) {
	if r.Err != nil {
		if word(r.Err) == "MEMBER_ID_REQUIRED" {
			a.member = r.Member
			return
		}
		m.follow(a, r.Err)
		return
	}
	switch {
	case r.Generation < m.begun:
		m.t.Fatalf("%s joins generation %d, others were told %d", a.name, r.Generation, m.begun)
	case r.Generation > m.begun:
		m.begun, m.leader = r.Generation, ""
		m.rebalances++
	}
	if m.leader != "" && !m.descends(r.Leader, m.leader) {
		m.t.Fatalf("generation %d is led by %s and by %s", r.Generation, m.leader, r.Leader)
	}
	m.leader = r.Leader
	if leads := r.Leader == r.Member; leads != (len(r.Members) > 0) {
		m.t.Fatalf("%s, leader %s, is told of %d members", r.Member, r.Leader, len(r.Members))
	}
	a.member, a.generation, a.todo, a.members = r.Member, r.Generation, "sync", nil
	if !r.SkipAssignment {
		for _, o := range r.Members {
			a.members = append(a.members, o.ID)
		}
	}
}

// descends says whether one id is another's, or a static member's that took its place.
func (m *model) descends(id, from string) bool {
	for ; id != ""; id = m.heirs[id] {
		if id == from {
			return true
		}
	}
	return false
}

func (m *model) heardSync(a *actor, r SyncReply) {
	if r.Err != nil {
		m.follow(a, r.Err)
		return
	}
	if a.generation < m.done {
		m.t.Fatalf("%s is assigned in generation %d, others are in %d", a.name, a.generation, m.done)
	}
	m.done = a.generation
	m.stable++
	a.todo = "heartbeat"
	if len(r.Assignment) == 0 {
		return // it came after the leader had joined: the next generation has it
	}
	for id := a.member; id != ""; id = m.heirs[id] {
		if m.assigned[fmt.Sprint(a.generation, " ", id)][string(r.Assignment)] {
			return
		}
	}
	m.t.Fatalf("%s (%s) has %q in generation %d, which its leader did not give", a.name, a.member, r.Assignment, a.generation)
}

func (m *model) heardCommit(a *actor, err error) {
	sent := a.commit
	a.commit = nil
	if sent == nil {
		return
	}
	if err != nil {
		m.refused++
		return
	}
	if sent.over {
		m.t.Fatalf("%s committed for a generation that was over", a.name)
	}
	m.commits++
	m.acked[sent.place] = sent.at
	keep := m.open[sent.place][:0]
	for _, o := range m.open[sent.place] {
		if o > sent.at {
			keep = append(keep, o)
		}
	}
	m.open[sent.place] = keep
}

// follow is what a consumer does after an error.
func (m *model) follow(a *actor, err error) {
	switch word(err) {
	case "ok":
	case "UNKNOWN_MEMBER_ID":
		a.member, a.generation, a.todo = "", -1, "join"
	case "FENCED_INSTANCE_ID":
		m.fenced++
		a.dead = true
	case "ILLEGAL_GENERATION":
		a.generation, a.todo = -1, "join"
	case "GROUP_MAX_SIZE_REACHED": // somebody starts it again
		a.member, a.generation, a.todo = "", -1, "join"
	default:
		a.todo = "join"
	}
}

// heal lets everything work and wants a stable group of those that live.
func (m *model) heal() {
	m.fail, m.hold = false, false
	m.flush()
	for i, a := range m.actors {
		a.dead = a.dead || i > 4
	}
	for range 400 {
		for _, a := range m.actors {
			m.act(a)
		}
		if m.actors[0].dead { // fenced: somebody starts it again
			m.revive(m.actors[0])
		}
		m.advance(500)
	}
	alive := 0
	for _, a := range m.actors {
		if a.dead {
			continue
		}
		alive++
		if a.todo != "heartbeat" || a.generation != m.g.generation {
			m.t.Errorf("%s: next %s, generation %d", a.name, a.todo, a.generation)
		}
	}
	if m.g.phase != Stable || len(m.g.members) != alive {
		m.t.Errorf("%d live, the group is %s", alive, m.describe())
	}
	seen := map[string]bool{}
	for _, o := range m.g.members {
		if len(o.assignment) == 0 || seen[string(o.assignment)] {
			m.t.Errorf("%s has %q, as another has, or nothing", o.id, o.assignment)
		}
		seen[string(o.assignment)] = true
	}
	for _, c := range m.asked {
		m.t.Errorf("%s was never answered", c.name)
	}
	if m.t.Failed() {
		m.t.Log(m.describe())
	}
}
