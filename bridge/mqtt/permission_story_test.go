package mqtt_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/route"
	"millrace/broker/auth"
	"millrace/broker/record"
)

// entries are access control entries that can change.
type entries struct{ now atomic.Pointer[auth.ACLs] }

func (e *entries) set(list ...auth.ACL) { e.now.Store(auth.NewACLs(list...)) }

// allow is an entry about a Kafka topic, or about a topic filter where the name begins with auth.FilterMark.
func allow(user string, op auth.Operation, name string) auth.ACL {
	return auth.ACL{Type: auth.Topic, Pattern: auth.Literal, Name: name, Principal: auth.User(user), Host: "*", Operation: op, Permission: auth.Allow}
}

func deny(a auth.ACL) auth.ACL { a.Permission = auth.Deny; return a }

// permitted is a guarded server where the entries decide; alarms go to a Kafka topic of their own.
func (w *world) permitted(list ...auth.ACL) *entries {
	w.guarded()
	e := new(entries)
	e.set(list...)
	w.cfg.Authorizer = &auth.Authorizer{Super: []auth.Principal{"User:root"}, ACLs: e.now.Load}
	w.cfg.Users = people{"ann": "a", "bob": "b", "root": "r"}
	r, err := route.New([]route.Rule{{Filter: "alarms/#", Topic: "alarms"}}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Router = r
	return e
}

func TestWhoMayPublish(t *testing.T) {
	story(t, func(w *world) {
		w.permitted(
			allow("ann", auth.Write, "alarms"), allow("*", auth.Write, "mqtt:devices/%c/#"), allow("ann", auth.All, "mqtt:users/%u"),
			allow("bob", auth.All, "mqtt"), deny(allow("bob", auth.Write, "mqtt:locked/#")), deny(allow("bob", auth.All, "alarms")),
		)
		ann := w.connect(packet.V5, "d1", as("ann", "a"))
		ann.send(pub("alarms/fire", "1", 1, 1), pub("devices/d1/state", "1", 1, 2), pub("devices/d2/state", "1", 1, 3),
			pub("users/ann", "1", 1, 4), pub("users/bob", "1", 1, 5), pub("other", "1", 1, 6), pub("other", "1", 0, 0))
		ann.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x87", "puback 4 0x00", "puback 5 0x87", "puback 6 0x87")
		bob := w.connect(packet.V5, "d2", as("bob", "b"))
		bob.send(pub("anything", "1", 1, 1), pub("locked/x", "1", 1, 2), pub("alarms/fire", "1", 1, 3), pub("devices/d2/x", "1", 1, 4))
		bob.wants("connack 0x00", "puback 1 0x00", "puback 2 0x87", "puback 3 0x87", "puback 4 0x00")
		ann.send(pub("other", "1", 2, 8), pub("users/ann", "1", 2, 10))
		ann.wants("pubrec 8 0x87", "pubrec 10 0x00")
		retained := pub("other", "1", 1, 9)
		retained.Retain = true
		ann.send(retained)
		ann.wants("puback 9 0x87")
		root := w.connect(packet.V5, "d3", as("root", "r")).send(pub("locked/x", "1", 1, 1), sub(1, "#"))
		root.wants("connack 0x00", "puback 1 0x00", "suback 1 [0x01]") // and nothing was retained

		// 3.1.1 is not told, and what was dropped is not acknowledged: the connection ends, after a while.
		old := w.connect(packet.V311, "d4", as("ann", "a")).send(pub("devices/d4/x", "1", 1, 1), pub("other", "1", 1, 2))
		old.wants("connack 0x00", "puback 1 0x00")
		time.Sleep(2 * time.Second)
		old.wants("closed")
		if n := w.log.Partitions("mqtt"); n == 0 {
			t.Error("whoever may write had no topic made")
		}
	})
}

func TestWhoMaySubscribe(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		no := "0x87"
		if v == packet.V311 {
			no = "0x80"
		}
		w.permitted(
			allow("ann", auth.Read, "alarms"), allow("ann", auth.Read, "mqtt:devices/%c/+"), allow("ann", auth.Write, "mqtt:written"),
			allow("ann", auth.Read, "mqtt:part/#"), deny(allow("ann", auth.Read, "mqtt:part/secret")), deny(allow("*", auth.All, "mqtt:shut/#")),
			allow("bob", auth.All, "*"),
		)
		ann := w.connect(v, "d1", as("ann", "a"))
		ann.send(sub(1, "alarms/#", "devices/d1/x", "devices/d2/x", "written", "part/#", "part/secret", "shut/x", "shut/#", "#", "devices/+/x", "other"))
		ann.wants("connack 0x00", "suback 1 [0x01 0x01 "+no+" "+no+" 0x01 "+no+" "+no+" "+no+" 0x01 0x01 "+no+"]")
		bob := w.connect(v, "d2", as("bob", "b"))
		bob.send(pub("alarms/fire", "1", 1, 1), pub("devices/d1/x", "2", 1, 2), pub("devices/d2/x", "3", 1, 3), pub("written", "4", 1, 4),
			pub("part/open", "5", 1, 5), pub("part/secret", "6", 1, 6), pub("other", "7", 1, 7), pub("part/open", "8", 0, 0))
		bob.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00", "puback 4 0x00", "puback 5 0x00", "puback 6 0x00", "puback 7 0x00")
		// A wider filter brings what is allowed of it, once.
		got := ann.all()
		for _, s := range []string{"fire \"1\"", "d1/x \"2\"", "open \"5\"", "open \"8\""} {
			got.take(t, s)
		}
		got.done(t)
	})
}

