package talk

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/testbench/client/board"
)

// feature is something of MQTT a client may be able to express.
type feature struct {
	name  string
	five  bool     // only MQTT 5 has it
	only  []string // transports that have it; nil: all
	needs []string // of a client
	try   func(l *lane)
}

// cannot is why the client cannot express the feature in a version, "" where it can.
func (f *feature) cannot(c *Client, version int) string {
	if f.five && !slices.Contains(c.Versions, 5) {
		return "speaks 3.1.1 only"
	}
	for _, need := range f.needs {
		if why := c.Lacks[need]; why != "" && (need != Quiet || version == 5) {
			return why
		}
	}
	return ""
}

// restarted is the feature that Run goes through itself, after the others.
const restarted = "session over a restart"

var features = []feature{
	{name: "QoS 0 1 2 both ways", try: everyQoS},
	{name: "retained messages", try: retained},
	{name: "retain as published", five: true, try: asPublished},
	{name: "retain handling", five: true, needs: []string{Handling}, try: handling},
	{name: "message properties", five: true, try: properties},
	{name: "message expiry", five: true, try: messageExpiry},
	{name: "will", try: func(l *lane) { l.will("kill") }},
	{name: "will with all properties", five: true, try: willProperties},
	{name: "will delay", five: true, try: willDelay},
	{name: "will taken back by DISCONNECT", needs: []string{Quiet}, try: willTakenBack},
	{name: "will asked for by DISCONNECT", five: true, needs: []string{Asks}, try: func(l *lane) { l.will("will") }},
	{name: "no local", five: true, needs: []string{Both}, try: noLocal},
	{name: "subscription identifiers", five: true, try: identifiers},
	{name: "shared subscriptions", try: shared},
	{name: "topic aliases to the broker", five: true, try: aliasesIn},
	{name: "topic aliases the client assigns", five: true, needs: []string{Assigns}, try: aliasesAssigned},
	{name: "topic aliases to the client", five: true, needs: []string{AliasesIn}, try: aliasesOut},
	{name: "receive maximum of the client", five: true, try: clientWindow},
	{name: "no more than it while nothing is acknowledged", five: true, needs: []string{Window}, try: fullWindow},
	{name: "receive maximum of the broker", try: brokerWindow},
	{name: "maximum packet size of the client", five: true, try: clientPacket},
	{name: "maximum packet size of the broker", try: brokerPacket},
	{name: "response information", five: true, needs: []string{Connack}, try: response},
	{name: "reason strings and problem information", five: true, needs: []string{Reasons}, try: reasons},
	{name: "server keep alive", five: true, needs: []string{Connack}, try: serverKeepAlive},
	{name: "assigned client identifier", five: true, needs: []string{Connack}, try: assigned},
	{name: "takeover", needs: []string{StaysAway}, try: takeover},
	{name: "offline messages", try: offline},
	{name: "clean start", try: cleanStart},
	{name: "session expiry", five: true, try: sessionExpiry},
	{name: "$SYS", try: sys},
	{name: "passwords", try: passwords},
	{name: "client certificates", only: []string{"tls", "wss"}, try: certificate},
	{name: "enhanced authentication", five: true, needs: []string{Auth}, try: scram},
	{name: "permissions", try: permissions},
}

// end is what comes last: what should not have come would have come before it, in the one partition there is.
var end = Message{Topic: "end", QoS: 1, Payload: "end"}

func everyQoS(l *lane) {
	w := l.writer()
	for _, q := range []int{0, 1, 2} {
		r := l.dial("reader", func(c *Connect) { c.Filters[0].QoS = q })
		for published := range 3 {
			m := Message{Topic: "a", QoS: published}
			w.publish(m, "one", "two")
			for _, text := range []string{"one", "two"} {
				r.wants(Message{Topic: "a", QoS: min(q, published), Payload: text})
			}
		}
		r.End("leave")
	}
}

func retained(l *lane) {
	live, w := l.dial("live"), l.writer()
	m := Message{Topic: "a", QoS: 1, Retain: true}
	w.publish(m, "old", "new")
	w.publish(Message{Topic: "b", QoS: 1, Retain: true}, "gone", "")
	// Who is there gets publishes as they come, without the flag.
	live.wants(Message{Topic: "a", QoS: 1, Payload: "old"}, Message{Topic: "a", QoS: 1, Payload: "new"},
		Message{Topic: "b", QoS: 1, Payload: "gone"}, Message{Topic: "b", QoS: 1})
	late := l.dial("late")
	m.Payload = "new"
	late.wants(m)
	w.publish(end, "end")
	late.wants(end)
}

