package mqtt

import (
	"strings"

	"millrace/bridge/mqtt/packet"
)

// aliasBytes is how many bytes of topics a client is given aliases for, at most.
const aliasBytes = 1 << 10

// told are the topics a client knows by a number of ours (3.3.2.3.4), on this connection only [MQTT-3.3.2-7]. The first
// topics it is sent get one; others are sent by name. Guarded by output.mu.
type told struct {
	most  uint16 // the client's maximum [MQTT-3.1.2-26] [MQTT-3.3.2-11], and ours; 0: none at all [MQTT-3.1.2-27]
	by    map[string]uint16
	bytes int
}

// alias is the number a topic is sent with, 0 for none. known says that the client has it, so that the topic is left out.
func (t *told) alias(topic string) (number uint16, known bool) {
	if number, known = t.by[topic]; known {
		return number, true
	}
	if len(t.by) >= int(t.most) || t.bytes+len(topic) > aliasBytes {
		return 0, false
	}
	return uint16(len(t.by)) + 1, false
}

// learn notes that the client was sent a topic with its number.
func (t *told) learn(topic string, number uint16) {
	if t.by == nil {
		t.by = make(map[string]uint16, t.most)
	}
	t.by[strings.Clone(topic)] = number
	t.bytes += len(topic)
}

// appendTo appends the PUBLISH that carries m to what the client is sent next, with a topic alias where it may. Under
// output.mu.
func (c *client) appendTo(dst []byte, m *message, head packet.Publish, expiry uint32, ids []uint32) ([]byte, outcome) {
	n := len(dst)
	head.Topic = m.topic
	number, known := c.told.alias(m.topic)
	if number != 0 {
		aliased := head
		if known {
			aliased.Topic = ""
		}
		dst = m.appendPublish(dst, c.version, aliased, number, expiry, ids)
		if len(dst)-n <= c.maxPacket {
			if !known {
				c.told.learn(m.topic, number)
			}
			return dst, done
		}
		if known {
			return dst[:n], tooLarge
		}
		dst = dst[:n] // it may be the alias that is too much
	}
	if dst = m.appendPublish(dst, c.version, head, 0, expiry, ids); len(dst)-n > c.maxPacket {
		return dst[:n], tooLarge
	}
	return dst, done
}
