package mqtt

import (
	"slices"

	"millrace/bridge/mqtt/packet"
)

// subscription is one filter of a session, or the one of a group. Its options are constant; a changed subscription is a
// new one.
type subscription struct {
	session *session // nil: the group's own
	group   *group   // nil: not shared
	filter  string   // of a member with $share and the name
	qos     byte
	noLocal bool
	asIs    bool   // retain as published
	id      uint32 // 0: none
	retain  byte   // retain handling
	gone    bool   // replaced or ended; under session.mu
	// starts are the offsets it begins at, in partitions whose cursor has not passed them yet.
	starts []position
}

// begins is the first offset the subscription wants of st. Under ss.mu.
func (sub *subscription) begins(st *stream) int64 {
	for _, p := range sub.starts {
		if p.st == st {
			return p.offset
		}
	}
	return 0
}

// passed drops the start of st once the cursor is at it.
func (sub *subscription) passed(st *stream, offset int64) {
	if i := slices.IndexFunc(sub.starts, func(p position) bool { return p.st == st && p.offset <= offset }); i >= 0 {
		if sub.starts = slices.Delete(sub.starts, i, i+1); len(sub.starts) == 0 {
			sub.starts = nil
		}
	}
}

// onSubscribe answers each filter in turn [MQTT-3.8.4-5] [MQTT-3.8.4-6], when a durable session's record of it is
// durable [MQTT-3.8.4-1].
func (c *client) onSubscribe(p *packet.Subscribe) error {
	if !c.answerable(len(p.Filters)) {
		return errAnswerTooLarge
	}
	ack := &packet.Suback{ID: p.ID} // [MQTT-3.8.4-2] [MQTT-2.2.1-6]
	var id uint32
	if p.Properties.Has(packet.SubscriptionID) {
		id = p.Properties.SubscriptionIDs[0]
	}
	var replays []replay
	for _, f := range p.Filters {
		reason := c.refusesFilter(f.Filter)
		if reason == packet.Success {
			var r replay
			var owed bool
			if reason, r, owed = c.subscribe(f, id); owed {
				replays = append(replays, r)
			}
		}
		if c.version != packet.V5 && reason.Failed() {
			reason = packet.UnspecifiedError // 0x80 is the only failure 3.1.1 knows [MQTT-3.9.3-2]
		}
		ack.Reasons = append(ack.Reasons, reason)
	}
	if err := c.saved(); err != nil {
		return err
	}
	c.send(ack)
	for _, r := range replays {
		if sysFilter(r.sub.filter) {
			c.s.sys.greet(r.sub)
		}
	}
	if len(replays) > 0 {
		ss := c.session
		ss.mu.Lock()
		if ss.client == c {
			ss.replays = append(ss.replays, replays...)
			ss.pushLocked()
		}
		ss.mu.Unlock()
	}
	return nil
}

// saved makes a durable session's subscriptions durable.
func (c *client) saved() error {
	ss := c.session
	c.s.life.Lock()
	mine := c.s.sessions[c.id] == ss && ss.expiry > 0
	ss.mu.Lock()
	mine = mine && ss.client == c
	ss.mu.Unlock()
	ss.stored = ss.stored || mine
	c.s.life.Unlock()
	if !mine {
		return nil
	}
	if err := c.durably(func(done func(error)) { c.s.store.put(ss, done) }); err != nil {
		c.s.log.Error("mqtt: session could not be written", "client", c.id, "error", err)
		return &packet.Error{Reason: packet.QuotaExceeded, Why: "the session could not be stored"}
	}
	return nil
}

// refusesFilter says why there can be no such subscription. Wildcards are served ([MQTT-3.8.3-2] of 3.1.1).
func (c *client) refusesFilter(filter string) packet.Reason {
	if !packet.ValidFilter(filter) || c.tooLong(filter) {
		return packet.InvalidTopicFilter
	}
	if shared, valid, ok := shareOf(filter); ok {
		switch {
		case !valid:
			return packet.InvalidTopicFilter
		case sysFilter(shared):
			return packet.ImplementationError // the figures are nobody's work, and in no log
		}
		filter = shared
	}
	if !c.maySubscribe(filter) {
		return packet.NotAuthorized
	}
	return packet.Success
}

