package packet

import "encoding/binary"

// Connect opens a connection (3.1).
type Connect struct {
	Version     Version
	CleanStart  bool   // clean session on 3.1.1
	KeepAlive   uint16 // seconds; 0 turns it off
	ClientID    string
	Will        *Will
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte
	Properties  *Properties
}

// Will is the message a server publishes for a client that went away (3.1.2.5).
type Will struct {
	QoS        byte
	Retain     bool
	Topic      string
	Payload    []byte
	Properties *Properties
}

func (*Connect) Type() Type { return CONNECT }

func (r *reader) connect() *Connect {
	c := new(Connect)
	name := r.text()
	level := r.byte()
	if r.err != nil {
		return nil
	}
	if name != "MQTT" && name != "MQIsdp" {
		r.fail(UnsupportedVersion, "the protocol name is not MQTT") // [MQTT-3.1.2-1]
		return nil
	}
	if name != "MQTT" || (level != byte(V311) && level != byte(V5)) {
		// The rest of an unknown level cannot be read. [MQTT-3.1.2-2]
		r.fail(UnsupportedVersion, "protocol level is neither 4 (3.1.1) nor 5")
		return nil
	}
	c.Version = Version(level)
	r.v = c.Version
	flags := r.byte()
	c.CleanStart = flags&0x02 != 0
	hasWill, willQoS, willRetain := flags&0x04 != 0, flags>>3&3, flags&0x20 != 0
	c.HasPassword, c.HasUsername = flags&0x40 != 0, flags&0x80 != 0
	switch {
	case flags&1 != 0:
		r.fail(MalformedPacket, "the reserved connect flag is set") // [MQTT-3.1.2-3]
	case willQoS == 3:
		r.fail(MalformedPacket, "will QoS 3") // [MQTT-3.1.2-12]
	case !hasWill && (willQoS != 0 || willRetain):
		r.fail(MalformedPacket, "will QoS or retain without a will") // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
	case r.v == V311 && c.HasPassword && !c.HasUsername:
		r.fail(MalformedPacket, "a password without a user name") // [MQTT-3.1.2-22] of 3.1.1
	}
	c.KeepAlive = r.uint16()
	c.Properties = r.properties(connectProps, false)
	// The payload has one order [MQTT-3.1.3-1], and what the flags promise, and nothing else, is in it.
	c.ClientID = r.text() // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
	if hasWill {          // [MQTT-3.1.2-9], [MQTT-3.1.2-11] of 3.1.1
		w := &Will{QoS: willQoS, Retain: willRetain}
		w.Properties = r.properties(willProps, false)
		w.Topic = r.text() // [MQTT-3.1.3-11]
		if r.err == nil && !ValidTopic(w.Topic) {
			r.fail(MalformedPacket, "the will topic is empty or has wildcards")
		}
		w.Payload = r.binary()
		c.Will = w
	}
	if c.HasUsername { // [MQTT-3.1.2-16] [MQTT-3.1.2-17]
		c.Username = r.text() // [MQTT-3.1.3-12]
	}
	if c.HasPassword { // [MQTT-3.1.2-18] [MQTT-3.1.2-19]
		c.Password = r.binary()
	}
	return c
}

// Append implements Packet. It encodes for c.Version, whatever v is.
func (c *Connect) Append(dst []byte, _ Version) []byte {
	v := c.Version
	dst, start := open(dst, CONNECT, 0)
	dst = appendText(dst, "MQTT")
	var flags byte
	if c.CleanStart {
		flags |= 0x02
	}
	if w := c.Will; w != nil {
		flags |= 0x04 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
	}
	if c.HasPassword {
		flags |= 0x40
	}
	if c.HasUsername {
		flags |= 0x80
	}
	dst = append(dst, byte(v), flags)
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	dst = appendProperties(dst, c.Properties, v)
	dst = appendText(dst, c.ClientID)
	if w := c.Will; w != nil {
		dst = appendProperties(dst, w.Properties, v)
		dst = appendBinary(appendText(dst, w.Topic), w.Payload)
	}
	if c.HasUsername {
		dst = appendText(dst, c.Username)
	}
	if c.HasPassword {
		dst = appendBinary(dst, c.Password)
	}
	return seal(dst, start)
}

// Connack answers a Connect (3.2).
type Connack struct {
	SessionPresent bool
	Reason         Reason // on 3.1.1 a return code, 0-5
	Properties     *Properties
}

func (*Connack) Type() Type { return CONNACK }

func (r *reader) connack() *Connack {
	c := new(Connack)
	flags := r.byte()
	if flags > 1 {
		r.fail(MalformedPacket, "reserved connect acknowledge flags") // [MQTT-3.2.2-1]
	}
	c.SessionPresent = flags == 1
	if r.v == V5 {
		c.Reason = r.reason(connackReasons)
	} else {
		c.Reason = r.reason(connackReturns311)
	}
	if c.SessionPresent && c.Reason != Success {
		r.fail(ProtocolError, "session present on a refused connection") // [MQTT-3.2.2-6]
	}
	c.Properties = r.properties(connackProps, false)
	return c
}

// Append implements Packet.
func (c *Connack) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, CONNACK, 0)
	var flags byte
	if c.SessionPresent {
		flags = 1
	}
	dst = append(dst, flags, byte(c.Reason))
	return seal(appendProperties(dst, c.Properties, v), start)
}
