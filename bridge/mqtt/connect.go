package mqtt

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"millrace/bridge/mqtt/packet"
)

// connect answers the first packet of a connection, which must be a CONNECT [MQTT-3.1.0-1], and one that conforms
// [MQTT-3.1.4-1].
func (c *client) connect(frame []byte) error {
	if packet.Type(frame[0]>>4) != packet.CONNECT {
		return &packet.Error{Reason: packet.ProtocolError, Why: "the first packet is not a CONNECT"}
	}
	p, err := packet.Decode(frame, 0, limits)
	if err != nil {
		c.refuseConnect(frame, err)
		return err
	}
	in := p.(*packet.Connect)
	size := int64(len(frame))
	c.version, c.id = in.Version, in.ClientID
	c.window, c.maxPacket, c.reasons = c.limits().MaxInflight, packet.MaxRemaining, true
	keepAlive := in.KeepAlive // [MQTT-3.2.2-22]
	if !c.keptAlive(keepAlive) {
		keepAlive = uint16(c.limits().MaxKeepAlive) // [MQTT-3.1.2-21]
	}
	c.keepAlive = time.Duration(keepAlive) * time.Second * 3 / 2
	if in.Version == packet.V311 && !in.CleanStart {
		c.expiry = never
	}
	list := in.Properties
	if list.Has(packet.SessionExpiry) {
		c.expiry = list.SessionExpiry
	}
	if list.Has(packet.ReceiveMaximum) {
		c.window = min(c.window, int(list.ReceiveMaximum))
	}
	if list.Has(packet.MaximumPacketSize) {
		c.maxPacket = int(min(list.MaximumPacketSize, packet.MaxRemaining))
	}
	if list.Has(packet.RequestProblem) {
		c.reasons = list.RequestProblem == 1
	}
	if list.Has(packet.TopicAliasMaximum) {
		c.told.most = min(list.TopicAliasMaximum, uint16(c.limits().TopicAliasesBroker))
	}
	if reason, why := c.acceptable(in); reason != packet.Success {
		return c.connackRefusal(reason, why)
	}
	last, err := c.login(in)
	if err != nil {
		return err
	}
	if in.Will != nil && c.s.mayWrite(&c.who, c.id, in.Will.Topic) != nil {
		return c.connackRefusal(packet.NotAuthorized, "not authorized to publish the will")
	}
	if err := c.s.ready(); err != nil {
		return c.connackRefusal(packet.ServerUnavailable, "sessions cannot be read now: "+err.Error())
	}
	out := &packet.Connack{}
	if c.version == packet.V5 {
		out.Properties = c.connackProperties()
		if keepAlive != in.KeepAlive {
			out.Properties.ServerKeepAlive = keepAlive // [MQTT-3.2.2-21]
			out.Properties.Present |= packet.Of(packet.ServerKeepAlive)
		}
		if c.method != "" { // [MQTT-4.12.0-5]
			out.Properties.AuthMethod, out.Properties.AuthData = c.method, last
			out.Properties.Present |= packet.Of(packet.AuthMethod, packet.AuthData)
		}
	}
	if c.id == "" { // [MQTT-3.1.3-6], [MQTT-3.1.3-6] of 3.1.1
		var b [12]byte
		rand.Read(b[:]) //nolint:errcheck // never fails
		c.id = "auto-" + hex.EncodeToString(b[:])
		if c.version == packet.V5 {
			out.Properties.AssignedClientID = c.id // [MQTT-3.2.2-16] [MQTT-3.1.3-7]
			out.Properties.Present |= packet.Of(packet.AssignedClientID)
		}
	}
	if list.Has(packet.RequestResponse) && list.RequestResponse == 1 { // [MQTT-3.1.2-28]
		if information := c.responseInformation(); information != "" {
			out.Properties.ResponseInformation = information
			out.Properties.Present |= packet.Of(packet.ResponseInformation)
		}
	}
	if len(out.Append(nil, c.version)) > c.maxPacket { // [MQTT-3.1.2-24]
		return c.connackRefusal(packet.PacketTooLarge, "CONNACK would be larger than the client's maximum packet size")
	}
	if in.Will != nil {
		w := c.newWill(in.Will, size)
		switch {
		case c.s.cfg.State.TryAcquire(w.cost):
		case c.s.wills.waits(c.id): // settle gives back what that one holds
			c.s.cfg.State.Overdraw(w.cost)
		default:
			return c.connackRefusal(packet.QuotaExceeded, "no room for the will")
		}
		c.will.Store(w)
	}
	present, err := c.s.attach(c, in.CleanStart)
	if err != nil {
		c.s.drop(c.takeWill())
		if errors.Is(err, errOwner) {
			return c.connackRefusal(packet.InvalidClientID, err.Error())
		}
		return c.connackRefusal(packet.QuotaExceeded, err.Error())
	}
	if err := c.willKept(); err != nil {
		return err
	}
	out.SessionPresent = present // [MQTT-3.2.2-2] [MQTT-3.2.2-3], [MQTT-3.2.2-3] of 3.1.1
	// The first packet of ours [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT-3.1.4-5], [MQTT-3.2.0-1] of 3.1.1, [MQTT-3.1.4-4] of
	// 3.1.1: end, which may come any time, says nothing before it.
	c.out.answer(func(dst []byte) []byte {
		c.greeted.Store(true)
		return c.fitting(dst, out)
	})
	c.session.greeted(c)
	return nil
}

