package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"millrace/bridge/mqtt/packet"
)

// unreleased are the packet identifiers of a session's QoS 2 publishes that the client has not released yet: a publish
// with one of them is a repetition [MQTT-4.3.3-10], [MQTT-4.3.3-2] of 3.1.1. Those of a durable session are in the sessions topic too, each in a
// record of its own that lands with the message; the record that ends it is durable before PUBCOMP. Safe for concurrent
// use: its lock comes after every other, and is not held while anything is appended.
type unreleased struct {
	state Budget // each identifier takes idCost bytes of it

	mu  sync.Mutex
	ids []uint16 // of stored messages, ascending
	// moving are those whose record is on its way. Invariant: none of them is in ids.
	moving []moving
	ended  bool // the session has: nothing is taken from the budget or given back any more
}

// moving is an identifier that comes, or goes.
type moving struct {
	id   uint16
	goes bool
	done []func(error) // the publish or release, and its repetitions meanwhile
}

const (
	idCost = 8 // bytes of memory, about
	// unreleasedMax is how many identifiers a client of MQTT 5 may leave unreleased. It was told receive_maximum, which is
	// less; some take no notice, and are paced as long as this is kept. 3.1.1 knows no limit but the 65,535 there are.
	unreleasedMax = 4096
)

// find is the place of id in moving, -1 when it is not there. Holds mu.
func (u *unreleased) find(id uint16) int {
	return slices.IndexFunc(u.moving, func(m moving) bool { return m.id == id })
}

// full reports whether a publish with id would be one too many of a client of MQTT 5.
func (u *unreleased) full(id uint16) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, known := slices.BinarySearch(u.ids, id)
	return !known && u.find(id) < 0 && len(u.ids)+len(u.moving) >= unreleasedMax
}

// begin takes a publish. When it is fresh the caller stores the message and calls land; a repetition is answered as the
// first was, or will be. done is called once.
func (u *unreleased) begin(id uint16, done func(error)) (fresh bool) {
	u.mu.Lock()
	_, known := slices.BinarySearch(u.ids, id)
	i := u.find(id)
	var err error
	switch {
	case i >= 0 && !u.moving[i].goes:
		u.moving[i].done = append(u.moving[i].done, done)
		u.mu.Unlock()
		return false
	case known, i >= 0:
	case u.ended:
		err = errSessionOver
	case !u.state.TryAcquire(idCost):
		err = fmt.Errorf("no more packet identifiers can be remembered: %w", ErrFull)
	default:
		u.moving = append(u.moving, moving{id: id, done: []func(error){done}})
		u.mu.Unlock()
		return true
	}
	u.mu.Unlock()
	done(err)
	return false
}

// What release found.
type release byte

const (
	releaseUnknown release = iota // done will not be called
	releaseEarly                  // the same: the publish has not been answered yet
	releaseFresh                  // the caller makes it durable and calls land
	releaseAgain                  // done is called when the first one is durable
)

// release takes a PUBREL.
func (u *unreleased) release(id uint16, done func(error)) release {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := u.find(id); i >= 0 {
		if !u.moving[i].goes {
			return releaseEarly
		}
		u.moving[i].done = append(u.moving[i].done, done)
		return releaseAgain
	}
	i, known := slices.BinarySearch(u.ids, id)
	if !known {
		return releaseUnknown
	}
	u.ids = slices.Delete(u.ids, i, i+1)
	u.moving = append(u.moving, moving{id: id, goes: true, done: []func(error){done}})
	return releaseFresh
}

// land ends what begin or release began. It is called by the commit.
func (u *unreleased) land(id uint16, err error) {
	u.mu.Lock()
	i := u.find(id)
	m := u.moving[i]
	if u.moving = slices.Delete(u.moving, i, i+1); len(u.moving) == 0 {
		u.moving = nil
	}
	switch stays := (err == nil) != m.goes; {
	case stays:
		u.put(id)
	case !u.ended:
		u.state.Release(idCost)
	}
	u.mu.Unlock()
	for _, done := range m.done {
		done(err)
	}
}

func (u *unreleased) put(id uint16) {
	if i, known := slices.BinarySearch(u.ids, id); !known {
		u.ids = slices.Insert(u.ids, i, id)
	}
}

// load takes an identifier the log remembers.
func (u *unreleased) load(id uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state.Overdraw(idCost)
	u.put(id)
}

// all are the identifiers that have a record, or may come to have one.
func (u *unreleased) all() []uint16 {
	u.mu.Lock()
	defer u.mu.Unlock()
	ids := slices.Clone(u.ids)
	for _, m := range u.moving {
		ids = append(ids, m.id)
	}
	return ids
}

// end gives back what the identifiers took: the session is over.
func (u *unreleased) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.ended = true
		u.state.Release(idCost * int64(len(u.ids)+len(u.moving)))
	}
}

// beginRelease waits until fewer PUBRELs of the connection than its receive maximum are on their way into the log, or are
// repetitions of such: a client that sends them faster than the disk takes them is read slowly. false: the connection ends.
func (a *acks) beginRelease() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.releasing >= a.c.limits().ReceiveMaximum && !a.closed {
		a.pause()
	}
	if a.closed {
		return false
	}
	a.releasing++
	return true
}

func (a *acks) endRelease() {
	a.mu.Lock()
	a.releasing--
	a.c.nudge()
	a.mu.Unlock()
}

var errRelease = errors.New("the release could not be stored")

// onPubrel forgets an identifier, durably, and says so [MQTT-4.3.3-11] [MQTT-4.3.3-12].
func (c *client) onPubrel(id uint16) error {
	ss := c.session
	if !c.acks.beginRelease() {
		return nil
	}
	found := ss.unreleased.release(id, func(err error) {
		c.acks.endRelease()
		if err == nil {
			c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
			return
		}
		// The client will try again when it comes back. There is no other way to say no to a PUBREL.
		c.s.complain("mqtt: release refused", "client", c.id, "error", err)
		c.s.deadlines.at(c.s.cfg.Now().Add(refusalDelay), func() { c.end(packet.QuotaExceeded, errRelease.Error()) })
	})
	if found == releaseUnknown || found == releaseEarly {
		c.acks.endRelease()
	}
	switch found {
	case releaseUnknown:
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id, Reason: packet.PacketIDNotFound}) // 3.1.1: as any other
	case releaseEarly:
		return &packet.Error{Reason: packet.ProtocolError, Why: "PUBREL for a publish that was not answered yet"}
	case releaseFresh:
		if !ss.durable() {
			ss.unreleased.land(id, nil)
			return nil
		}
		c.s.store.release(ss, id)
	}
	return nil
}
