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
func crashStory(w *world, v packet.Version, e ending, all *journal) (first, last int) {
	w.cfg.MaxInflight = 3
	l := &listener{journal: all, v: v, next: map[string]int{}, held: map[uint16]bool{}}
	t := &talker{journal: all, v: v, id: "talker", next: map[string]int{}}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%+v:\n%s", e, all)
		}
		w.log.Release()
	}()
	l.connect()
	l.p.post(sub2(1, "t/#"))
	settle(l)
	t.connect()
	settle(l, t)
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
			settle(l, t)
		}
	}
	settle(l, t)
	last = w.log.Commits()
	all.note("crash")
	w.crashNow()
	all.deaf = nil
	l.connect()
	t.connect()
	settle(l, t)
	t.publish("t/a", 2)
	settle(l, t)
	complete(l, t)
	return first, last
}

// crashEverywhere plays the story with every ending, on logs that lose what lose says, and returns the faults.
func crashEverywhere(t *testing.T, v packet.Version, lose func(topic string, r record.Record) bool) (faults []string) {
	var first, last int
	story(t, func(w *world) { first, last = crashStory(w, v, ending{}, &journal{w: w}) })
	if last-first < 15 {
		t.Fatalf("the story has only %d commits", last-first)
	}
	for n := first; n <= last; n++ {
		for _, e := range []ending{{stop: n}, {deaf: n}} {
			t.Run(fmt.Sprintf("%+v", e), func(t *testing.T) {
				story(t, func(w *world) {
					w.log.Lose(lose)
					all := &journal{w: w, wanted: lose != nil}
					crashStory(w, v, e, all)
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
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { crashEverywhere(t, v, nil) })
	}
}

// TestEveryRecordOfQoS2IsNeeded is the negative control: a log that says of one kind of them that it is durable, and
// drops it, delivers twice.
func TestEveryRecordOfQoS2IsNeeded(t *testing.T) {
	ofSessions := func(fn func(r record.Record) bool) func(string, record.Record) bool {
		return func(topic string, r record.Record) bool { return topic == "__mqtt_sessions" && fn(r) }
	}
	for name, lose := range map[string]func(string, record.Record) bool{
		"identifiers that came": ofSessions(func(r record.Record) bool { return strings.Contains(string(r.Key), "\x00i") }),
		"deliveries":            ofSessions(func(r record.Record) bool { return strings.HasSuffix(string(r.Key), "\x00o") }),
		"PUBRECs":               ofSessions(func(r record.Record) bool { return mqtt.TellsOfPubrec(r.Value) }),
	} {
		t.Run(name, func(t *testing.T) {
			twice := 0
			for _, fault := range crashEverywhere(t, packet.V5, lose) {
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