// responseInformation is what the client is told to build its response topics of (3.2.2.3.15); nothing where its names
// cannot be in a topic.
func (c *client) responseInformation() string {
	information := c.s.cfg.ResponseInformation
	for _, of := range [...]struct{ mark, text string }{{"%c", c.id}, {"%u", c.who.Principal.Name()}} {
		if strings.Contains(information, of.mark) && (of.text == "" || strings.ContainsAny(of.text, "/+#%")) {
			return ""
		}
		information = strings.ReplaceAll(information, of.mark, of.text)
	}
	return information
}

// acceptable says why this server cannot take the connection, which then ends [MQTT-3.1.4-2]. Identifiers of any characters
// are taken [MQTT-3.1.3-5].
func (c *client) acceptable(in *packet.Connect) (packet.Reason, string) {
	switch {
	case c.version == packet.V311 && !c.keptAlive(in.KeepAlive):
		return packet.InvalidClientID, "the keep alive is over the server's maximum" // as Mosquitto does: there is no code for it
	case in.ClientID == "" && in.Version == packet.V311 && !in.CleanStart:
		return packet.InvalidClientID, "an empty client identifier needs a clean session" // [MQTT-3.1.3-8] of 3.1.1
	case len(in.ClientID) > c.s.cfg.MaxTopicBytes:
		return packet.InvalidClientID, "the client identifier is too long" // it travels with every record [MQTT-3.1.3-8], [MQTT-3.1.3-9] of 3.1.1
	case in.Will != nil && c.tooLong(in.Will.Topic):
		return packet.InvalidTopicName, "the will topic is too long"
	}
	return packet.Success, ""
}

// keptAlive says whether a client's keep alive, 0 for none, is one the server takes.
func (c *client) keptAlive(seconds uint16) bool {
	most := c.limits().MaxKeepAlive
	return most < 0 || seconds != 0 && int(seconds) <= most
}

// connackProperties says everything that differs from what a client may otherwise assume (3.2.2.3). Every QoS is served
// [MQTT-3.2.2-9] and anything may be retained, so no will is refused for its flags [MQTT-3.2.2-12] [MQTT-3.2.2-13].
func (c *client) connackProperties() *packet.Properties {
	return &packet.Properties{
		Present:           packet.Of(packet.ReceiveMaximum, packet.MaximumPacketSize, packet.TopicAliasMaximum),
		ReceiveMaximum:    uint16(c.limits().ReceiveMaximum),
		MaximumPacketSize: uint32(c.limits().MaxPacketSize),
		TopicAliasMaximum: uint16(c.limits().TopicAliases),
	}
}

// connackRefusal answers CONNECT with a failure and returns it, so that the connection ends [MQTT-3.2.2-7] and nothing
// that follows is read [MQTT-3.1.4-6], [MQTT-3.1.4-5] of 3.1.1.
func (c *client) connackRefusal(reason packet.Reason, why string) error {
	p := &packet.Connack{Reason: reason}
	if c.version == packet.V5 {
		p.Properties = c.reasonString(why)
	} else {
		p.Reason = connackReturn(reason)
	}
	c.send(p)
	return &packet.Error{Reason: reason, Why: why}
}

// connackReturn is the 3.1.1 return code nearest to a reason.
func connackReturn(reason packet.Reason) packet.Reason {
	switch reason {
	case packet.UnsupportedVersion:
		return 1
	case packet.InvalidClientID:
		return 2
	case packet.BadCredentials:
		return 4
	case packet.NotAuthorized:
		return 5
	}
	return 3
}

// refuseConnect answers a CONNECT that could not be decoded, when it shows enough of itself to choose an answer: its
// protocol level. Malformed 3.1.1 is closed without one ([MQTT-3.1.4-1] of 3.1.1, [MQTT-3.2.2-6] of 3.1.1), as is what is
// not MQTT at all.
func (c *client) refuseConnect(frame []byte, err error) {
	bad, ok := err.(*packet.Error)
	if !ok {
		return
	}
	head := 2
	for frame[head-1] >= 0x80 {
		head++
	}
	body := frame[head:]
	switch {
	case len(body) > 8 && string(body[:8]) == "\x00\x06MQIsdp", // 3.1
		len(body) > 6 && string(body[:6]) == "\x00\x04MQTT" && body[6] < byte(packet.V5):
		if bad.Reason == packet.UnsupportedVersion {
			c.version = packet.V311
			c.send(&packet.Connack{Reason: connackReturn(bad.Reason)}) // [MQTT-3.1.2-2] of 3.1.1
		}
	case len(body) > 6 && string(body[:6]) == "\x00\x04MQTT":
		c.version = packet.V5
		c.send(&packet.Connack{Reason: bad.Reason, Properties: c.reasonString(bad.Why)}) // [MQTT-3.1.2-2]
	}
}

// cloneWill takes the will out of the connection's read buffer.
func cloneWill(w *packet.Will) *packet.Will {
	kept := *w
	kept.Payload = slices.Clone(w.Payload)
	if w.Properties != nil {
		list := *w.Properties
		list.CorrelationData = slices.Clone(list.CorrelationData)
		kept.Properties = &list
	}
	return &kept
}