// subscribe makes or replaces one subscription and says what retained messages it is owed. What is granted is what was
// asked for [MQTT-3.8.4-7] [MQTT-3.2.2-10].
func (c *client) subscribe(f packet.Subscription, id uint32) (reason packet.Reason, owed replay, any bool) {
	ss := c.session
	sub := &subscription{
		session: ss, filter: f.Filter, qos: f.QoS, noLocal: f.NoLocal, asIs: f.RetainAsPublished, id: id,
		retain: f.RetainHandling,
	}
	ss.mu.Lock()
	i := slices.IndexFunc(ss.subs, func(e *subscription) bool { return e.filter == f.Filter })
	full := i < 0 && len(ss.subs) >= c.limits().MaxSubscriptions
	if i >= 0 {
		// Replacing loses nothing of what the old one still had to come [MQTT-3.8.4-3] [MQTT-3.8.4-4].
		sub.starts = slices.Clone(ss.subs[i].starts)
	}
	ss.mu.Unlock()
	if full {
		return packet.QuotaExceeded, replay{}, false
	}
	_, _, shared := shareOf(f.Filter)
	if i < 0 && !shared {
		c.begin(sub)
	}
	if reason := c.enter(sub, i, shared); reason != packet.Success || shared { // which is owed no retained messages (4.8.2)
		if !reason.Failed() {
			reason = packet.Reason(sub.qos)
		}
		return reason, replay{}, false
	}
	// Retain handling: 0 always, 1 for new subscriptions only, 2 never [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11].
	if f.RetainHandling == 0 || f.RetainHandling == 1 && i < 0 {
		if end, ok := c.s.retained.end(f.Filter); ok || sysFilter(f.Filter) {
			return packet.Reason(sub.qos), replay{sub: sub, end: end}, true
		}
	}
	return packet.Reason(sub.qos), replay{}, false
}

// begin notes where a new subscription starts, in the partitions where the session's cursor is not there yet: it gets
// nothing older than itself.
func (c *client) begin(sub *subscription) {
	ss := c.session
	for _, st := range c.s.streams.reached(sub.filter) {
		high := st.part.High()
		st.mu.Lock()
		ss.mu.Lock()
		next, behind := ss.lag[st]
		if !behind {
			next = st.pos
		}
		if next < high {
			sub.starts = append(sub.starts, position{st, high})
		}
		ss.mu.Unlock()
		st.mu.Unlock()
	}
}

// enter puts sub into the session, in the place of the i-th when i >= 0, and into the index, or its group. The new one is in
// the index before the old one is out, so that no message falls between.
func (c *client) enter(sub *subscription, i int, shared bool) packet.Reason {
	ss := c.session
	c.s.life.Lock() // detach takes the session's subscriptions out of the index: not between our two steps
	defer c.s.life.Unlock()
	ss.mu.Lock()
	mine := ss.client == c
	ss.mu.Unlock()
	if !mine {
		return packet.UnspecifiedError // taken over meanwhile
	}
	if i < 0 {
		if !c.s.cfg.State.TryAcquire(filterCost(sub.filter)) {
			return packet.QuotaExceeded
		}
		if shared {
			if reason := c.s.join(sub); reason != packet.Success {
				c.s.cfg.State.Release(filterCost(sub.filter))
				return reason
			}
		}
		c.s.charge(ss, filterCost(sub.filter))
	}
	if !shared {
		c.s.index.add(sub)
	}
	ss.mu.Lock()
	var old *subscription
	if i >= 0 {
		old = ss.subs[i]
		old.gone = true
		sub.group = old.group // before anybody sees it
		ss.subs[i] = sub
	} else {
		ss.subs = append(ss.subs, sub)
	}
	ss.mu.Unlock()
	switch {
	case old == nil:
	case shared:
		old.group.replace(old, sub)
	default:
		c.s.index.remove(old)
	}
	return packet.Success
}

// onUnsubscribe ends subscriptions [MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.10.4-6]; messages already sent run their
// course [MQTT-3.10.4-3].
func (c *client) onUnsubscribe(p *packet.Unsubscribe) error {
	if !c.answerable(len(p.Filters)) {
		return errAnswerTooLarge
	}
	ack := &packet.Unsuback{ID: p.ID} // [MQTT-3.10.4-5] [MQTT-2.2.1-6]
	for _, f := range p.Filters {
		reason := packet.NoSubscriptionExisted
		switch {
		case !packet.ValidFilter(f):
			reason = packet.InvalidTopicFilter
		case c.unsubscribe(f):
			reason = packet.Success
		}
		ack.Reasons = append(ack.Reasons, reason) // [MQTT-3.11.3-1]
	}
	if err := c.saved(); err != nil {
		return err
	}
	c.send(ack)
	return nil
}

// unsubscribe ends a subscription: nothing more is taken for it [MQTT-3.10.4-2].
func (c *client) unsubscribe(filter string) bool {
	ss := c.session
	c.s.life.Lock()
	defer c.s.life.Unlock()
	ss.mu.Lock()
	i := slices.IndexFunc(ss.subs, func(e *subscription) bool { return e.filter == filter })
	if i < 0 || ss.client != c {
		ss.mu.Unlock()
		return false
	}
	old := ss.subs[i]
	old.gone = true
	ss.subs = slices.Delete(ss.subs, i, i+1)
	ss.mu.Unlock()
	if old.group != nil {
		c.s.part(old)
	} else {
		c.s.index.remove(old)
	}
	c.s.charge(ss, -filterCost(filter))
	return true
}