// Permissions count at the moment a message is sent: those taken away end a subscription's messages, also retained ones and
// those that were sent before and not acknowledged; those given begin them.
func TestPermissionsChangeUnderASubscription(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		root := as("root", "r")
		e := w.permitted(allow("ann", auth.Read, "mqtt"))
		ann := w.connect(v, "a", as("ann", "a"), keep).send(sub(1, "#"))
		ann.wants("connack 0x00", "suback 1 [0x01]")
		retained := pub("kept", "r", 1, 2)
		retained.Retain = true
		p := w.connect(v, "p", root).send(pub("x", "1", 1, 1), retained)
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		ann.wants(`publish x "1" q1 id1`, `publish kept "r" q1 id2`)
		ann.send(ack(1))
		e.set(allow("ann", auth.Read, "mqtt:y/#"))
		p.send(pub("x", "2", 1, 3), pub("y/1", "3", 1, 4))
		p.wants("puback 3 0x00", "puback 4 0x00")
		ann.wants(`publish y/1 "3" q1 id3`)
		ann.conn.Close()
		ann.wants("closed") // and the server knows
		p.send(pub("x", "4", 1, 5), pub("y/2", "5", 1, 6))
		p.wants("puback 5 0x00", "puback 6 0x00")
		ann = w.connect(v, "a", as("ann", "a"), keep)
		ann.wants("connack 0x00 present", `publish y/1 "3" q1 id3 dup`, `publish y/2 "5" q1 id4`)
		ann.send(ack(3), ack(4), sub(2, "#"))
		ann.wants("suback 2 [0x01]") // the retained one is not for her any more
		e.set(allow("ann", auth.Read, "mqtt:y/#"), allow("ann", auth.Read, "mqtt:kept"))
		ann.send(sub(3, "kept"))
		ann.wants("suback 3 [0x01]", `publish kept "r" q1 id5 retain`)
	})
}

// A record of a Kafka client is read by whoever may read its topic, or the name it has here.
func TestRecordsOfKafkaClientsAreReadByPermission(t *testing.T) {
	story(t, func(w *world) {
		w.permitted(allow("ann", auth.Read, "readings"), allow("bob", auth.Read, "mqtt:other"))
		ann := w.connect(packet.V5, "a", as("ann", "a")).send(sub(1, "#", "readings", "other"))
		bob := w.connect(packet.V5, "b", as("bob", "b")).send(sub(1, "#", "readings", "other"))
		ann.wants("connack 0x00", "suback 1 [0x01 0x01 0x87]")
		bob.wants("connack 0x00", "suback 1 [0x01 0x87 0x01]")
		w.log.Produce("readings", 0, record.Record{Value: []byte("1")})
		w.log.Produce("other", 0, record.Record{Value: []byte("2")})
		ann.wants(`publish readings "1" q1 id1`)
		bob.wants(`publish other "2" q1 id1`)
	})
}

// A retained message is read by whoever may read the Kafka topic its publish went to.
func TestRetainedMessagesAreReadByPermission(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.permitted(allow("ann", auth.Read, "alarms"), allow("bob", auth.Read, "mqtt"))
		p := w.connect(v, "p", as("root", "r"))
		for i, topic := range []string{"alarms/fire", "state"} {
			retained := pub(topic, "1", 1, uint16(i+1))
			retained.Retain = true
			p.send(retained)
		}
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		w.connect(v, "a", as("ann", "a")).send(sub(1, "#")).wants("connack 0x00", "suback 1 [0x01]", `publish alarms/fire "1" q1 id1 retain`)
		w.connect(v, "b", as("bob", "b")).send(sub(1, "#")).wants("connack 0x00", "suback 1 [0x01]", `publish state "1" q1 id1 retain`)
	})
}

