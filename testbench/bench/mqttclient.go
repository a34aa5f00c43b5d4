package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// publisher is an MQTT 3.1.1 client that publishes with QoS 1 and does nothing else, so that the server is what is
// measured.
type publisher struct {
	conn net.Conn
	r    *bufio.Reader
	id   uint16
	out  []byte
}

// Packet types of MQTT 3.1.1, shifted into the first byte (section 2.2.1).
const (
	mqttConnect   = 0x10
	mqttConnack   = 0x20
	mqttPublish1  = 0x32 // QoS 1
	mqttPuback    = 0x40
	mqttSubscribe = 0x82
	mqttSuback    = 0x90
	mqttGone      = 0xe0
)

// connectMQTT opens a session; clean says whether it ends with the connection.
func connectMQTT(address, client string, clean bool) (*publisher, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return greetMQTT(conn, client, clean)
}

// greetMQTT is connectMQTT on a connection that is open, which it takes.
func greetMQTT(conn net.Conn, client string, clean bool) (*publisher, error) {
	p := &publisher{conn: conn, r: bufio.NewReader(conn)}
	body := append(mqttString(nil, "MQTT"), 4, 0, 0, 0) // level 4, flags, no keep-alive
	if clean {
		body[7] = 2
	}
	if err := p.send(mqttConnect, mqttString(body, client)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	got, err := p.expect(mqttConnack)
	if err == nil && (len(got) != 2 || got[1] != 0) {
		err = fmt.Errorf("CONNACK %x", got)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil
}

func mqttString(to []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(s))), s...)
}

// send writes one packet in one write.
func (p *publisher) send(kind byte, body []byte) error {
	p.out = append(p.out[:0], kind)
	p.out = append(binary.AppendUvarint(p.out, uint64(len(body))), body...) // MQTT's lengths are uvarints
	_, err := p.conn.Write(p.out)
	return err
}

// expect reads packets up to one of the kind and returns its body.
func (p *publisher) expect(kind byte) ([]byte, error) {
	for {
		first, err := p.r.ReadByte()
		if err != nil {
			return nil, err
		}
		n, err := binary.ReadUvarint(p.r)
		if err != nil {
			return nil, err
		}
		if n > 1<<20 {
			return nil, fmt.Errorf("a packet of %d bytes", n)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(p.r, body); err != nil {
			return nil, err
		}
		if first&0xf0 == kind&0xf0 {
			return body, nil
		}
	}
}

// subscribe subscribes with QoS 1.
func (p *publisher) subscribe(filter string) error {
	p.id++
	body := append(mqttString(binary.BigEndian.AppendUint16(nil, p.id), filter), 1)
	if err := p.send(mqttSubscribe, body); err != nil {
		return err
	}
	got, err := p.expect(mqttSuback)
	if err == nil && (len(got) != 3 || got[2] != 1) {
		err = fmt.Errorf("SUBACK %x", got)
	}
	return err
}

// write sends a PUBLISH and does not wait for its PUBACK.
func (p *publisher) write(topic string, payload []byte) error {
	if p.id++; p.id == 0 {
		p.id = 1
	}
	body := binary.BigEndian.AppendUint16(mqttString(make([]byte, 0, len(topic)+4+len(payload)), topic), p.id)
	return p.send(mqttPublish1, append(body, payload...))
}

// publish sends a PUBLISH and waits for its PUBACK.
func (p *publisher) publish(topic string, payload []byte) (time.Duration, error) {
	begin := time.Now()
	if err := p.write(topic, payload); err != nil {
		return 0, err
	}
	_, err := p.expect(mqttPuback)
	return time.Since(begin), err
}

// close ends the connection in the protocol's way.
func (p *publisher) close() error {
	return errors.Join(p.send(mqttGone, nil), p.conn.Close())
}
