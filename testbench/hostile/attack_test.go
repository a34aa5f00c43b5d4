package hostile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
	"millrace/testbench/process"
)

// patience is how long the broker may keep a connection that has gone wrong: it cuts off half requests and readers that
// do not read after 30 s, and MQTT clients that do not say CONNECT after 10.
const patience = 45 * time.Second

// attack is what many connections do at one door.
type attack struct {
	name  string
	door  door
	conns int
	sends func(conn int) []byte
	// reads: the peer reads what it is answered, as most do. Otherwise its receive buffer stays full.
	mute bool
	// answered: one answer of the broker is a clear error too, and the peer leaves when it has it. Some of them get one:
	// whoever is slow with a request while others wait for the memory it holds is cut off.
	answered *atomic.Int64
}

// door is where an attack is made.
type door int

const (
	atKafka door = iota
	atMQTT
	atHTTP
)

func (d door) of(p *process.Process) string { return []string{p.Kafka, p.MQTT, p.HTTP}[d] }

// run connects once, misbehaves, and returns nil when the broker has ended it as it must.
func (a *attack) run(address string, conn int) (err error) {
	c, err := net.DialTimeout("tcp", address, bound)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if a.mute {
		if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			return err
		}
	}
	// The broker may end it while we are still writing, and then that is its answer.
	if _, err := c.Write(a.sends(conn)); err != nil {
		return ended(err)
	}
	if a.mute {
		return hungUp(c)
	}
	if a.answered != nil {
		var one [8]byte
		if _, err := io.ReadFull(c, one[:]); err != nil {
			return ended(err)
		}
		a.answered.Add(1)
		return nil
	}
	_, err = io.Copy(io.Discard, c)
	return ended(err)
}

// attackAll makes those of the attacks that are wanted, all at once, and returns when the broker has ended each.
func attackAll(t *testing.T, p *process.Process, list []attack) {
	t.Helper()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	var all sync.WaitGroup
	for _, a := range list {
		if !wanted.MatchString(a.name) {
			continue
		}
		for i := range a.conns {
			all.Go(func() {
				if err := a.run(a.door.of(p), i); err != nil {
					t.Errorf("%s (connection %d): %v", a.name, i, err)
				}
			})
		}
	}
	all.Wait()
	t.Logf("the last hostile connection ended after %v", time.Since(begin).Round(time.Millisecond))
	for _, a := range list {
		if a.answered == nil || !wanted.MatchString(a.name) {
			continue
		}
		t.Logf("%s: %d of %d were answered", a.name, a.answered.Load(), a.conns)
		if a.answered.Load() == 0 {
			t.Errorf("%s: nobody was answered", a.name)
		}
	}
}

// ended is nil when an error means that the broker closed the connection.
func ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("still open after %v", patience)
	}
	return nil
}

// hungUp waits, without reading, until the other side has ended the connection.
func hungUp(c net.Conn) error {
	for begin := time.Now(); time.Since(begin) < patience; {
		// A PINGREQ, or the beginning of a frame: what matters is whether somebody is there to take it.
		if _, err := c.Write([]byte{0}); err != nil {
			return ended(err)
		}
		<-time.After(500 * time.Millisecond)
	}
	return fmt.Errorf("still open after %v", patience)
}

// kafkaHead is a frame's length and the beginning of its header.
func kafkaHead(size uint32, key, version int16) []byte {
	p := binary.BigEndian.AppendUint32(nil, size)
	p = binary.BigEndian.AppendUint16(p, uint16(key))
	p = binary.BigEndian.AppendUint16(p, uint16(version))
	return append(p, 0, 0, 0, 1, 0xff, 0xff) // correlation id, no client id
}

// kafkaFrame is a whole frame.
func kafkaFrame(key, version int16, body []byte) []byte {
	return append(kafkaHead(uint32(10+len(body)), key, version), body...)
}