func asPublished(l *lane) {
	r, w := l.dial("reader", func(c *Connect) { c.Filters[0].AsPublished = true }), l.writer()
	m := Message{Topic: "a", QoS: 1, Retain: true, Payload: "kept"}
	w.publish(m, m.Payload)
	r.wants(m)
	w.publish(end, "end")
	r.wants(end)
}

func handling(l *lane) {
	w := l.writer()
	m := Message{Topic: "a", QoS: 1, Retain: true, Payload: "kept"}
	w.publish(m, m.Payload)
	// 0 always, 1 where the subscription is new, 2 never; twice in one session.
	for how, gets := range map[int][2]bool{0: {true, true}, 1: {true, false}, 2: {}} {
		for _, want := range gets {
			r := l.dial(fmt.Sprint("reader", how), func(c *Connect) { c.Filters[0].Handling, c.Clean, c.Expiry = how, false, 600 })
			if want {
				r.wants(m)
			}
			w.publish(end, "end")
			r.wants(end)
			r.End("leave")
		}
	}
}

// rich is a message with all properties there are.
func rich(topic string) Message {
	return Message{
		Topic: topic, QoS: 1, Payload: "rich", Text: true, Expiry: 3600, ContentType: "text/plain", Response: "open/answers", Correlation: "id-7",
		User: "name=one,name=two,other=é",
	}
}

func properties(l *lane) {
	r, w := l.dial("reader"), l.writer()
	w.publish(rich("a"), "rich")
	w.publish(end, "end")
	r.wants(rich("a"), end)
}

func messageExpiry(l *lane) {
	w := l.writer()
	durable := func() *peer {
		return l.dial("durable", func(c *Connect) { c.Clean, c.Expiry = false, 600 })
	}
	durable().End("leave")
	m := Message{Topic: "a", QoS: 1, Retain: true, Expiry: 1}
	w.publish(m, "old")
	l.passes(2 * time.Second)
	w.publish(end, "end")
	// Neither for who was away, nor among what is retained.
	durable().wants(end)
	late := l.dial("late")
	w.publish(end, "end")
	late.wants(end)
}

// passes waits until a time that is the broker's matter, of an expiry or a delay, has gone by.
func (l *lane) passes(d time.Duration) {
	l.Helper()
	select {
	case <-time.After(d):
	case <-l.Context().Done():
		l.Fatal("the test is over")
	}
}

// will has the will of a client sent.
func (l *lane) will(how string) {
	l.Helper()
	for qos := range 3 {
		topic := fmt.Sprint("will", qos)
		r := l.dial("reader", func(c *Connect) { c.Filters[0].Filter = l.base + "/" + topic })
		will := Message{Topic: l.base + "/" + topic, QoS: qos, Retain: true, Payload: "gone"}
		l.dial("crasher", func(c *Connect) { c.Will, c.Filters[0].Filter = &will, l.base+"/nothing" }).End(how)
		r.wants(Message{Topic: topic, QoS: qos, Payload: "gone"})
		r.End("leave")
		late := l.dial("late", func(c *Connect) { c.Filters[0].Filter = will.Topic })
		late.wants(Message{Topic: topic, QoS: qos, Payload: "gone", Retain: true})
		late.End("leave")
	}
}

func willProperties(l *lane) {
	r := l.dial("reader")
	will := rich(l.base + "/will")
	l.dial("crasher", func(c *Connect) { c.Will, c.Filters[0].Filter = &will, l.base+"/nothing" }).End("kill")
	r.wants(rich("will"))
}

func willDelay(l *lane) {
	r := l.dial("reader")
	crasher := func(delay int) *peer {
		will := Message{Topic: l.base + "/will", QoS: 1, Payload: fmt.Sprint("after ", delay), Delay: delay}
		return l.dial("crasher", func(c *Connect) {
			c.Will, c.Clean, c.Expiry, c.Filters[0].Filter = &will, false, 600, l.base+"/nothing"
		})
	}
	crasher(600).End("kill")
	again := crasher(1) // who is back in time has no will sent
	began := time.Now()
	again.End("kill")
	r.wants(Message{Topic: "will", QoS: 1, Payload: "after 1"})
	if took := time.Since(began); took < time.Second-50*time.Millisecond {
		l.Errorf("the will came after %v", took)
	}
}

func willTakenBack(l *lane) {
	r := l.dial("reader")
	will := Message{Topic: l.base + "/will", QoS: 1, Payload: "no"}
	l.dial("leaver", func(c *Connect) { c.Will, c.Filters[0].Filter = &will, l.base+"/nothing" }).End("leave")
	// It is read before what another connection sends later, or the client waits for the end of the first.
	l.writer().publish(end, "end")
	r.wants(end)
}

