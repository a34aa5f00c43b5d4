package group_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"millrace/broker/group"
	"millrace/broker/group/grouptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The memory of as many members and groups as a board is to bear: what is charged is what it takes, before and after a
// restart, and all of it comes back.
func TestFiveHundredMembersTwoHundredGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := &grouptest.Topic{N: 5}
		metadata := []byte(strings.Repeat("m", 150))
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		o := open(t, topic, limits(), 16<<20)
		o.find("big")
		members, generation := o.gather("big", 500, metadata)
		_, big := o.Groups()
		alive := map[string]gathered{"big": {members, generation}}
		for g := range 199 {
			id := fmt.Sprint("group-", g)
			members, generation := o.gather(id, 2, metadata) // takes three seconds each
			alive[id] = gathered{members, generation}
			o.heartbeats(alive)
			for range 5 {
				if err := o.commit(fmt.Sprint("offsets-", g), 10, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		groups, charged := o.Groups()
		if groups != 1+2*199 || charged != o.memory.Used() {
			t.Errorf("%d groups, %d bytes charged, %d taken", groups, charged, o.memory.Used())
		}
		o.stop()
		topic = topic.Crash()
		o = nil
		before := heap()
		o = open(t, topic, limits(), 16<<20)
		took := heap() - before
		n, loaded := o.Groups()
		if n != groups || loaded > charged {
			t.Errorf("after a restart %d groups of %d, %d bytes of %d", n, groups, loaded, charged)
		}
		t.Logf("500 members: %d KiB, %d bytes each; with 398 groups more %d KiB; after a restart %d KiB are charged and the heap has %d KiB",
			big>>10, big/500, charged>>10, loaded>>10, took>>10)
		if big/500 > 2500 {
			t.Errorf("a member takes %d bytes", big/500)
		}
		if took > loaded*3/2+64<<10 {
			t.Errorf("%d bytes are charged, the heap has %d", loaded, took)
		}
		o.heartbeat("big", generation, members...)
		o.stop()
	})
}

func TestAnIdleBoardSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, &grouptest.Topic{N: 5}, limits(), 16<<20)
		defer o.stop()
		o.find("g")
		for g := range 200 {
			if err := o.commit(fmt.Sprint("offsets-", g), 3, ""); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		was := o.pulse.Wakes()
		time.Sleep(time.Hour)
		if n := o.pulse.Wakes() - was; n > 60 {
			t.Errorf("200 groups without members: %d wakes an hour", n)
		}
		// With members there is a wake for each group now and then, whatever their heartbeats.
		all := map[string]gathered{}
		for g := range 100 {
			id := fmt.Sprint("g-", g)
			members, generation := o.gather(id, 3, nil)
			all[id] = gathered{members, generation}
			o.heartbeats(all) // the others are not forgotten meanwhile
		}
		was = o.pulse.Wakes()
		for range 200 {
			time.Sleep(3 * time.Second)
			o.heartbeats(all)
		}
		if n := o.pulse.Wakes() - was; n > 5*600 {
			t.Errorf("100 groups of three members: %d wakes in 600 s", n)
		} else {
			t.Logf("100 groups of three members: %.2f wakes a second", float64(n)/600)
		}
		for id := range all {
			if d, _, err := o.Describe(id, false); err != nil || d.Phase != group.Stable {
				t.Errorf("%s is %s, %v", id, d.Phase, err)
			}
		}
	})
}

func TestSessionsEndOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, &grouptest.Topic{}, limits(), 1<<20)
		defer o.stop()
		o.find("g")
		o.gather("g", 2, nil)
		phase := func() group.Phase {
			synctest.Wait()
			d, _, err := o.Describe("g", false)
			if err != nil {
				t.Fatal(err)
			}
			return d.Phase
		}
		time.Sleep(44_999 * time.Millisecond)
		if p := phase(); p != group.Stable {
			t.Errorf("a millisecond before the session is over: %s", p)
		}
		time.Sleep(time.Millisecond)
		if p := phase(); p != group.Empty {
			t.Errorf("when the session is over: %s", p)
		}
	})
}

func TestStateIsReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := &grouptest.Topic{N: 3}
		o := open(t, topic, limits(), 4<<20)
		o.find("g")
		members, generation := o.gather("g", 20, []byte("metadata"))
		for i := range 10 {
			if err := o.commit(fmt.Sprint("s-", i), 5, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Delete("s-0"); err != nil {
			t.Error(err)
		}
		if r := o.DeleteOffsets(group.DeleteOffsets{Group: "s-1", Places: []group.Place{{Topic: "t", Partition: 2}}}); r.Err != nil || r.Errors[0] != nil {
			t.Error(r)
		}
		if err := o.Delete("g"); !errors.Is(err, group.ErrNotEmpty) {
			t.Error(err)
		}
		groups, charged := o.Groups()
		o.stop()
		o = open(t, topic.Crash(), limits(), 4<<20)
		defer o.stop()
		// What is read back takes no more than it did: one protocol of each member is known, not two.
		if n, now := o.Groups(); n != groups || now > charged || now != o.memory.Used() {
			t.Errorf("%d groups of %d, %d bytes of %d", n, groups, now, charged)
		}
		o.heartbeat("g", generation, members...)
		if list, err := o.Offsets("s-1", nil); err != nil || len(list) != 4 || list[2].Partition != 3 || list[2].Offset != 3 || list[2].Metadata != "x" {
			t.Errorf("%v, %v", list, err)
		}
		if _, _, err := o.Describe("s-0", true); !errors.Is(err, group.ErrNotFound) {
			t.Errorf("a deleted group: %v", err)
		}
		// Everything given up, nothing is charged.
		leave := group.Leave{Group: "g"}
		for _, m := range members {
			leave.Members = append(leave.Members, group.Leaver{Member: m})
		}
		o.Leave(leave, func(r group.LeaveReply) {
			if err := errors.Join(append(r.Errors, r.Err)...); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		list, err := o.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range list {
			if err := o.Delete(g.ID); err != nil {
				t.Errorf("%s: %v", g.ID, err)
			}
		}
		if n, now := o.Groups(); n != 0 || now != 0 || o.memory.Used() != 0 {
			t.Errorf("%d groups and %d bytes are left", n, now)
		}
	})
}

func TestHowFarGroupsHaveRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, &grouptest.Topic{N: 3}, limits(), 4<<20)
		defer o.stop()
		o.find("g")
		o.gather("g", 2, nil)
		for _, of := range []struct {
			topic string
			n     int32
		}{{"b", 3}, {"a", 2}, {"c", 1}} {
			e := group.Commit{Group: "s", Generation: -1}
			for i := range of.n {
				e.Offsets = append(e.Offsets, group.Committed{Place: group.Place{Topic: of.topic, Partition: of.n - 1 - i}, Offset: int64(of.n*10 + i)})
			}
			o.Commit(e, func(err error) {
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if names := o.Names([]string{"before"}); len(names) != 3 || names[0] != "before" || !slices.Contains(names, "g") || !slices.Contains(names, "s") {
			t.Errorf("%v", names)
		}
		if _, _, _, ok := o.Progress("none", nil, 10); ok {
			t.Error("a group that is not there")
		}
		if list, members, left, ok := o.Progress("g", nil, 10); len(list) != 0 || members != 2 || left != 0 || !ok {
			t.Errorf("%v, %d members, %d left, %v", list, members, left, ok)
		}
		for room, want := range map[int]string{
			10: "[a-0:21 a-1:20 b-0:32 b-1:31 b-2:30 c-0:10] 0", 6: "[a-0:21 a-1:20 b-0:32 b-1:31 b-2:30 c-0:10] 0",
			5: "[a-0:21 a-1:20 b-0:32 b-1:31 b-2:30] 1",
			4: "[a-0:21 a-1:20] 4", // whole topics, in order: c would fit
			1: "[] 6", 0: "[] 6",
		} {
			list, members, left, ok := o.Progress("s", []group.Progress{{}}, room)
			var got []string
			for _, p := range list[1:] {
				got = append(got, fmt.Sprintf("%s-%d:%d", p.Topic, p.Partition, p.Offset))
			}
			if text := fmt.Sprint(got, left); text != want || members != 0 || !ok {
				t.Errorf("room for %d: %s, want %s", room, text, want)
			}
		}
		if n, most := o.Timers(); n < 2 || most != limits().Groups+1 { // the members' sessions, and the sweep
			t.Errorf("%d timers of %d", n, most)
		}
	})
}

