package group

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// world is one group and all there is around it: its log, its clients, the time.
type world struct {
	t      testing.TB
	limits Limits
	g      *group
	now    int64
	log    []keyValue
	hold   bool
	fail   bool
	held   []write // in the order they were made
	ids    int
	last   ticket
	// asked are those that wait, by their ticket; nobody is answered twice, and everybody once.
	asked map[ticket]*client
	// told is called with every answer.
	told func(c *client, body any)
	// ended is called when the group is no more.
	ended func()
}

// client is who speaks to the group.
type client struct {
	name       string
	member     string
	instance   string
	generation int32
}

func newWorld(t testing.TB, limits Limits) *world {
	w := &world{t: t, limits: limits, asked: map[ticket]*client{}, told: func(*client, any) {}, ended: func() {}}
	w.g = newGroup("g", &w.limits)
	return w
}

func standardLimits() Limits {
	return Limits{
		InitialDelayMS: 3000, MinSessionMS: 6000, MaxSessionMS: 1_800_000, Members: 5, Offsets: 8, Groups: 10,
		RetentionMS: 7 * 86_400_000, SweepMS: 600_000,
	}
}

// ask gives c a ticket.
func (w *world) ask(c *client) ticket {
	w.last++
	w.asked[w.last] = c
	return w.last
}

// do has an event happen, and all that follows from it at once. A group that does not exist answers as a coordinator
// has it do.
func (w *world) do(e event) {
	w.t.Helper()
	if w.g == nil {
		if err := e.absent(); err != nil {
			if e.to() != 0 {
				w.answer(reply{e.to(), e.fail(err)})
			}
			return
		}
		w.g = newGroup("g", &w.limits)
	}
	out := w.g.step(moment{w.now, w.now}, e)
	for _, r := range out.replies {
		w.answer(r)
	}
	w.held = append(w.held, out.writes...)
	if err := w.g.check(); err != nil {
		w.t.Fatalf("after %T %+v: %v", e, e, err)
	}
	if !w.hold {
		w.flush()
	}
	if w.g != nil && (w.g.vacant() || w.g.gone()) {
		w.g = nil
		w.ended()
	}
}

// flush makes what is held durable, or fail.
func (w *world) flush() {
	w.t.Helper()
	for len(w.held) > 0 {
		one := w.held[0]
		w.held = w.held[1:]
		var err error
		if w.fail {
			err = ErrUnavailable
		} else {
			w.log = append(w.log, one.records...)
		}
		w.do(written{one.seq, err})
	}
}

func (w *world) answer(r reply) {
	w.t.Helper()
	c := w.asked[r.to]
	if c == nil {
		w.t.Fatalf("ticket %d is answered twice, or was never asked: %+v", r.to, r.body)
	}
	delete(w.asked, r.to)
	w.told(c, r.body)
}

// advance moves the time on, with everything that falls due on the way.
func (w *world) advance(ms int64) {
	w.t.Helper()
	end := w.now + ms
	for w.g != nil && w.g.alarm <= end {
		w.now = max(w.now, w.g.alarm)
		before := w.g.alarm
		w.do(tick{})
		if w.g != nil && w.g.alarm <= before && w.g.alarm <= w.now {
			w.t.Fatalf("at %d the alarm is set to %d again", w.now, w.g.alarm)
		}
	}
	w.now = end
}

// restart loses what is not durable, and who waits, and reads the log.
func (w *world) restart() {
	w.t.Helper()
	w.held = nil
	clear(w.asked)
	groups := map[string]*group{}
	for _, r := range w.log {
		if err := replay(groups, &w.limits, map[string]string{}, r.key, r.value); err != nil {
			w.t.Fatal(err)
		}
	}
	w.g = groups["g"]
	if w.g == nil {
		return
	}
	if w.g.vacant() {
		w.g = nil
		return
	}
	w.g.loaded(moment{w.now, w.now})
	if err := w.g.check(); err != nil {
		w.t.Fatalf("after a restart: %v", err)
	}
}

// subscription is a consumer's metadata that names topics.
func subscription(topics ...string) []byte {
	b := []byte{0, 1, 0, 0, 0, byte(len(topics))}
	for _, t := range topics {
		b = append(append(b, 0, byte(len(t))), t...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff)
}

// word is how a story names an error.
func word(err error) string {
	for _, known := range []struct {
		err  error
		name string
	}{
		{ErrInvalidGroup, "INVALID_GROUP_ID"},
		{ErrUnknownMember, "UNKNOWN_MEMBER_ID"},
		{ErrIllegalGeneration, "ILLEGAL_GENERATION"},
		{ErrRebalance, "REBALANCE_IN_PROGRESS"},
		{ErrInconsistentProtocol, "INCONSISTENT_GROUP_PROTOCOL"},
		{ErrMemberIDRequired, "MEMBER_ID_REQUIRED"},
		{ErrFull, "GROUP_MAX_SIZE_REACHED"},
		{ErrFenced, "FENCED_INSTANCE_ID"},
		{ErrNotFound, "GROUP_ID_NOT_FOUND"},
		{ErrNotEmpty, "NON_EMPTY_GROUP"},
		{ErrSubscribed, "GROUP_SUBSCRIBED_TO_TOPIC"},
		{ErrUnavailable, "COORDINATOR_NOT_AVAILABLE"},
		{ErrTooMany, "POLICY_VIOLATION"},
	} {
		if errors.Is(err, known.err) {
			return known.name
		}
	}
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// describe is a group in one line.
func (w *world) describe() string {
	g := w.g
	if g == nil {
		return "no group"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s generation=%d", g.phase, g.generation)
	if g.leader != "" {
		fmt.Fprintf(&b, " leader=%s", g.leader)
	}
	if g.phase == Stable || g.phase == CompletingRebalance {
		fmt.Fprintf(&b, " protocol=%s", g.protocol)
	}
	if len(g.members) > 0 {
		var names []string
		for _, m := range g.members {
			name := m.id
			if m.joining != 0 {
				name += "+joining"
			}
			if m.syncing != 0 {
				name += "+syncing"
			}
			names = append(names, name)
		}
		fmt.Fprintf(&b, " members=(%s)", strings.Join(names, " "))
	}
	if len(g.pending) > 0 {
		var ids []string
		for id := range g.pending {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		fmt.Fprintf(&b, " pending=(%s)", strings.Join(ids, " "))
	}
	for _, p := range g.places(func(string, offset) bool { return true }) {
		fmt.Fprintf(&b, " %s-%d@%d", p.Topic, p.Partition, g.offsets[p.Topic][p.Partition].at)
	}
	return b.String()
}