func noLocal(l *lane) {
	r := l.dial("reader", func(c *Connect) { c.Filters[0].NoLocal = true })
	r.publish(Message{Topic: "a", QoS: 1}, "mine")
	l.writer().publish(end, "end")
	r.wants(end)
}

func identifiers(l *lane) {
	r := l.dial("reader", func(c *Connect) { c.SubscriptionID = 268_435_455 })
	l.writer().publish(end, "end")
	want := end
	want.IDs = "268435455"
	r.wants(want)
}

// shared: each message goes to exactly one member, also while one leaves, and none is lost that a member had not acknowledged
// when it was killed.
func shared(l *lane) {
	const n = 30
	member := func(name string) *peer {
		return l.dial(name, func(c *Connect) { c.Filters[0] = Filter{Filter: "$share/crew/" + l.base + "/#", QoS: 1} })
	}
	members := []*peer{member("slow"), member("a"), member("b"), member("c")}
	w := l.writer()
	number := 0
	batch := func() map[string]bool {
		all, texts := map[string]bool{}, []string(nil)
		for range n {
			number++
			text := fmt.Sprint(number)
			all[text] = true
			texts = append(texts, text)
		}
		w.publish(Message{Topic: "work", QoS: 1}, texts...)
		return all
	}
	// takes has the members take all of a batch, each message once. Again comes only what one took that is gone: its
	// acknowledgement may have been on its way.
	taken := map[string]*peer{}
	takes := func(batch map[string]bool, from ...*peer) {
		l.Helper()
		for len(batch) > 0 {
			m, by := l.either(from)
			if before := taken[m.Payload]; before != nil && !slices.Contains(from, before) {
				continue
			}
			if !batch[m.Payload] || m.Topic != l.base+"/work" {
				l.Fatalf("%+v came twice, or was never published", m)
			}
			delete(batch, m.Payload)
			taken[m.Payload] = by
		}
	}
	takes(batch(), members...)
	members[len(members)-1].End("leave")
	members = members[:len(members)-1]
	takes(batch(), members...)
	// What the slow one was sent is another's when it is killed.
	slow, rest := members[0], members[1:]
	slow.Hold(true)
	all := batch()
	slow.End("kill")
	takes(all, rest...)
}

// either is the next message of one of the peers.
func (l *lane) either(from []*peer) (Message, *peer) {
	l.Helper()
	patient := time.After(patience)
	for {
		for _, p := range from {
			select {
			case m := <-p.Messages():
				return m, p
			default:
			}
		}
		select {
		case <-patient:
			l.Fatal("a message is lost")
		case <-time.After(time.Millisecond):
		}
	}
}

func aliasesIn(l *lane) {
	r, w := l.dial("reader"), l.writer()
	for alias := range 2 {
		topic := fmt.Sprint("a", alias)
		w.publish(Message{Topic: topic, QoS: 1, Alias: alias + 1}, "named", "numbered", "again")
		for _, text := range []string{"named", "numbered", "again"} {
			r.wants(Message{Topic: topic, QoS: 1, Payload: text})
		}
	}
}

func aliasesAssigned(l *lane) {
	r := l.dial("reader")
	w := l.dial("writer", func(c *Connect) { c.Filters, c.AssignAliases = nil, true })
	for i := range 4 {
		for _, topic := range []string{"a", "b"} {
			a := w.Publish(Message{Topic: l.base + "/" + topic, QoS: 1}, []string{"x"})[0]
			if a.Code != 0 || (a.Aliases > 0) != (i > 0) {
				l.Errorf("publish %d to %s is answered with %+v", i, topic, a)
			}
			r.wants(Message{Topic: topic, QoS: 1, Payload: "x"})
		}
	}
}

func aliasesOut(l *lane) {
	r, w := l.dial("reader", func(c *Connect) { c.TopicAliasMaximum = 2 }), l.writer()
	for range 4 {
		for _, topic := range []string{"a", "b", "c"} {
			w.publish(Message{Topic: topic, QoS: 1}, "x")
			r.wants(Message{Topic: topic, QoS: 1, Payload: "x"})
		}
	}
	if r.bare == 0 {
		l.Error("every message came with the name of its topic")
	}
}

func clientWindow(l *lane) {
	w := l.writer()
	for qos := 1; qos <= 2; qos++ {
		r := l.dial("reader", func(c *Connect) { c.ReceiveMaximum, c.Filters[0].QoS = 2, qos })
		r.wants(l.numbered(w, 10, qos)...) // one that counts ends the connection when they are too many
		r.End("leave")
	}
}

