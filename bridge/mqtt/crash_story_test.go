package mqtt_test

import (
	"fmt"
	"strings"
	"testing"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
	"millrace/broker/record"
)

// ending says where the first server's life ends: after so many commits the log stands still, and the clients hear what
// can still be said to them, or the log goes on, and the clients hear nothing more. Both 0: when all is said and done.
type ending struct{ stop, deaf int }

// crashStory has a publisher and a subscriber with durable sessions exchange a few messages of QoS 1 and 2, crashes the
// server and lets both go on. It returns the commits there were before the first publish and before the crash.
// With members, the subscriber is several that share a subscription.
func crashStory(w *world, v packet.Version, e ending, members int, all *journal) (first, last int) {
	w.cfg.MaxInflight = 3
	listeners, filter := []*listener{{journal: all, v: v, next: map[string]int{}, held: map[uint16]bool{}}}, "t/#"
	if members > 0 {
		listeners, filter = nil, "$share/g/t/#"
		for i, together := 0, make(team); i < members; i++ {
			listeners = append(listeners, &listener{
				journal: all, v: v, id: fmt.Sprint("member", i), team: together, held: map[uint16]bool{},
			})
		}
	}
	t := &talker{journal: all, v: v, id: "talker", next: map[string]int{}}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%+v:\n%s", e, all)
		}
		w.log.Release()
	}()
	for i, l := range listeners {
		l.connect()
		l.p.post(sub2(1, filter))
		settle(listeners[:i+1])
	}
	t.connect()
	settle(listeners, t)
	first = w.log.Commits()
	if e.stop > 0 {
		w.log.StopAfter(e.stop)
	}
	if e.deaf > 0 {
		log := w.log
		all.resent = true
		all.deaf = func() bool { return log.Commits() >= e.deaf }
	}
	for i := range 4 {
		t.publish("t/a", 2)
		if i%2 == 0 {
			t.publish("t/b", 1)
			settle(listeners, t)
		}
	}
	settle(listeners, t)
	last = w.log.Commits()
	all.note("crash")
	w.crashNow()
	all.deaf = nil
	for _, l := range listeners {
		l.connect()
	}
	t.connect()
	settle(listeners, t)
	t.publish("t/a", 2)
	settle(listeners, t)
	complete(listeners[0], t)
	return first, last
}

// crashEverywhere plays the story with every ending, on logs that lose what lose says, and returns the faults.
func crashEverywhere(t *testing.T, v packet.Version, members int, lose func(topic string, r record.Record) bool) (faults []string) {
	var first, last int
	story(t, func(w *world) { first, last = crashStory(w, v, ending{}, members, &journal{w: w}) })
	if last-first < 15 {
		t.Fatalf("the story has only %d commits", last-first)
	}
	for n := first; n <= last; n++ {
		for _, e := range []ending{{stop: n}, {deaf: n}} {
			t.Run(fmt.Sprintf("%+v", e), func(t *testing.T) {
				story(t, func(w *world) {
					w.log.Lose(lose)
					all := &journal{w: w, wanted: lose != nil}
					crashStory(w, v, e, members, all)
					faults = append(faults, all.faults...)
				})
			})
		}
	}
	return faults
}

// TestACrashAfterAnyCommitDeliversOnce: in both directions each message of QoS 2 comes once and in order, and of QoS 1
// at least once, wherever the server crashes.
func TestACrashAfterAnyCommitDeliversOnce(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { crashEverywhere(t, v, 0, nil) })
	}
}

// TestACrashAfterAnyCommitDeliversOnceToAGroup: the same of a shared subscription, where once means to one member. What is in
// flight with QoS 2 is completed with the client that has it [MQTT-4.8.2-4], and what was with QoS 1 comes to somebody.
func TestACrashAfterAnyCommitDeliversOnceToAGroup(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { crashEverywhere(t, v, 3, nil) })
	}
}

// TestEveryRecordOfQoS2IsNeeded is the negative control: a log that says of one kind of them that it is durable, and
// drops it, delivers twice.
func TestEveryRecordOfQoS2IsNeeded(t *testing.T) {
	ofSessions := func(fn func(r record.Record) bool) func(string, record.Record) bool {
		return func(topic string, r record.Record) bool { return topic == "__mqtt_sessions" && fn(r) }
	}
	// The record of a group that says of no partition yet is kept: without it the group would begin at the end of the log.
	for name, lose := range map[string]func(string, record.Record) bool{
		"groups":                ofSessions(func(r record.Record) bool { return strings.HasPrefix(string(r.Key), "\x00s") && r.Value[1] > 0 }),
		"identifiers that came": ofSessions(func(r record.Record) bool { return strings.Contains(string(r.Key), "\x00i") }),
		"deliveries":            ofSessions(func(r record.Record) bool { return strings.HasSuffix(string(r.Key), "\x00o") }),
		"PUBRECs":               ofSessions(func(r record.Record) bool { return mqtt.TellsOfPubrec(r.Value) }),
	} {
		t.Run(name, func(t *testing.T) {
			twice, members := 0, 0
			if name == "groups" {
				members = 3
			}
			for _, fault := range crashEverywhere(t, packet.V5, members, lose) {
				if strings.HasSuffix(fault, "twice") {
					twice++
				}
			}
			if twice == 0 {
				t.Error("nothing was delivered twice")
			}
			t.Logf("delivered twice %d times", twice)
		})
	}
}
