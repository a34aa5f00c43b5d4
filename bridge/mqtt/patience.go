package mqtt

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
)

// What became of a publish that was handed to the log: it has not answered, has taken it, has no room.
const (
	asking int32 = iota
	taken
	refused
)

// publishCost is what a publish on its way holds beside its packet: what is called when it is durable, in bytes.
const publishCost = 256

// attempt is a publish that was handed to the log.
type attempt struct {
	state atomic.Int32
	why   error // with refused
}

// intoLog takes the memory of a publish of size bytes and hands it to the log. done is called once. A client of 3.1.1 cannot
// be told that the disk is full: its publish waits here until it is not any more, and what comes behind waits too, but for
// pings. Only what the log refuses later, when publishes behind it may have been taken, is an error for it too.
func (c *client) intoLog(qos byte, size int64, publish func(done func(error)), done func(error)) {
	waits := c.version == packet.V311 && qos > 0
	size += publishCost
	for {
		if err := c.takeRoom(qos, size); err != nil {
			done(err)
			return
		}
		var a attempt
		publish(func(err error) {
			c.s.cfg.Inflight.Release(size)
			if waits && errors.Is(err, ErrFull) && !errors.Is(err, errNoPlace) {
				if a.why = err; a.state.CompareAndSwap(asking, refused) {
					return
				}
			}
			done(err)
		})
		if !waits || a.state.CompareAndSwap(asking, taken) {
			return
		}
		c.s.complain("mqtt: publish waits for room", "client", c.id, "qos", qos, "error", a.why)
		if !c.linger(retryDelay) {
			done(a.why)
			return
		}
	}
}

// inflightPatience is how long an MQTT 5 client waits for memory before it is told that there is none: a card that pauses
// costs nobody an error.
const inflightPatience = 5 * time.Second

// takeRoom takes the memory of a publish that is on its way. While there is none the client is read slowly, but for its
// pings; MQTT 5 can be told instead, and is after a while, and then at once until there is room again. QoS 0 has no answer:
// it waits.
func (c *client) takeRoom(qos byte, n int64) error {
	room := c.s.cfg.Inflight
	if room.TryAcquire(n) {
		c.crowded = false
		return nil
	}
	var until time.Time
	if told := c.version == packet.V5 && qos > 0; told && !c.crowded {
		until = c.s.cfg.Now().Add(inflightPatience)
	} else if told {
		return errCrowded
	}
	switch has, err := c.room(room, n, until); {
	case err != nil || has:
		return err
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	c.crowded = true
	return errCrowded
}

var errCrowded = fmt.Errorf("more is on its way to the disk than memory.limit has room for: %w", ErrFull)
