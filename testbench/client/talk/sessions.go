package talk

import (
	"fmt"
	"time"
)

func takeover(l *lane) {
	old := l.dial("one")
	l.dial("one")
	old.ended(0x8E)
}

// durable is a session that outlives its connection.
func durable(c *Connect) {
	if c.Clean = false; c.Version == 5 {
		c.Expiry = 600
	}
}

func offline(l *lane) {
	for qos := 1; qos <= 2; qos++ {
		session := func(c *Connect) { durable(c); c.Filters[0].QoS = qos }
		name := fmt.Sprint("session", qos)
		l.dial(name, session).End("kill")
		all := l.numbered(l.writer(), 20, qos)
		r := l.dial(name, session)
		l.present(r, true)
		r.wants(all...)
		r.End("leave")
	}
}

func (l *lane) present(p *peer, want bool) {
	l.Helper()
	if l.shows() && p.answer.Present != want {
		l.Errorf("session present is %v, want %v", p.answer.Present, want)
	}
}

func cleanStart(l *lane) {
	l.dial("session", durable).End("leave")
	w := l.writer()
	w.publish(Message{Topic: "a", QoS: 1}, "missed")
	r := l.dial("session")
	l.present(r, false)
	w.publish(end, "end")
	r.wants(end)
	r.End("leave")
	l.present(l.dial("session", durable), false) // the clean one left nothing either
}

func sessionExpiry(l *lane) {
	for _, expiry := range []int{1, 600} {
		name := fmt.Sprint("session", expiry)
		session := func(c *Connect) { c.Clean, c.Expiry = false, expiry }
		l.dial(name, session).End("leave")
		w := l.writer()
		w.publish(Message{Topic: "a", QoS: 1}, "missed")
		if expiry == 1 {
			l.passes(3 * time.Second)
		}
		r := l.dial(name, session)
		l.present(r, expiry > 1)
		w.publish(end, "end")
		if expiry > 1 {
			r.wants(Message{Topic: "a", QoS: 1, Payload: "missed"})
		}
		r.wants(end)
		r.End("leave")
	}
}

// beforeRestart leaves sessions behind, with messages for them, and a retained one.
func (l *lane) beforeRestart() {
	l.Helper()
	for qos := 1; qos <= 2; qos++ {
		l.dial(fmt.Sprint("session", qos), durable, func(c *Connect) { c.Filters = []Filter{{Filter: l.base + "/a", QoS: qos}} }).End("kill")
	}
	w := l.writer()
	w.publish(Message{Topic: "a", QoS: 2}, "one", "two")
	w.publish(Message{Topic: "kept", QoS: 1, Retain: true}, "three")
}

func (l *lane) afterRestart() {
	l.Helper()
	for qos := 1; qos <= 2; qos++ {
		r := l.dial(fmt.Sprint("session", qos), durable, func(c *Connect) { c.Filters = []Filter{{Filter: l.base + "/a", QoS: qos}} })
		l.present(r, true)
		r.wants(Message{Topic: "a", QoS: qos, Payload: "one"}, Message{Topic: "a", QoS: qos, Payload: "two"})
	}
	late := l.dial("late", func(c *Connect) { c.Filters[0].Filter = l.base + "/kept" })
	late.wants(Message{Topic: "kept", QoS: 1, Retain: true, Payload: "three"})
}
