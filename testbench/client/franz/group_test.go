package franz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/board"
)

// ledger is what the members of a group have read, all together.
type ledger struct {
	mu   sync.Mutex
	next map[int32]int64 // by partition
	bad  []string
	all  int
	// more is signalled when something was read.
	more chan struct{}
}

func newLedger() *ledger { return &ledger{next: map[int32]int64{}, more: make(chan struct{}, 1)} }

// value is what record n of a partition has.
func value(partition int32, n int64) string {
	return fmt.Sprintf("partition %d record %d %0200d", partition, n, n)
}

func (l *ledger) note(who string, r *kgo.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if want := l.next[r.Partition]; r.Offset != want {
		l.bad = append(l.bad, fmt.Sprintf("%s: partition %d: offset %d, want %d", who, r.Partition, r.Offset, want))
	}
	if want := value(r.Partition, r.Offset); string(r.Value) != want {
		l.bad = append(l.bad, fmt.Sprintf("%s: partition %d offset %d has %q", who, r.Partition, r.Offset, r.Value))
	}
	l.next[r.Partition] = r.Offset + 1
}

// done says that n more records were read and that the group knows.
func (l *ledger) done(n int) {
	l.mu.Lock()
	l.all += n
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// reach waits until n records were read and committed, and holds every one of them against what was written.
func (l *ledger) reach(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	for {
		l.mu.Lock()
		all, bad := l.all, l.bad
		l.mu.Unlock()
		if len(bad) > 0 {
			t.Fatalf("of %d records: %v", all, bad[:min(len(bad), 5)])
		}
		if all >= n {
			if all > n {
				t.Fatalf("%d records of %d", all, n)
			}
			return
		}
		select {
		case <-l.more:
		case <-ctx.Done():
			t.Fatalf("%d records of %d: %v", all, n, ctx.Err())
		}
	}
}

// reader is one member of a group.
type reader struct {
	*kgo.Client
	stop  context.CancelFunc
	ended chan struct{}

	mu       sync.Mutex
	assigned map[int32]bool
	changed  chan struct{}
}

// join adds a member that reads until it is left or killed. Every poll's records are committed before the next poll.
func join(t *testing.T, b *board.Board, l *ledger, name string, opts ...kgo.Opt) *reader {
	t.Helper()
	r := &reader{ended: make(chan struct{}), assigned: map[int32]bool{}, changed: make(chan struct{}, 1)}
	tell := func(change func()) {
		r.mu.Lock()
		change()
		r.mu.Unlock()
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	lost := func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
		tell(func() {
			for _, p := range gone["t"] {
				delete(r.assigned, p)
			}
		})
	}
	r.Client = client(t, b, append([]kgo.Opt{
		kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.HeartbeatInterval(200 * time.Millisecond), kgo.ClientID(name),
		kgo.FetchMaxWait(200 * time.Millisecond), // what is assigned while a fetch waits is asked for when it is over
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, more map[string][]int32) {
			tell(func() {
				for _, p := range more["t"] {
					r.assigned[p] = true
				}
			})
		}),
		kgo.OnPartitionsRevoked(lost), kgo.OnPartitionsLost(lost),
	}, opts...)...)
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() {
		defer close(r.ended)
		for ctx.Err() == nil {
			f := r.PollRecords(ctx, 50)
			f.EachRecord(func(rec *kgo.Record) { l.note(name, rec) })
			if len(f.Records()) > 0 {
				if err := r.CommitRecords(context.WithoutCancel(ctx), f.Records()...); err != nil {
					l.mu.Lock()
					l.bad = append(l.bad, fmt.Sprintf("%s: commit: %v", name, err))
					l.mu.Unlock()
				}
				l.done(len(f.Records()))
			}
			r.AllowRebalance()
		}
	}()
	t.Cleanup(func() { r.end() })
	return r
}

func (r *reader) end() {
	r.stop()
	<-r.ended
	r.Close()
}

// share waits until the members have all partitions between them, each once, and each member some.
func share(t *testing.T, ctx context.Context, partitions int, readers ...*reader) {
	t.Helper()
	for {
		var all []int32
		fair := true
		for _, r := range readers {
			r.mu.Lock()
			all = slices.AppendSeq(all, maps.Keys(r.assigned))
			fair = fair && len(r.assigned) > 0
			r.mu.Unlock()
		}
		slices.Sort(all)
		if distinct := slices.Compact(slices.Clone(all)); fair && len(all) == partitions && len(distinct) == partitions {
			return
		}
		select {
		case <-readers[0].changed:
		case <-readers[len(readers)-1].changed:
		case <-time.After(50 * time.Millisecond): // another one changed
		case <-ctx.Done():
			t.Fatalf("partitions are shared as %v: %v", all, ctx.Err())
		}
	}
}

