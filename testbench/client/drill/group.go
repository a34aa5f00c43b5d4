package drill

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"millrace/testbench/client/board"
)

const (
	topic      = "t"
	partitions = 6
	group      = "g"
)

func unix(ms int64) time.Time { return time.UnixMilli(ms) }

// story is one group of a lane's client at a board.
type story struct {
	testing.TB
	ctx      context.Context
	lane     Lane
	assignor string // as the broker is to show it
	asked    string // empty for the default
	b        *board.Board
	admin    *kadm.Client
	l        *ledger
	members  map[string]func() error // who is in, and how it leaves
	count    int64                   // records written to each partition
}

// Group has three members of the client come one by one, while records are written; one goes, all go, the broker restarts
// without them and then under one: each partition has one owner, and every record is read once, in order, byte for byte, by
// the owner. It does so with each of the lane's assignors.
func Group(t *testing.T, lane Lane) {
	t.Helper()
	for i, assignor := range lane.Assignors {
		t.Run(assignor, func(t *testing.T) {
			t.Helper() // what is said is the lane's, not the drill's
			t.Parallel()
			s := &story{TB: t, ctx: within(t), lane: lane, assignor: assignor, asked: assignor, b: board.Start(t, board.QuickGroups), l: newLedger(lane.Keeps), members: map[string]func() error{}}
			if i == 0 {
				s.asked = ""
			}
			s.admin = kadm.NewClient(peer(t, s.b))
			create(t, s.ctx, s.admin, partitions, topic)
			s.run()
		})
	}
}

func (s *story) run() {
	s.Helper()
	s.write(100)
	s.join("one")
	s.settle()
	s.drain()
	for _, name := range []string{"two", "three"} {
		if !s.lane.Idle { // partitions move while the members read
			s.write(300)
			s.join(name)
			s.write(100)
		} else {
			s.join(name)
		}
		s.settle()
		s.write(100)
		s.drain()
	}
	s.leave("two")
	if !s.lane.Idle {
		s.write(100)
	}
	s.settle()
	s.write(100)
	s.drain()
	s.leave("one")
	s.leave("three")
	s.settle()
	s.drain()

	s.write(100)
	s.b.Restart()
	s.join("four")
	s.settle()
	s.write(100)
	s.drain()
	if !s.lane.Idle { // members join again after a restart, and it cannot be seen when they have
		s.b.Restart()
		s.write(100)
		s.drain()
		s.settle()
	}
	s.leave("four")
	s.drain()
	s.Logf("%d records of %d partitions were read once and in order, by up to three members that came and went and over restarts of the broker", s.count*partitions, partitions)
}

// write appends n records to each partition.
func (s *story) write(n int64) {
	s.Helper()
	codec := s.lane.Codecs[int(s.count/100)%len(s.lane.Codecs)]
	var list []Record
	for range n {
		for p := range int32(partitions) {
			list = append(list, Record{
				Topic: topic, Partition: p, Timestamp: 1_700_000_000_000 + s.count, Key: fmt.Appendf(nil, "key %d", s.count),
				Value: fmt.Appendf(nil, "partition %d record %d %0100d", p, s.count, s.count), Headers: []Header{{"n", fmt.Append(nil, s.count)}},
			})
		}
		s.count++
	}
	s.l.write(list...)
	send(s, s.ctx, s.b, codec, list)
}

func (s *story) join(name string) {
	s.Helper()
	s.l.own(nil)
	s.members[name] = s.lane.Join(s, Door{Address: s.b.Kafka()}, Member{Group: group, Name: name, Topics: []string{topic}, Assignor: s.asked}, func(r Record) { s.l.tell(name, r) })
}

func (s *story) leave(name string) {
	s.Helper()
	s.l.own(nil)
	if err := s.members[name](); err != nil {
		s.Fatalf("%s left with %v", name, err)
	}
	delete(s.members, name)
}

// settle waits until the broker has the group stable, with all members and every partition at one of them, each having some.
// From then on nobody but the owner may read.
func (s *story) settle() {
	s.Helper()
	for {
		described, err := s.admin.DescribeGroups(s.Context(), group)
		if err != nil {
			s.Fatal(err)
		}
		g := described[group]
		if len(s.members) == 0 && g.State == "Empty" {
			return
		}
		if owners, ok := s.shares(g); ok && g.State == "Stable" {
			if g.Protocol != s.assignor {
				s.Fatalf("the group's assignor is %q, want %q", g.Protocol, s.assignor)
			}
			s.l.own(owners)
			return
		}
		s.l.check(s)
		pause(s, s.ctx, func() string { return fmt.Sprintf("the group of %d is %+v", len(s.members), g) })
	}
}

// shares are the owners of the partitions, and whether they are as they must be.
func (s *story) shares(g kadm.DescribedGroup) (owners map[place]string, ok bool) {
	owners = map[place]string{}
	shared := 0
	var names []string
	for _, m := range g.Members {
		names = append(names, m.ClientID)
		assigned, decoded := m.Assigned.AsConsumer()
		if !decoded {
			return nil, false
		}
		mine := 0
		for _, t := range assigned.Topics {
			for _, p := range t.Partitions {
				owners[place{t.Topic, p}] = m.ClientID
				mine++
			}
		}
		if mine == 0 {
			return nil, false
		}
		shared += mine
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(s.members) || len(g.Members) != len(s.members) || shared != partitions || len(owners) != partitions {
		return nil, false
	}
	for _, name := range names {
		if s.members[name] == nil {
			return nil, false
		}
	}
	return owners, true
}

// drain waits until every record was read and the group has committed that it was.
func (s *story) drain() {
	s.Helper()
	s.l.drain(s, s.ctx)
	if s.lane.Late && len(s.members) > 0 {
		return // a duplicate will tell if it is never committed
	}
	ends := s.l.ends()
	for {
		offsets, err := s.admin.FetchOffsets(s.Context(), group)
		if err != nil {
			s.Fatal(err)
		}
		behind := 0
		for at, end := range ends {
			o, ok := offsets.Lookup(at.topic, at.partition)
			if ok && o.At > end {
				s.Fatalf("%v ends at %d, and %d is committed", at, end, o.At)
			}
			if !ok || o.At < end {
				behind++
			}
		}
		if behind == 0 {
			return
		}
		s.l.check(s)
		pause(s, s.ctx, func() string { return fmt.Sprintf("not all is committed: %v", offsets) })
	}
}