// mqttPacket is a whole packet.
func mqttPacket(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

func mqttString(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// mqttConnect is a 3.1.1 CONNECT with a clean session and a keep alive in seconds.
func mqttConnect(id string, keepAlive uint16) []byte {
	body := append(mqttString("MQTT"), 4, 2)
	body = binary.BigEndian.AppendUint16(body, keepAlive)
	return mqttPacket(0x10, append(body, mqttString(id)...))
}

func mqttSubscribe(filter string) []byte {
	return mqttPacket(0x82, append(append([]byte{0, 1}, mqttString(filter)...), 0))
}

func noise(seed int, n int) []byte {
	b := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b); err != nil {
		panic(err) // it never fails
	}
	return b
}

func always(b []byte) func(int) []byte { return func(int) []byte { return b } }

// fetches asks n times for as much of a topic as there is.
func fetches(topic string, n int) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.Version = 11
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 1, 50<<20
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 50 << 20
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.Partitions = topic, []kmsg.FetchRequestTopicPartition{part}
	req.Topics = append(req.Topics, t)
	var out []byte
	for i := range n {
		out = kmsg.NewRequestFormatter().AppendRequest(out, req, int32(i))
	}
	return out
}

// produces is a Produce v8 frame with one batch for each partition from 0 on, of which it says there are so many.
func produces(topic string, partitions int, batches ...[]byte) []byte {
	body := []byte{0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30, 0, 0, 0, 1} // no transaction, acks 1, 30 s, one topic
	body = append(body, mqttString(topic)...)
	body = binary.BigEndian.AppendUint32(body, uint32(partitions))
	size := 0
	for i, b := range batches {
		body = binary.BigEndian.AppendUint32(body, uint32(i))
		body = binary.BigEndian.AppendUint32(body, uint32(len(b)))
		body = append(body, b...)
		size = len(b)
	}
	missing := (partitions - len(batches)) * (8 + size)
	return append(kafkaHead(uint32(10+len(body)+missing), 0, 8), body...)
}

// bomb is a batch with one record of 48 MiB, more than the broker may take in all.
func bomb(codec record.Codec) []byte {
	b := record.NewBuilder(codec)
	b.Add(1, nil, make([]byte, 48<<20), nil)
	batch, err := b.Build()
	if err != nil {
		panic(err) // one record is a batch
	}
	return bytes.Clone(batch)
}

// wide is a small batch whose frame asks for the largest window zstd recommends to admit.
func wide() []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = w.Write(make([]byte, 100))
	}
	if err == nil {
		err = w.Flush() // the frame begins before its size is known
	}
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // it writes to memory
	}
	b := record.Filler(0, 0, -1, 1)
	head := bytes.Clone(b[:record.HeaderSize])
	p := append(head, out.Bytes()...)
	binary.BigEndian.PutUint32(p[8:], uint32(len(p)-12))
	p[22] |= 4                            // zstd
	binary.BigEndian.PutUint32(p[57:], 1) // a record
	binary.BigEndian.PutUint32(p[17:], record.Castagnoli(p[record.ChecksumStart:]))
	return p
}