// write appends n records to each partition, from first on.
func write(t *testing.T, b *board.Board, partitions int, first, n int64) {
	t.Helper()
	c := client(t, b, kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer c.Close()
	ctx := within(t)
	for i := first; i < first+n; i++ {
		for p := range int32(partitions) {
			c.Produce(ctx, &kgo.Record{Partition: p, Value: []byte(value(p, i))}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// Three members come one by one, one leaves, the broker restarts: every record is read once, in order, whoever has the
// partition.
func TestThreeMembersShareATopic(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{
		"cooperative-sticky": kgo.CooperativeStickyBalancer(), "range": kgo.RangeBalancer(),
		"roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const partitions, batch = 6, 200
			b := board.Start(t, board.QuickGroups)
			admin := kadm.NewClient(client(t, b))
			ctx := within(t)
			if _, err := admin.CreateTopic(ctx, partitions, 1, nil, "t"); err != nil {
				t.Fatal(err)
			}
			write(t, b, partitions, 0, batch)
			l := newLedger()
			opt := kgo.Balancers(balancer)
			one := join(t, b, l, "one", opt)
			l.reach(t, ctx, partitions*batch)
			two := join(t, b, l, "two", opt)
			share(t, ctx, partitions, one, two)
			three := join(t, b, l, "three", opt)
			share(t, ctx, partitions, one, two, three)
			write(t, b, partitions, batch, batch)
			l.reach(t, ctx, 2*partitions*batch)

			described, err := admin.DescribeGroups(ctx, "g")
			if d := described["g"]; err != nil || d.Err != nil || d.State != "Stable" || len(d.Members) != 3 || d.Protocol != balancer.ProtocolName() {
				t.Errorf("%+v, %v", described, err)
			}
			lags, err := admin.Lag(ctx, "g")
			if err != nil || lags["g"].Lag.Total() != 0 || len(lags["g"].Lag["t"]) != partitions {
				t.Errorf("%+v, %v", lags, err)
			}
			if r, err := admin.DeleteGroups(ctx, "g"); err != nil || !errors.Is(r["g"].Err, kerr.NonEmptyGroup) {
				t.Errorf("delete a group with members: %+v, %v", r, err)
			}

			two.end()
			share(t, ctx, partitions, one, three)
			write(t, b, partitions, 2*batch, batch)
			l.reach(t, ctx, 3*partitions*batch)
			t.Logf("%d records of %d partitions were read once and in order, by up to three members that came and went", 3*partitions*batch, partitions)
		})
	}
}

// What a group has read is kept over a restart, and so are its members: they go on where they were.
func TestAGroupOverARestart(t *testing.T) {
	const partitions, batch = 4, 100
	b := board.Start(t, board.QuickGroups)
	ctx := within(t)
	admin := kadm.NewClient(client(t, b))
	if _, err := admin.CreateTopic(ctx, partitions, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	write(t, b, partitions, 0, batch)
	l := newLedger()
	one, two := join(t, b, l, "one"), join(t, b, l, "two")
	share(t, ctx, partitions, one, two)
	l.reach(t, ctx, partitions*batch)
	_, generation := one.GroupMetadata()
	for round := range int64(3) {
		b.Restart()
		write(t, b, partitions, (round+1)*batch, batch)
		l.reach(t, ctx, int(round+2)*partitions*batch)
	}
	share(t, ctx, partitions, one, two)
	if _, now := one.GroupMetadata(); now != generation {
		t.Errorf("a restart made generation %d of %d: members do not survive it", now, generation)
	}
	one.end()
	two.end()
	b.Restart()
	write(t, b, partitions, 4*batch, batch)
	three := join(t, b, l, "three")
	l.reach(t, ctx, 5*partitions*batch)
	three.end()
	t.Logf("%d records were read once and in order over four restarts of the broker", 5*partitions*batch)
}

// The broker restarts while members are joining, again and again: they find each other all the same, and nothing is
// read twice or passed over.
func TestARestartMeetsARebalance(t *testing.T) {
	const partitions, batch, rounds = 6, 50, 4
	b := board.Start(t, board.QuickGroups)
	ctx := within(t)
	admin := kadm.NewClient(client(t, b))
	if _, err := admin.CreateTopic(ctx, partitions, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	readers := []*reader{join(t, b, l, "first")}
	share(t, ctx, partitions, readers...)
	for round := range int64(rounds) {
		for i := range 2 {
			readers = append(readers, join(t, b, l, fmt.Sprintf("reader %d of round %d", i, round)))
		}
		for { // until the group has noticed
			d, err := admin.DescribeGroups(ctx, "g")
			if err != nil {
				t.Fatal(err)
			}
			if d["g"].State != "Stable" || len(d["g"].Members) > 1 {
				break
			}
		}
		b.Restart()
		for len(readers) > 1 { // the first stays, and the others of the last round go again
			readers[len(readers)-1].end()
			readers = readers[:len(readers)-1]
		}
		write(t, b, partitions, round*batch, batch)
		l.reach(t, ctx, int(round+1)*partitions*batch)
	}
}

// A static member that comes back in time takes its old place, and nobody else notices.
func TestStaticMembers(t *testing.T) {
	const partitions, batch = 4, 100
	b := board.Start(t, board.QuickGroups)
	ctx := within(t)
	admin := kadm.NewClient(client(t, b))
	if _, err := admin.CreateTopic(ctx, partitions, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	one := join(t, b, l, "one", kgo.InstanceID("one"))
	share(t, ctx, partitions, one) // so that it leads: a leader that is new to its place begins a rebalance, to see all topics
	two := join(t, b, l, "two", kgo.InstanceID("two"))
	share(t, ctx, partitions, one, two)
	write(t, b, partitions, 0, batch)
	l.reach(t, ctx, partitions*batch)
	_, generation := one.GroupMetadata()
	two.end() // a static member does not leave
	again := join(t, b, l, "two again", kgo.InstanceID("two"))
	share(t, ctx, partitions, one, again)
	write(t, b, partitions, batch, batch)
	l.reach(t, ctx, 2*partitions*batch)
	if _, now := one.GroupMetadata(); now != generation {
		t.Errorf("generation %d of %d: the group was rebalanced", now, generation)
	}
	if _, err := admin.LeaveGroup(ctx, kadm.LeaveGroup("g").InstanceIDs("one", "two")); err != nil {
		t.Error(err)
	}
}

// Offsets without members: committed, fetched, deleted, and gone with their topic.
func TestSimpleConsumers(t *testing.T) {
	b := board.Start(t, board.QuickGroups)
	ctx := within(t)
	admin := kadm.NewClient(client(t, b))
	want := kadm.Offsets{}
	for _, topic := range []string{"a", "b"} {
		made, err := admin.CreateTopic(ctx, 3, 1, nil, topic)
		if err != nil {
			t.Fatal(err)
		}
		for p := range int32(3) {
			want.Add(kadm.Offset{Topic: topic, TopicID: made.ID, Partition: p, At: int64(p) + 10, LeaderEpoch: -1, Metadata: topic})
		}
	}
	if r, err := admin.CommitOffsets(ctx, "simple", want); err != nil || r.Error() != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	have := func(group string) kadm.Offsets {
		t.Helper()
		got, err := admin.FetchOffsets(ctx, group)
		if err != nil {
			t.Fatal(err)
		}
		return got.Offsets()
	}
	b.Restart()
	admin = kadm.NewClient(client(t, b))
	if got := have("simple"); !maps.EqualFunc(got, want, maps.Equal) {
		t.Errorf("after a restart: %v, want %v", got, want)
	}
	if r, err := admin.DeleteOffsets(ctx, "simple", kadm.TopicsSet{"a": {1: {}}}); err != nil || r.Error() != nil {
		t.Errorf("%+v, %v", r, err)
	}
	delete(want["a"], 1)
	if got := have("simple"); !maps.EqualFunc(got, want, maps.Equal) {
		t.Errorf("after an offset was deleted: %v, want %v", got, want)
	}
	if _, err := admin.DeleteTopic(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	delete(want, "b")
	if _, err := admin.CreateTopic(ctx, 3, 1, nil, "b"); err != nil {
		t.Fatal(err)
	}
	if got := have("simple"); !maps.EqualFunc(got, want, maps.Equal) {
		t.Errorf("after the topic was made anew: %v, want %v", got, want)
	}
	if list, err := admin.ListGroups(ctx); err != nil || len(list) != 1 || list["simple"].State != "Empty" {
		t.Errorf("%+v, %v", list, err)
	}
	if r, err := admin.DeleteGroups(ctx, "simple", "nobody"); err != nil || r["simple"].Err != nil || !errors.Is(r["nobody"].Err, kerr.GroupIDNotFound) {
		t.Errorf("%+v, %v", r, err)
	}
	b.Restart()
	admin = kadm.NewClient(client(t, b))
	if list, err := admin.ListGroups(ctx); err != nil || len(list) != 0 {
		t.Errorf("after all are deleted: %+v, %v", list, err)
	}
}