func TestTopicsThatAreGoneTakeTheirOffsets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := &grouptest.Topic{}
		o := open(t, topic, limits(), 1<<20)
		o.find("g")
		for _, id := range []string{"a", "b"} {
			if err := o.commit(id, 3, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.ForgetTopic("other", [16]byte{1}); err != nil {
			t.Error(err)
		}
		if n, _, err := o.Count("a"); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if err := o.ForgetTopic("t", [16]byte{1}); err != nil {
			t.Error(err)
		}
		if n, _, err := o.Count("a"); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		// One that went while the board was off.
		if err := o.commit("c", 3, ""); err != nil {
			t.Fatal(err)
		}
		o.stop()
		topic = topic.Crash()
		topic.Missing = func(name string, _ [16]byte) bool { return name == "t" }
		o = open(t, topic, limits(), 1<<20)
		defer o.stop()
		if list, err := o.List(); len(list) != 0 || err != nil {
			t.Errorf("%v, %v", list, err)
		}
	})
}

func TestLimitsOfTheBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits()
		l.Groups, l.Offsets = 3, 4
		o := open(t, &grouptest.Topic{}, l, 64<<10)
		defer o.stop()
		o.find("g")
		for i := range 3 {
			if err := o.commit(fmt.Sprint(i), 4, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.commit("3", 1, ""); !errors.Is(err, group.ErrTooMany) {
			t.Errorf("a group too many: %v", err)
		}
		if err := o.commit("0", 5, ""); !errors.Is(err, group.ErrTooMany) {
			t.Errorf("an offset too many: %v", err)
		}
		if err := o.Delete("0"); err != nil {
			t.Error(err)
		}
		if err := o.commit("3", 1, strings.Repeat("x", 63<<10)); !errors.Is(err, group.ErrTooMany) {
			t.Errorf("more than there is memory: %v", err)
		}
		var joined group.JoinReply
		o.Join(group.Join{
			Group: "3", SessionMS: 10_000, ProtocolType: "consumer",
			Protocols: []group.Protocol{{Name: "range", Metadata: make([]byte, 63<<10)}},
		}, func(r group.JoinReply) { joined = r })
		synctest.Wait()
		if !errors.Is(joined.Err, group.ErrFull) {
			t.Errorf("a member larger than there is memory: %v", joined.Err)
		}
		if err := o.commit("3", 1, ""); err != nil {
			t.Errorf("after all that was refused: %v", err)
		}
	})
}

func TestTheLogDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := &grouptest.Topic{}
		o := open(t, topic, limits(), 1<<20)
		defer o.stop()
		if err := o.commit("g", 1, ""); !errors.Is(err, group.ErrNotCoordinator) {
			t.Errorf("before anybody asked who coordinates: %v", err)
		}
		if list, err := o.List(); len(list) != 0 || err != nil {
			t.Errorf("before there is a topic: %v, %v", list, err)
		}
		full := errors.New("disk full")
		topic.Fail(full)
		if _, err := o.Find(t.Context(), "g"); !errors.Is(err, group.ErrUnavailable) || !errors.Is(err, full) {
			t.Errorf("a topic that cannot be made: %v", err)
		}
		topic.Fail(nil)
		o.find("g")
		if err := o.commit("g", 1, ""); err != nil {
			t.Fatal(err)
		}
		topic.Fail(full)
		if err := o.commit("g", 2, ""); !errors.Is(err, group.ErrUnavailable) || !errors.Is(err, full) {
			t.Errorf("a log that takes nothing: %v", err)
		}
		topic.Fail(nil)
		topic.Hold()
		done := make(chan error, 1)
		o.Commit(group.Commit{Group: "g", Generation: -1, Offsets: []group.Committed{{Place: group.Place{Topic: "u"}, Offset: 9, RetainMS: -1}}},
			func(err error) { done <- err })
		synctest.Wait()
		if list, err := o.Offsets("g", nil); len(list) != 1 || err != nil || len(done) != 0 {
			t.Errorf("before it is on flash: %v, %v", list, err)
		}
		topic.Commit()
		synctest.Wait()
		if list, err := o.Offsets("g", nil); len(list) != 2 || err != nil || <-done != nil {
			t.Errorf("when it is: %v, %v", list, err)
		}
	})
}

// A group with more offsets than one batch holds ends all the same.
func TestManyOffsetsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits()
		topic := &grouptest.Topic{BatchMax: 300 << 10}
		o := open(t, topic, l, 16<<20)
		o.find("g")
		const n = 5000
		id := strings.Repeat("long-", 40)
		for from := 0; from < n; from += 1000 {
			e := group.Commit{Group: id, Generation: -1}
			for p := range 1000 {
				e.Offsets = append(e.Offsets, group.Committed{Place: group.Place{Topic: "t", Partition: int32(from + p)}, RetainMS: -1})
			}
			answer := make(chan error, 1)
			o.Commit(e, func(err error) { answer <- err })
			if err := <-answer; err != nil {
				t.Fatal(err)
			}
		}
		if err := o.commit(id, 1500, ""); !errors.Is(err, group.ErrTooMany) || errors.Is(err, group.ErrUnavailable) {
			t.Errorf("a commit larger than a batch: %v", err)
		}
		if got, _, err := o.Count(id); got != n || err != nil {
			t.Errorf("%d offsets, %v", got, err)
		}
		if err := o.Delete(id); err != nil {
			t.Error(err)
		}
		o.stop()
		o = open(t, topic.Crash(), l, 16<<20)
		defer o.stop()
		if groups, charged := o.Groups(); groups != 0 || charged != 0 {
			t.Errorf("%d groups and %d bytes are back", groups, charged)
		}
	})
}

// Who has gone is not answered, and is a member all the same.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, &grouptest.Topic{}, limits(), 1<<20)
		defer o.stop()
		o.find("g")
		cancel := o.Join(group.Join{
			Group: "g", SessionMS: 10_000, RebalanceMS: 10_000, ProtocolType: "consumer", Protocols: []group.Protocol{{Name: "range"}},
		}, func(group.JoinReply) { t.Error("answered all the same") })
		synctest.Wait()
		if !cancel() || cancel() {
			t.Error("cancelled not once")
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if d, _, err := o.Describe("g", true); err != nil || d.Phase != group.CompletingRebalance || len(d.Members) != 1 {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// After Run has ended everything is refused and nobody waits for ever.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, &grouptest.Topic{}, limits(), 1<<20)
		o.find("g")
		o.stop()
		if err := o.commit("g", 1, ""); !errors.Is(err, group.ErrUnavailable) {
			t.Error(err)
		}
		if err := o.Delete("g"); !errors.Is(err, group.ErrUnavailable) {
			t.Error(err)
		}
	})
}

// What Java computes: Utils.abs(id.hashCode()) % 50.
func TestPartitionIsJavas(t *testing.T) {
	for id, want := range map[string]int{
		"": 0, "g": 3, "my-group": 12, "console-consumer-12345": 6, "gruppe-ä": 48, "𝒢": 1,
		"polygenelubricants": 0, // its hash is -2^31, which has no absolute value
	} {
		if got := group.Partition(id, 50); got != want {
			t.Errorf("%q is in %d, want %d", id, got, want)
		}
	}
}
