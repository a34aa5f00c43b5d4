package mqtt

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/bridge/route"
	"millrace/broker/auth"
	"millrace/broker/record"
)

// will is a will message, who left it and when it goes out. What is not about waiting is constant.
type will struct {
	payload.Message // its topic, properties and client
	body            []byte
	who             auth.Session // Principal and Host of who left it
	delay           uint32       // seconds, the will delay interval (3.1.3.2.2)
	expiry          uint32       // seconds the session outlives the connection, as CONNECT said
	cost            int64        // of the State budget
	durable         atomic.Bool  // the log has its record

	// While it waits, under wills.mu.
	due     time.Time // when its delay is over: until then the client's return ends it
	from    time.Time // not before this, whatever due says; zero: at any time
	at      *deadline
	sending bool // it is on its way into the log
}

// wills are those whose connection has ended. One waits here for its delay, after a start for others to be back, and while
// the disk has no room. Each will that was not published yet, of a connection or waiting, has a record in the sessions topic
// (willrecord.go), which ends in one group of the journal with the message: a crash neither loses a will nor sends it
// twice. Whatever appends such a record holds Server.life, so that they lie in the log as they were decided.
type wills struct {
	s *Server

	mu sync.Mutex // after every other lock but that of the deadlines
	// waiting is by client identifier. One that is sent because its client is back is not here.
	waiting map[string]*will
	sending int64 // bytes of cost on their way
}

const (
	// willGrace is how long wills wait after a start: most of their readers, and of their clients, have to come back too.
	willGrace = 30 * time.Second
	// willRetry is when the log is asked again that had no room for one.
	willRetry = 10 * time.Second
	// willsAtOnce bounds what is on its way into the log when thousands are due in the same moment, in bytes; the next
	// look comes after willPace.
	willsAtOnce, willPace = 256 << 10, 20 * time.Millisecond
)

// newWill takes a will out of a CONNECT of size bytes, which is more than the will takes.
func (c *client) newWill(in *packet.Will, size int64) *will {
	in = cloneWill(in)
	w := &will{
		Message: payload.Message{Topic: in.Topic, Client: c.id, QoS: in.QoS, Retain: in.Retain}, body: in.Payload,
		who: auth.Session{Principal: c.who.Principal, Host: c.who.Host}, expiry: c.expiry, cost: 256 + size,
	}
	take(&w.Message, in.Properties)
	if in.Properties.Has(packet.WillDelay) {
		w.delay = in.Properties.WillDelay
	}
	return w
}

// drop gives back what a will held that is not wanted any more, or was sent.
func (s *Server) drop(w *will) {
	if w != nil {
		s.cfg.State.Release(w.cost)
	}
}

// waits reports whether a will of the client's last connection waits.
func (o *wills) waits(client string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting[client] != nil
}

// settle decides, now that the client has come, about the will of its last connection, and has what that and its own
// change written: c.kept hears when it is durable. The last one is not sent when the delay has not passed and the session
// goes on [MQTT-3.1.3-9]. Another user's return ends nothing. Under life.
func (o *wills) settle(c *client, clean bool) {
	s := o.s
	o.mu.Lock()
	last := o.waiting[c.id]
	delete(o.waiting, c.id)
	if last != nil && last.sending {
		last = nil // the log has it, and its record ends there before ours begins
	}
	o.mu.Unlock()
	over := false // the record of the last one has to end
	if last != nil {
		s.deadlines.cancel(last.at)
		whose := last.who.Principal
		over = !clean && s.cfg.Now().Before(last.due) && (whose == "" || whose == auth.Anonymous || whose == c.who.Principal)
		if over {
			s.drop(last)
		} else {
			o.send(last, true)
		}
	}
	switch own := c.will.Load(); {
	case own != nil && over && last.durable.Load() && own.same(last):
		own.durable.Store(true) // the same again: what the log has of it holds
	case own != nil:
		kept := make(chan error, 1)
		s.store.append([]record.Record{own.record()}, func(err error) {
			own.durable.Store(err == nil)
			kept <- err
		})
		c.kept = kept
	case over:
		kept := make(chan error, 1)
		s.store.append([]record.Record{{Key: willKey(c.id)}}, func(err error) { kept <- err })
		c.kept = kept
	}
}

// willKept waits until what settle had written is durable.
func (c *client) willKept() error {
	if c.kept == nil {
		return nil
	}
	select {
	case err := <-c.kept:
		if err == nil {
			return nil
		}
		c.s.log.Error("mqtt: will could not be written", "client", c.id, "error", err)
		c.s.wills.revoke(c)
		return c.connackRefusal(packet.QuotaExceeded, "the will could not be stored")
	case <-c.ctx.Done():
		return net.ErrClosed
	}
}

// revoke ends the will of a client that takes its leave [MQTT-3.1.2-10] [MQTT-3.14.4-3].
func (o *wills) revoke(c *client) {
	if c.will.Load() == nil {
		return
	}
	o.s.life.Lock()
	defer o.s.life.Unlock()
	if w := c.takeWill(); w != nil {
		o.s.drop(w)
		o.end(c.id)
	}
}