// attacks is everything at once.
func attacks(backlog string) []attack {
	codecs := []record.Codec{record.Gzip, record.Zstd, record.LZ4}
	var bombs [][]byte
	for _, c := range codecs {
		bombs = append(bombs, produces(backlog, 1, bomb(c)))
	}
	billion := binary.BigEndian.AppendUint32(nil, 2_000_000_000)
	uvarint := binary.AppendUvarint(nil, 2_000_000_001)
	// Produce v8: no transactional id, acks 1, timeout, then topics; Fetch v11: a replica, times and sizes, a session.
	produce := append([]byte{0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30}, billion...)
	fetch := append(append(append([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 4+4+4+1)...), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), billion...)
	half := append(kafkaHead(1<<20, 0, 8), noise(1, 512<<10)...)
	return []attack{
		{name: "Kafka: noise", conns: 20, sends: func(i int) []byte { return append([]byte{0xff}, noise(i, 64<<10)...) }},
		{name: "Kafka: HTTP", conns: 5, sends: always([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))},
		{name: "Kafka: frame of two billion bytes", conns: 10, sends: always(kafkaHead(2_000_000_000, 3, 9))},
		{name: "Kafka: frame of 5 MiB", conns: 10, sends: always(append(kafkaHead(5<<20, 0, 8), noise(2, 1<<20)...))},
		{name: "Kafka: unknown keys", conns: 20, sends: func(i int) []byte { return kafkaFrame(int16(900+i), 0, make([]byte, 90)) }},
		{name: "Kafka: negative key", conns: 5, sends: always(kafkaFrame(-1, 0, make([]byte, 90)))},
		{name: "Kafka: Metadata of the future", conns: 5, sends: always(kafkaFrame(3, 99, make([]byte, 90)))},
		{name: "Kafka: ApiVersions of the future", conns: 5, sends: always(kafkaFrame(18, 99, make([]byte, 90))), answered: new(atomic.Int64)},
		{name: "Kafka: two billion topics, Metadata v9", conns: 10, sends: always(kafkaFrame(3, 9, append(append([]byte{0}, uvarint...), make([]byte, 60)...)))},
		{name: "Kafka: two billion topics, Produce v8", conns: 10, sends: always(kafkaFrame(0, 8, append(produce, make([]byte, 60)...)))},
		{name: "Kafka: two billion topics, Fetch v11", conns: 10, sends: always(kafkaFrame(1, 11, append(fetch, make([]byte, 60)...)))},
		{name: "Kafka: half a length", conns: 20, sends: always([]byte{0, 0})},
		{name: "Kafka: half a Produce of 1 MiB", conns: 24, sends: always(half)},
		{name: "Kafka: records of 48 MiB", conns: 24, sends: func(i int) []byte { return bombs[i%len(bombs)] }, answered: new(atomic.Int64)},
		{name: "Kafka: windows of 8 MiB", conns: 50, sends: always(produces(backlog, 1, wide())), answered: new(atomic.Int64)},
		{name: "Kafka: half a Produce of 20 MiB", conns: 24, sends: always(produces(backlog, 20, noise(6, 1<<20), noise(7, 1<<20), noise(8, 1<<20)))},
		{name: "Kafka: fetches nobody reads", conns: 30, sends: always(fetches(backlog, 40)), mute: true},

		{name: "MQTT: noise", door: atMQTT, conns: 20, sends: func(i int) []byte { return noise(i, 64<<10) }},
		{name: "MQTT: noise after CONNECT", door: atMQTT, conns: 20, sends: func(i int) []byte {
			return append(append(mqttConnect(fmt.Sprint("noise", i), 10), 0xf0), noise(i, 64<<10)...)
		}},
		{name: "MQTT: never CONNECT", door: atMQTT, conns: 50, sends: always(nil)},
		{name: "MQTT: half a CONNECT", door: atMQTT, conns: 20, sends: always(mqttConnect("half", 10)[:9])},
		{name: "MQTT: CONNECT of 200 MiB", door: atMQTT, conns: 10, sends: always(append([]byte{0x10, 0xff, 0xff, 0xff, 0x63}, noise(3, 1<<20)...))},
		{name: "MQTT: CONNECT of 1 MiB without an end", door: atMQTT, conns: 20, sends: always(append([]byte{0x10, 0xff, 0xff, 0x3c}, noise(4, 900<<10)...))},
		{name: "MQTT: PUBLISH of 200 MiB", door: atMQTT, conns: 10, sends: func(i int) []byte {
			return append(append(mqttConnect(fmt.Sprint("large", i), 10), 0x32, 0xff, 0xff, 0xff, 0x63), noise(3, 1<<20)...)
		}},
		{name: "MQTT: half a PUBLISH of 1 MiB", door: atMQTT, conns: 20, sends: func(i int) []byte {
			return append(append(mqttConnect(fmt.Sprint("half", i), 2), 0x32, 0xff, 0xff, 0x3c), noise(5, 900<<10)...)
		}},
		{name: "MQTT: a subscriber that never reads", door: atMQTT, conns: 30, sends: func(i int) []byte {
			return append(mqttConnect(fmt.Sprint("mute", i), 10), mqttSubscribe("#")...)
		}},
	}
}
