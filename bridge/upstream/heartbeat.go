package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// heartbeatsTopic is what MirrorMaker 2 calls the topic of heartbeats. Its tools take CLUSTER.heartbeats for the mark of a cluster
// that records come from, whatever other topics are called (ReplicationPolicy.isHeartbeatsTopic, KIP-382 and KIP-690).
const heartbeatsTopic = "heartbeats"

// aloneLeast is how long a connection must have lasted for a heartbeat alone to say that no other process takes over.
const aloneLeast = time.Hour

// heartbeatConfigs are what the topic is made with: what counts is the last of each link.
var heartbeatConfigs = map[string]string{"cleanup.policy": "compact"}

// heartbeats are what a link tells of itself in MirrorMaker's words. Link.mu guards it.
type heartbeats struct {
	// ready says that the topic is there, next is when a heartbeat is due.
	ready bool
	next  time.Time
	// missing is why the topic cannot be used, "" where it can.
	missing string
	// strikes are how many in a row did not get through, reason why they are held back, "" for nothing.
	strikes int
	reason  string
}

// heartbeats is the topic upstream that this board's go to.
func (c *Config) heartbeats() string { return c.Alias + "." + heartbeatsTopic }

// AppendHeartbeatKey appends the key of a heartbeat as org.apache.kafka.connect.mirror.Heartbeat has it: two strings. Neither
// is longer than 32,767 bytes.
func AppendHeartbeatKey(dst []byte, source, target string) []byte {
	for _, s := range []string{source, target} {
		dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
	}
	return dst
}

// AppendHeartbeatValue appends the value: version 0, and a time in ms.
func AppendHeartbeatValue(dst []byte, at int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0, 0), uint64(at))
}

// readyLocked notes what became of the topic of heartbeats when the link made sure of its own.
func (l *Link) readyLocked(t *Topic) {
	l.beats.missing = ""
	if t.Err != nil || t.Have == 0 {
		l.beats.missing = t.Name + ": " + or(t.Err, errNoTopic).Error()
	}
	l.ownLocked()
}

// ownLocked has heartbeats go only to a topic that is there, and that no topic of the board goes to: one that is made meanwhile has
// it for itself, from before its first record on.
func (l *Link) ownLocked() {
	b, name := &l.beats, l.cfg.heartbeats()
	why := b.missing
	for _, to := range l.table.targets {
		if to.name == name {
			why = "the board's topic " + to.local + " goes to " + name
		}
	}
	if b.ready = why == ""; !b.ready {
		l.beatsHeldLocked(why)
	}
}

// beatsHeldLocked notes why there are no heartbeats, and says it once.
func (l *Link) beatsHeldLocked(reason string) {
	if l.beats.reason != reason {
		l.log.Warn("there are no heartbeats", "reason", reason)
	}
	l.beats.reason = reason
}

// beat is a heartbeat when one is due, and the time is known. It is not due again before the interval is over, whatever becomes
// of it.
func (ln *lane) beat() (_ Record, due bool) {
	if ln.lane != Live || ln.cfg.Heartbeats <= 0 {
		return Record{}, false
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	now := time.Now()
	if !ln.beats.ready || now.Before(ln.beats.next) {
		return Record{}, false
	}
	ln.beats.next = now.Add(ln.cfg.Heartbeats)
	if !ln.env.Clock.Known() {
		return Record{}, false
	}
	at := ln.env.Clock.Now().UnixMilli()
	return Record{
		Topic: ln.cfg.heartbeats(), Timestamp: at, Offset: -1,
		Key: AppendHeartbeatKey(nil, ln.cfg.Alias, ln.cfg.Name), Value: AppendHeartbeatValue(nil, at),
	}, true
}

// beatNow sends the heartbeat that is due, and nothing else.
func (ln *lane) beatNow(ctx context.Context) error {
	ln.filler.reset()
	ln.drafts = ln.drafts[:0]
	return ln.commit(ctx)
}

// beatAlone says whether a lane that has nothing to do for a time is to send a heartbeat: one is due, and the contract lets a topic
// of that name through. What it does not let through now is left out. Else it says how long there is nothing to do.
func (ln *lane) beatAlone(idle time.Duration) (due bool, wait time.Duration) {
	if ln.lane != Live || ln.cfg.Heartbeats <= 0 {
		return false, idle
	}
	clear(ln.ready)
	ln.ready[ln.env.Scheduler.Class(heartbeatsTopic)] = true
	ln.mu.Lock()
	is, next := ln.beats.ready, ln.beats.next
	ln.mu.Unlock()
	if !is {
		return false, idle
	}
	if wait = time.Until(next); wait <= 0 {
		// Without the lock: the bytes of the day may have to be written down first, and Status waits for none of that.
		if class, _, _ := ln.env.Scheduler.Next(ln.env.Clock.Now(), ln.lane, ln.ready); class >= 0 && ln.env.Clock.Known() {
			return true, 0
		}
		wait = ln.cfg.Heartbeats
		ln.mu.Lock()
		ln.beats.next = time.Now().Add(wait)
		ln.mu.Unlock()
	}
	if idle >= 0 {
		wait = min(wait, idle)
	}
	return false, wait
}

// undisturbed says that a heartbeat alone shows that nobody takes over again and again. It writes no cursor that a copy of the
// board could find, so two that are idle would fence each other for ever, each with a success in between: a copy comes back within
// an interval and its back-off.
func (ln *lane) undisturbed() bool {
	return time.Since(ln.since) >= max(aloneLeast, 4*ln.cfg.Heartbeats)
}

// beatDone notes what became of a transaction with a heartbeat. One that did not get through is not tried again for a while, so
// that a topic that cannot be written to does not hold up records.
func (ln *lane) beatDone(err error) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	b := &ln.beats
	if err == nil {
		b.strikes, b.reason = 0, ""
		ln.count.Heartbeats++
		return
	}
	b.next = time.Now().Add(max(ln.cfg.Heartbeats, min(holdFirst<<min(b.strikes, 6), holdMax)))
	b.strikes++
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Topic == ln.cfg.heartbeats() {
		ln.beatsHeldLocked(refused.Error())
	}
}