// ended is the end of the connection that left w, whose session lasts so many seconds more [MQTT-3.1.2-8],
// [MQTT-3.1.2-8] of 3.1.1. Under life.
func (o *wills) ended(w *will, expiry uint32) {
	w.due = o.s.cfg.Now().Add(time.Duration(min(w.delay, expiry)) * time.Second)
	if min(w.delay, expiry) == 0 {
		o.send(w, false)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wait(w, w.due)
}

// restore takes a will the log has of an earlier life of the server. Its delay counts from now on, which takes no clock; a
// session that ends before ends it. Under life.
func (o *wills) restore(w *will) {
	now := o.s.cfg.Now()
	o.s.cfg.State.Overdraw(w.cost) // it was acknowledged: it is kept whatever the limit says now
	w.durable.Store(true)
	w.due, w.from = now.Add(time.Duration(min(w.delay, w.expiry))*time.Second), now.Add(willGrace)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wait(w, w.due)
}

// expire sends what waits of a client whose session has ended: that is the latest time for it [MQTT-3.1.3-9]. Under life.
func (o *wills) expire(client string) {
	o.mu.Lock()
	w := o.waiting[client]
	if w == nil || w.sending || !o.s.deadlines.cancel(w.at) {
		o.mu.Unlock()
		return // there is none, or its own deadline is about to send it
	}
	w.due = o.s.cfg.Now()
	o.wait(w, w.due)
	o.mu.Unlock()
}

// wait keeps w until t at least. Holds mu.
func (o *wills) wait(w *will, t time.Time) {
	if t.Before(w.from) {
		t = w.from
	}
	o.waiting[w.Client] = w
	w.at = o.s.deadlines.at(t, func() {
		o.s.life.Lock()
		defer o.s.life.Unlock()
		o.mu.Lock()
		due := o.waiting[w.Client] == w && !w.sending
		o.mu.Unlock()
		if due {
			o.send(w, false)
		}
	})
}

// send publishes a will [MQTT-3.1.2-7] [MQTT-3.1.2-14] [MQTT-3.1.2-15], its user properties in order [MQTT-3.1.3-10], and
// ends its record with it. back says that its client has another connection already: then it is now or never. Under life.
func (o *wills) send(w *will, back bool) {
	s := o.s
	o.mu.Lock()
	if !back && o.sending > 0 && o.sending+w.cost > willsAtOnce {
		o.wait(w, s.cfg.Now().Add(willPace))
		o.mu.Unlock()
		return
	}
	o.sending += w.cost
	w.sending = true
	if !back {
		o.waiting[w.Client] = w
	}
	o.mu.Unlock()
	done := func(err error) { o.landed(w, err) }
	if err := s.mayWrite(&w.who, w.Client, w.Topic); err != nil { // any more: CONNECT was asked too
		done(err)
		return
	}
	p, err := s.own(s.ctx, sessionsTopic)
	if err != nil {
		done(err)
		return
	}
	ends := record.Record{Timestamp: s.cfg.Clock.Now().UnixMilli(), Key: willKey(w.Client)}
	s.publish(s.ctx, &w.Message, w.body, &Part{p, []record.Record{ends}, func(int64, error) {}}, done)
}

// landed notes what became of a will that was sent. It is called by the commit. One the log had no room for is sent later,
// unless its client is back by then and says itself how it is; one that cannot be published at all is over.
func (o *wills) landed(w *will, err error) {
	s := o.s
	o.mu.Lock()
	o.sending -= w.cost
	w.sending = false
	waits := o.waiting[w.Client] == w
	if waits && err != nil && !hopeless(err) {
		o.wait(w, s.cfg.Now().Add(willRetry))
		o.mu.Unlock()
		s.complain("mqtt: will could not be published, trying again", "client", w.Client, "topic", w.Topic, "error", err)
		return
	}
	if waits {
		delete(o.waiting, w.Client)
	}
	o.mu.Unlock()
	s.drop(w)
	if err != nil {
		s.complain("mqtt: will not published", "client", w.Client, "topic", w.Topic, "error", err)
		o.sweep(w.Client, 0)
	}
}

// hopeless reports whether a will that failed so will fail again.
func hopeless(err error) bool {
	for _, known := range []error{ErrNotAuthorized, ErrTooLarge, ErrBadTopic, route.ErrNoRoute, route.ErrTopicName} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// end ends the record of the client's will. Under life.
func (o *wills) end(client string) {
	o.s.store.append([]record.Record{{Key: willKey(client)}}, func(err error) {
		if err != nil {
			o.s.complain("mqtt: will could not be removed, trying again", "client", client, "error", err)
			o.sweep(client, willRetry)
		}
	})
}

// sweep ends the record of the client's will after a while, when nothing is left that it stands for.
func (o *wills) sweep(client string, after time.Duration) {
	s := o.s
	s.deadlines.at(s.cfg.Now().Add(after), func() {
		s.life.Lock()
		defer s.life.Unlock()
		o.mu.Lock()
		left := o.waiting[client] != nil
		o.mu.Unlock()
		if ss := s.sessions[client]; ss != nil && !left {
			ss.mu.Lock()
			left = ss.client != nil && ss.client.will.Load() != nil
			ss.mu.Unlock()
		}
		if !left {
			o.end(client)
		}
	})
}

// read takes a record of the sessions topic into known, by client identifier.
func (o *wills) read(known map[string]*will, client string, r *record.Record) {
	delete(known, client)
	if r.Value == nil {
		return
	}
	w, err := readWill(client, r)
	if err != nil {
		o.s.log.Error("mqtt: will dropped", "client", client, "error", err)
		return
	}
	known[client] = w
}
