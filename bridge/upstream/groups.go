package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

// Groups are the consumer groups of the board. Methods are safe for concurrent use.
type Groups interface {
	// Names are the ids of all groups, in any order.
	Names() []string
	// Offsets are what a group has committed; none where there is no such group.
	Offsets(group string) []GroupOffset
}

// GroupOffset is how far a group has read a partition.
type GroupOffset struct {
	Topic     string
	ID        [16]byte // of the topic; zero where it is not known
	Partition int32
	Offset    int64 // -1: none
	Metadata  string
	Err       error // why it could not be committed
}

// GroupOffsets are those of a group.
type GroupOffsets struct {
	Group string
	List  []GroupOffset
	Err   error // why nothing of the group could be read, or committed
}

// Follower is what a Session does for groups. After an error of it the session may still be used.
type Follower interface {
	// Producer is the producer id of what the next Send writes, -1 where there is none.
	Producer(ctx context.Context) int64
	// Visible calls fn with the committed records of a partition from an offset on, in order, out of about most bytes, and says
	// where to go on and how many bytes came. It waits for nothing: where there is no more, next is from. An error of fn ends
	// it, with next at the record that fn was called with. What fn gets is good until it returns. It returns ErrOutOfRange where
	// the peer has let go of from, and a *RefusedError where it will not give the partition.
	Visible(ctx context.Context, topic string, partition int32, from int64, most int, fn func(Seen) error) (next int64, bytes int, err error)
	// Offsets fills in what is committed of the partitions in each list.
	Offsets(ctx context.Context, groups []GroupOffsets) error
	// Commit commits them, of each group at once, as somebody who assigns partitions by hand: a group that has members
	// refuses, with ErrActive.
	Commit(ctx context.Context, groups []GroupOffsets) error
}

// Seen is a record upstream.
type Seen struct {
	Offset     int64
	Producer   int64
	Timestamp  int64 // ms
	AppendTime bool  // the stamp is the peer's own
	Key, Value []byte
	Headers    []record.Header
}

// ErrActive is in GroupOffsets of a group that has members upstream.
var ErrActive = errors.New("the group has members there, and is left alone")

// GroupsStatus is how a link follows groups.
type GroupsStatus struct {
	// Followed is how many groups, Offsets how many partitions of them, Left how many groups or partitions there is no room for.
	Followed, Offsets, Left int
	// Waiting is how many partitions of groups cannot be translated now; Problem is one reason, or why a group cannot be committed.
	Waiting int
	Problem string
	// Commits is how many offsets were committed in this life.
	Commits int64
}

const (
	// GroupsMax is how many groups a link follows, groupMarksMax how many partitions of them in all.
	GroupsMax     = 256
	groupMarksMax = 4096
	// defaultGroupsInterval is MirrorMaker's.
	defaultGroupsInterval = 60 * time.Second
	// groupLookEvery is how often the groups of the board are looked at, which costs nothing upstream: what a group has read is
	// known then before the trail has forgotten it.
	groupLookEvery = 5 * time.Second
	// renewEvery is how often an offset is committed again that has not changed: upstream, they expire.
	renewEvery = 24 * time.Hour
	// groupRetryMost is how long a group is left alone at most after it could not be committed.
	groupRetryMost = time.Hour
	// trailsBytes is how much the trails of a link may take together, trailLeast and trailMost each.
	trailsBytes           = 512 << 10
	trailLeast, trailMost = 128, 64 << 10
)

// groupTable is what a link knows of groups. Link.mu guards it; the live lane alone changes it.
type groupTable struct {
	list    []*followed // in order
	marks   int
	left    int
	problem string // of the peer, not of a group
	commits int64
	// looked and synced are when the board and the peer were last asked.
	looked, synced time.Time
}

// followed is a group.
type followed struct {
	name    string
	marks   map[*part]*mark
	renewed time.Time
	problem string
	retry   time.Time
	strikes int
}

// mark is how far a group has read a partition, and where that is upstream.
type mark struct {
	group *followed
	part  *part
	id    [16]byte // of the local topic
	at    int64
	// up is where to read on upstream, -1 while it is not known. final says that a record at or after at was delivered, so
	// that it stays where it is.
	up    int64
	final bool
	// done is what the group has upstream, as far as is known, -1 for nothing; asked says that it is known.
	done  int64
	asked bool
	renew bool
	seen  bool // by the look under way
}

// note is what is committed with an offset, so that a later life knows what it is: translating it again might take reading. It is
// of a link and a turn, for after a decision offsets of the log may come again. sent is the last record that was sent where there
// is none after what the group has read, -1 where there is one.
func (m *mark) note(c *Config, sent int64) string {
	text := fmt.Sprintf("millrace/%s/%s/%x/%d/%d", c.Board, c.Name, m.id[:8], m.part.path.turn, m.at)
	if sent >= 0 {
		text += fmt.Sprintf("/%d", sent)
	}
	return text
}

// notes is note for what is known now.
func (m *mark) notes(c *Config) string {
	if m.final {
		return m.note(c, -1)
	}
	return m.note(c, m.part.path.sent)
}

// chosenGroup says whether a group is followed. Those of the board's own are only where they are named in full.
func (c *Config) chosenGroup(name string) bool {
	return catalog.Chosen(c.Groups, name) && !slices.ContainsFunc(c.GroupsExclude, func(p string) bool { return catalog.Matches(p, name) })
}

