package group_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/budget"
	"millrace/broker/group"
	"millrace/broker/group/grouptest"
	"millrace/platform/pulse"
)

// office is a coordinator that runs, with the pulse that tells it the time.
type office struct {
	*group.Coordinator
	t      *testing.T
	topic  *grouptest.Topic
	memory *budget.Share
	pulse  *pulse.Pulse
	stop   func()
}

func limits() group.Limits {
	return group.Limits{
		InitialDelayMS: 3000, MinSessionMS: 6000, MaxSessionMS: 1_800_000, Members: 1000, Offsets: 10_000, Groups: 1000,
		RetentionMS: 7 * 86_400_000, SweepMS: 600_000,
	}
}

// open runs a coordinator over a topic. Its groups must be gone from the memory it took when all are deleted.
func open(t *testing.T, topic *grouptest.Topic, l group.Limits, memory int64) *office {
	t.Helper()
	share, err := budget.New(memory).Share("groups", memory)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, topic: topic, memory: share, pulse: pulse.New(time.Now)}
	var ids atomic.Int64
	o.Coordinator = group.New(group.Config{
		Topic: topic, Limits: l, Memory: share, Now: time.Now, NowMS: o.pulse.Now, Wake: o.pulse.Wake,
		NewID: func() string { return fmt.Sprintf("%022d", ids.Add(1)) }, // as long as a real one
	})
	o.pulse.Register(o.Coordinator)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.Run(ctx)
	}()
	o.stop = func() {
		cancel()
		<-ended
		o.pulse.Close()
	}
	synctest.Wait()
	return o
}

// find makes the topic.
func (o *office) find(id string) {
	o.t.Helper()
	if _, err := o.Find(o.t.Context(), id); err != nil {
		o.t.Fatal(err)
	}
	synctest.Wait()
}

// commit commits as one who is no member.
func (o *office) commit(id string, n int, metadata string) error {
	e := group.Commit{Group: id, Generation: -1}
	for p := range n {
		e.Offsets = append(e.Offsets, group.Committed{Place: group.Place{Topic: "t", Partition: int32(p)}, Offset: int64(p), Metadata: metadata, RetainMS: -1})
	}
	answer := make(chan error, 1)
	o.Commit(e, func(err error) { answer <- err })
	return <-answer
}

// gather has n members form a group, as consumers do that all start at once, and returns their ids and generation.
func (o *office) gather(id string, n int, metadata []byte) (ids []string, generation int32) {
	o.t.Helper()
	joined := make(chan group.JoinReply, n)
	for i := range n {
		e := group.Join{
			Group: id, ClientID: fmt.Sprintf("client-%d", i), ClientHost: "/127.0.0.1", SessionMS: 45_000, RebalanceMS: 300_000,
			ProtocolType: "consumer", Protocols: []group.Protocol{{Name: "range", Metadata: metadata}, {Name: "cooperative-sticky", Metadata: metadata}},
			RequireID: true,
		}
		o.Join(e, func(r group.JoinReply) {
			e.Member = r.Member
			go o.Join(e, func(r group.JoinReply) { joined <- r })
		})
	}
	synced := make(chan group.SyncReply, n)
	for range n {
		r := <-joined
		if r.Err != nil {
			o.t.Fatal(r.Err)
		}
		ids, generation = append(ids, r.Member), r.Generation
		e := group.Sync{Group: id, Member: r.Member, Generation: r.Generation, Assignments: map[string][]byte{}}
		for _, m := range r.Members {
			e.Assignments[m.ID] = []byte(strings.Repeat("a", 64) + m.ID)
		}
		o.Sync(e, func(r group.SyncReply) { synced <- r })
	}
	seen := map[string]bool{}
	for range n {
		r := <-synced
		if r.Err != nil {
			o.t.Fatal(r.Err)
		}
		seen[string(r.Assignment)] = true
	}
	if len(seen) != n {
		o.t.Fatalf("%d different assignments of %d members", len(seen), n)
	}
	return ids, generation
}

// gathered is a generation and its members.
type gathered struct {
	members    []string
	generation int32
}

// heartbeats has the members of many groups say that they live.
func (o *office) heartbeats(groups map[string]gathered) {
	o.t.Helper()
	for id, g := range groups {
		o.heartbeat(id, g.generation, g.members...)
	}
}

// heartbeat has members say that they live.
func (o *office) heartbeat(id string, generation int32, members ...string) {
	o.t.Helper()
	for _, m := range members {
		o.Heartbeat(group.Heartbeat{Group: id, Member: m, Generation: generation}, func(err error) {
			if err != nil {
				o.t.Errorf("%s: %v", m, err)
			}
		})
	}
	synctest.Wait()
}
