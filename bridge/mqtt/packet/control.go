package packet

// Ping is PINGREQ, or PINGRESP when Response is set (3.12, 3.13).
type Ping struct{ Response bool }

// Type implements Packet.
func (p *Ping) Type() Type {
	if p.Response {
		return PINGRESP
	}
	return PINGREQ
}

// Append implements Packet.
func (p *Ping) Append(dst []byte, _ Version) []byte { return append(dst, byte(p.Type())<<4, 0) }

// Disconnect ends a connection (3.14). On 3.1.1 it has no content and only clients send it.
type Disconnect struct {
	Reason     Reason
	Properties *Properties
}

func (*Disconnect) Type() Type { return DISCONNECT }

func (r *reader) disconnect() *Disconnect {
	d := new(Disconnect)
	if r.v != V5 || len(r.p) == 0 {
		return d // a remaining length of 0 means a normal disconnection (3.14.2.1)
	}
	d.Reason = r.reason(disconnectReasons) // [MQTT-3.14.2-1]
	if len(r.p) > 0 {
		d.Properties = r.properties(disconnectProps, false)
	}
	return d
}

// Append implements Packet.
func (d *Disconnect) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, DISCONNECT, 0)
	return seal(appendReason(dst, d.Reason, d.Properties, v), start)
}

// Auth is a step of enhanced authentication (3.15), MQTT 5 only.
type Auth struct {
	Reason     Reason
	Properties *Properties
}

func (*Auth) Type() Type { return AUTH }

func (r *reader) auth() *Auth {
	if r.v != V5 {
		r.fail(MalformedPacket, "packet type 15 is reserved in 3.1.1")
		return nil
	}
	a := new(Auth)
	if len(r.p) == 0 {
		return a // 3.15.2.1
	}
	a.Reason = r.reason(authReasons) // [MQTT-3.15.2-1]
	if len(r.p) > 0 {
		a.Properties = r.properties(authProps, false)
	}
	return a
}

// Append implements Packet.
func (a *Auth) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, AUTH, 0)
	return seal(appendReason(dst, a.Reason, a.Properties, v), start)
}