// hasGroups says whether groups are followed.
func (l *Link) hasGroups() bool { return len(l.cfg.Groups) > 0 && l.env.Groups != nil }

// trailBytes is how much one trail may take.
func (l *Link) trailBytes() int {
	return min(max(trailsBytes/max(len(l.table.all), 1), trailLeast), trailMost)
}

// translateLocked finds out where a mark is upstream, where that is not known for good.
func (l *Link) translateLocked(m *mark) {
	if m.final || m.part.unfollowed(m.id) != "" {
		return
	}
	if up, sent, known := m.part.path.at(m.at); known {
		m.up, m.final = up, sent
	}
}

// unfollowed is why offsets of a partition cannot be translated now, "" where they can.
func (p *part) unfollowed(id [16]byte) string {
	switch {
	case p.log == nil || p.path == nil || p.to.have == 0 || p.path.sent < 0:
		return whyNothing
	case p.verdict != Go:
		return "the partition does not go: " + p.reason
	case p.id != id || p.path.local != p.id:
		return "it is of another topic of that name"
	case p.to.mine != p.to.have:
		return fmt.Sprintf("the topic has %d partitions here and %d there, so that records go by key: there is no one offset", p.to.mine, p.to.have)
	case len(p.open()) > 0:
		return "records before it are still to be delivered by the backfill lane, out of order"
	}
	return ""
}

const (
	whyNothing = "nothing was delivered yet"
	whyBehind  = "it has read less than the link remembers of where records went; once it has read on, it is followed again"
	whySearch  = "where that is will be looked for upstream"
)

// why is why a mark is not translated, "" where it is.
func (m *mark) why() string {
	if m.up >= 0 {
		return ""
	}
	switch why := m.part.unfollowed(m.id); why {
	case "":
	case whyNothing: // there is nowhere to read on
		return ""
	default:
		return why
	}
	if m.missing() {
		return whySearch + m.part.path.old.problem
	}
	return whyBehind
}

// missing says that looking upstream for the rest of what was sent would tell where the mark is.
func (m *mark) missing() bool {
	old := m.part.path.old
	return m.up < 0 && old != nil && !old.over && !old.whole() && m.at >= old.floor
}

// look looks at the groups of the board. It asks without the lock.
func (l *Link) look() {
	names := slices.DeleteFunc(slices.Clone(l.env.Groups.Names()), func(n string) bool { return !l.cfg.chosenGroup(n) })
	slices.Sort(names)
	there := make(map[string]bool, len(names))
	for _, n := range names {
		there[n] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.groups
	w.looked = time.Now()
	w.list = slices.DeleteFunc(w.list, func(g *followed) bool { return !there[g.name] }) // those that are followed stay so
	for _, g := range w.list {
		delete(there, g.name)
	}
	for _, n := range names {
		if there[n] && len(w.list) < GroupsMax {
			w.list = append(w.list, &followed{name: n, marks: map[*part]*mark{}})
		}
	}
	slices.SortFunc(w.list, func(a, b *followed) int { return strings.Compare(a.name, b.name) })
	for _, p := range l.table.all {
		clear(p.marks)
		p.marks = p.marks[:0]
	}
	w.marks, w.left = 0, len(names)-len(w.list)
	for _, g := range w.list {
		l.mu.Unlock()
		offsets := l.env.Groups.Offsets(g.name)
		l.mu.Lock()
		for i := range offsets {
			l.markLocked(g, &offsets[i])
		}
		for p, m := range g.marks {
			if !m.seen {
				delete(g.marks, p)
			}
			m.seen = false
		}
	}
}

// markLocked notes what a group has read of a partition.
func (l *Link) markLocked(g *followed, o *GroupOffset) {
	p := l.table.find(o.Topic, o.Partition)
	if p == nil || o.Offset < 0 || o.ID != [16]byte{} && o.ID != p.id {
		return
	}
	if l.groups.marks == groupMarksMax {
		l.groups.left++
		return
	}
	l.groups.marks++
	m := g.marks[p]
	switch {
	case m == nil || m.id != p.id:
		m = &mark{group: g, part: p, id: p.id, at: o.Offset, up: -1, done: -1}
		g.marks[p] = m
	case m.at != o.Offset:
		m.at, m.up, m.final = o.Offset, -1, false
	}
	m.seen = true
	p.marks = append(p.marks, m)
	l.translateLocked(m)
}

// groupsLocked is what Status says of groups.
func (l *Link) groupsLocked() GroupsStatus {
	w := &l.groups
	s := GroupsStatus{Followed: len(w.list), Offsets: w.marks, Left: w.left, Commits: w.commits, Problem: w.problem}
	why := ""
	for _, g := range w.list {
		if g.problem != "" && s.Problem == "" {
			s.Problem = g.name + ": " + g.problem
		}
		for p, m := range g.marks {
			if reason := m.why(); reason != "" {
				s.Waiting++
				if text := fmt.Sprintf("%s: %s-%d: %s", g.name, p.topic, p.index, reason); why == "" || text < why {
					why = text
				}
			}
		}
	}
	if s.Problem == "" {
		s.Problem = why
	}
	if s.Problem == "" && s.Left > 0 {
		s.Problem = fmt.Sprintf("there is room for %d groups, and %d partitions of them", GroupsMax, groupMarksMax)
	}
	return s
}