// Figures are in no Kafka topic: an entry about a filter gives them.
func TestFiguresAreReadByPermission(t *testing.T) {
	story(t, func(w *world) {
		w.permitted(allow("ann", auth.Read, "mqtt"), allow("bob", auth.Read, "mqtt:$SYS/broker/clients/+"))
		w.connect(packet.V5, "a", as("ann", "a")).send(sub(1, "$SYS/#")).wants("connack 0x00", "suback 1 [0x87]")
		bob := w.connect(packet.V5, "b", as("bob", "b")).send(sub(1, "$SYS/#"))
		time.Sleep(time.Minute)
		bob.send(sub(2, "$SYS/broker/#"))
		got := bob.all()
		got.take(t, "connack 0x00")
		got.take(t, "suback 1 [0x01]")
		got.take(t, "suback 2 [0x01]")
		got.take(t, "publish $SYS/broker/clients/connected ")
		for _, s := range got.got {
			if !strings.HasPrefix(s, "publish $SYS/broker/clients/") {
				t.Errorf("got %s", s)
			}
		}
	})
}

func TestWillsNeedPermission(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		e := w.permitted(allow("ann", auth.Write, "mqtt:w/%c"), allow("bob", auth.Read, "mqtt"))
		will := func(topic string) func(*packet.Connect) {
			return func(c *packet.Connect) {
				c.Will = &packet.Will{Topic: topic, Payload: []byte("gone"), QoS: 1, Retain: true}
			}
		}
		no := map[packet.Version]string{packet.V311: "connack 0x05", packet.V5: "connack 0x87"}[v]
		w.connect(v, "a", as("ann", "a"), will("w/b")).wants(no, "closed")
		bob := w.connect(v, "b", as("bob", "b")).send(sub(1, "#"))
		bob.wants("connack 0x00", "suback 1 [0x01]")
		for _, allowed := range []bool{true, false} {
			ann := w.connect(v, "a", as("ann", "a"), will("w/a"))
			ann.wants("connack 0x00")
			if !allowed {
				e.set(allow("bob", auth.Read, "mqtt"))
			}
			ann.conn.Close()
			if allowed {
				bob.wants(`publish w/a "gone" q1 id1`)
			} else {
				bob.wants()
			}
		}
	})
}

// A session is its owner's: nobody else gets it, ends it, or takes its connection, with or without a clean start, before or
// after a restart. What nobody in particular left behind is anybody's.
func TestASessionIsItsOwners(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.guarded()
		w.cfg.AllowAnonymous = true
		no := map[packet.Version]string{packet.V311: "connack 0x02", packet.V5: "connack 0x85"}[v]
		ann, bob := as("ann", "open sesame"), as("bob", "hunter two")
		clean := func(c *packet.Connect) { c.CleanStart = true }
		a := w.connect(v, "x", ann, keep).send(sub(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(v, "x", bob, keep).wants(no, "closed")
		w.connect(v, "x", bob, clean).wants(no, "closed")
		a.send(&packet.Ping{})
		a.wants("pingresp")
		a.send(&packet.Disconnect{})
		a.wants("closed")
		for range 2 {
			w.connect(v, "x", bob, keep).wants(no, "closed")
			w.connect(v, "x").wants(no, "closed")
			w.restart()
		}
		a = w.connect(v, "x", ann, keep)
		a.wants("connack 0x00 present")
		w.connect(v, "x", ann, clean).wants("connack 0x00")
		a.wants(map[packet.Version][]string{packet.V311: {"closed"}, packet.V5: {"disconnect 0x8E", "closed"}}[v]...)

		w.connect(v, "y", keep).send(sub(1, "t")).wants("connack 0x00", "suback 1 [0x01]")
		b := w.connect(v, "y", bob, keep).send(sub(1, "u"))
		b.wants("connack 0x00 present", "suback 1 [0x01]")
		w.restart()
		w.connect(v, "y", ann, keep).wants(no, "closed")
		w.connect(v, "y", bob, keep).wants("connack 0x00 present")
	})
}

// arrived are packets whose order does not matter.
type arrived struct{ got []string }

// all is what has come so far.
func (p *peer) all() *arrived {
	synctest.Wait()
	a := new(arrived)
	for {
		select {
		case pkt := <-p.got:
			a.got = append(a.got, show(pkt))
			continue
		default:
		}
		return a
	}
}

// take takes out one that has the text.
func (a *arrived) take(t *testing.T, text string) {
	t.Helper()
	i := slices.IndexFunc(a.got, func(s string) bool { return strings.Contains(s, text) })
	if i < 0 {
		t.Fatalf("%s is not among %q", text, a.got)
	}
	a.got = slices.Delete(a.got, i, i+1)
}

func (a *arrived) done(t *testing.T) {
	t.Helper()
	if len(a.got) > 0 {
		t.Errorf("there is more: %q", a.got)
	}
}