func fullWindow(l *lane) {
	r, w := l.dial("reader", func(c *Connect) { c.ReceiveMaximum = 2 }), l.writer()
	other := l.dial("other")
	r.Hold(true)
	all := l.numbered(w, 10, 1)
	other.wants(all...)
	if n := len(r.Messages()); n > 2 {
		l.Errorf("%d messages are there, and none is acknowledged", n)
	}
	r.Hold(false)
	r.wants(all...)
}

func brokerWindow(l *lane) {
	r := l.dial("reader")
	w := l.dial("writer", func(c *Connect) { c.Filters = nil; l.at(c, true) })
	if got := w.answer.Receive; l.five() && l.shows() && got != narrowReceive {
		l.Errorf("the client is told a receive maximum of %d", got)
	}
	for qos := 1; qos <= 2; qos++ {
		r.wants(l.numbered(w, 10*narrowReceive, qos)...)
	}
}

// numbered publishes n messages at once.
func (l *lane) numbered(w *peer, n, qos int) (all []Message) {
	l.Helper()
	var texts []string
	for i := range n {
		texts = append(texts, fmt.Sprint(i))
		all = append(all, Message{Topic: "a", QoS: qos, Payload: texts[i]})
	}
	w.publish(Message{Topic: "a", QoS: qos}, texts...)
	return all
}

func clientPacket(l *lane) {
	r := l.dial("reader", func(c *Connect) { c.MaximumPacketSize = 500 })
	w := l.writer()
	w.publish(Message{Topic: "a", QoS: 1}, strings.Repeat("x", 500))
	w.publish(end, "end")
	r.wants(end)
}

func brokerPacket(l *lane) {
	r := l.dial("reader")
	w := l.dial("writer", func(c *Connect) { c.Filters = nil; l.at(c, true) })
	if got := w.answer.Packet; l.five() && l.shows() && got != narrowPacket {
		l.Errorf("the client is told a maximum packet size of %d", got)
	}
	large := strings.Repeat("x", narrowPacket-200)
	w.publish(Message{Topic: "a", QoS: 1}, large)
	r.wants(Message{Topic: "a", QoS: 1, Payload: large})
	// A client that does not look at what it was told is disconnected.
	if a := w.Publish(Message{Topic: l.base + "/a", QoS: 1}, []string{large + large})[0]; a.Code == 0 {
		l.Error("a packet over the maximum was acknowledged")
	}
	l.dial("another", func(c *Connect) { c.Filters = nil }).publish(end, "end")
	r.wants(end)
}

func response(l *lane) {
	if got := l.dial("asks", func(c *Connect) { c.RequestResponse = true }).answer.Response; got != "open/answers/"+board.Ann {
		l.Errorf("who asks is told %q", got)
	}
	if got := l.dial("does not").answer.Response; got != "" {
		l.Errorf("who does not ask is told %q", got)
	}
}

func reasons(l *lane) {
	for _, no := range []bool{false, true} {
		w := l.dial(fmt.Sprint("writer", no), func(c *Connect) { c.Filters, c.NoProblem = nil, no })
		if a := w.Publish(Message{Topic: "shut/x", QoS: 1}, []string{"no"})[0]; a.Code != 0x87 || (a.Reason == "") != no {
			l.Errorf("problem information unwanted %v: a refused publish is answered with %+v", no, a)
		}
	}
}

func serverKeepAlive(l *lane) {
	for _, asked := range []int{narrowKeepAlive, narrowKeepAlive + 1} {
		p := l.dial(fmt.Sprint(asked), func(c *Connect) { c.KeepAlive = asked; l.at(c, true) })
		if got := p.answer.KeepAlive; got != 0 && asked <= narrowKeepAlive || got != narrowKeepAlive && asked > narrowKeepAlive {
			l.Errorf("who asks for a keep alive of %d is told %d", asked, got)
		}
	}
}

func assigned(l *lane) {
	var ids []string
	for range 2 {
		ids = append(ids, l.dial("", func(c *Connect) { c.ClientID = "" }).answer.Assigned)
	}
	if ids[0] == "" || ids[0] == ids[1] {
		l.Errorf("the identifiers are %q", ids)
	}
}

func sys(l *lane) {
	r := l.dial("reader", func(c *Connect) {
		c.Filters = []Filter{{Filter: "$SYS/broker/version", QoS: 1}}
	})
	if m := r.next(); m.Topic != "$SYS/broker/version" || !m.Retain || m.QoS != 0 || !strings.HasPrefix(m.Payload, "millrace version ") {
		l.Errorf("got %+v", m)
	}
}
