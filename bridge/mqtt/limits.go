package mqtt

import (
	"fmt"

	"millrace/bridge/mqtt/packet"
)

// Limits are what one client may do. 0 is, for a Config, the default that is named here, and for a Listener what the Config has.
type Limits struct {
	MaxPacketSize      int // of what it sends, in bytes; 1000 KiB
	MaxSubscriptions   int // of its session; 256. Those that a session brings from another listener stay
	MaxTopicLevels     int // of a topic or filter it names; 64
	ReceiveMaximum     int // publishes of it on their way; 64
	MaxInflight        int // QoS 1 and 2 messages to it that it has not acknowledged or completed; 64
	MaxKeepAlive       int // seconds; negative, the default: as long as it likes, or for ever
	TopicAliases       int // it may set; 16
	TopicAliasesBroker int // at most, it is sent; 16
}

// bound is a number that is filled in where it is 0, and checked.
type bound struct {
	v           *int
	def, lo, hi int
	name        string
}

func (b bound) fill() error {
	if *b.v == 0 {
		*b.v = b.def
	}
	if *b.v < b.lo || *b.v > b.hi {
		return fmt.Errorf("mqtt: %s is %d, want %d to %d", b.name, *b.v, b.lo, b.hi)
	}
	return nil
}

// fill takes what is 0 from def.
func (l *Limits) fill(def Limits) error {
	l.MaxKeepAlive = max(l.MaxKeepAlive, -1)
	for _, b := range [...]bound{
		{&l.MaxPacketSize, def.MaxPacketSize, 128, packet.MaxRemaining, "max_packet_size"},
		{&l.MaxSubscriptions, def.MaxSubscriptions, 1, 1 << 16, "max_subscriptions"},
		{&l.MaxTopicLevels, def.MaxTopicLevels, 1, 1 << 15, "max_topic_depth"},
		{&l.ReceiveMaximum, def.ReceiveMaximum, 1, 65535, "receive_maximum"},
		{&l.MaxInflight, def.MaxInflight, 1, 65535, "max_inflight_messages"},
		{&l.MaxKeepAlive, def.MaxKeepAlive, -1, 65535, "max_keepalive"},
		{&l.TopicAliases, def.TopicAliases, 1, 65535, "max_topic_alias"},
		{&l.TopicAliasesBroker, def.TopicAliasesBroker, 1, 65535, "max_topic_alias_broker"},
	} {
		if err := b.fill(); err != nil {
			return err
		}
	}
	return nil
}

// limits are those of the listener the client came by.
func (c *client) limits() *Limits { return &c.listener.Limits }
