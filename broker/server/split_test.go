package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/wire"
)

// wide is a Produce request for many partitions, n bytes for each.
func wide(partitions, n int, correlation int32) []byte {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = 1
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = "t"
	for i := range partitions {
		topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i), Records: bytes.Repeat([]byte{byte(i)}, n)})
	}
	req.Topics = append(req.Topics, topic)
	return frame(req, 12, correlation)
}

// answerTo is the answer to a request for one partition: its number as the offset.
func answerTo(t testing.TB, req *Request) Answer {
	body := req.Body.(*kmsg.ProduceRequest)
	resp := kmsg.NewPtrProduceResponse()
	for _, topic := range body.Topics {
		out := kmsg.NewProduceResponseTopic()
		out.Topic = topic.Topic
		for _, q := range topic.Partitions {
			for _, b := range q.Records {
				if b != byte(q.Partition) {
					t.Errorf("partition %d has a byte of another", q.Partition)
					break
				}
			}
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.BaseOffset = q.Partition, int64(q.Partition)
			out.Partitions = append(out.Partitions, p)
		}
		resp.Topics = append(resp.Topics, out)
	}
	h := req.Header
	return func() *wire.Response { return wire.Encode(h, resp) }
}

// TestALargeProduceIsServedInPieces: 24 MiB for 96 partitions, in 1 MiB of memory, answered out of order by the handler
// and as one by the server, between requests before and after it.
func TestALargeProduceIsServedInPieces(t *testing.T) {
	bodies := share(t, 1<<20)
	var wg sync.WaitGroup
	defer wg.Wait()
	serve := func(req *Request, reply func(Answer)) func() bool {
		if req.Key != keyProduce {
			return respond(req, reply)
		}
		answer, release := answerTo(t, req), req.Hold()
		wg.Go(func() {
			<-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond)
			release()
			reply(answer)
		})
		return nil
	}
	_, addr := open(t, &fake{serve}, func(c *Config) { c.Bodies = bodies })
	c := dial(t, addr)
	all := append(append(metadata(1), wide(96, 256<<10, 2)...), append(produce(0, 3), metadata(4)...)...)
	go c.Write(all) //nolint:errcheck // the answers tell
	c.expect(1)
	correlation, body := c.receive()
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 12
	if err := resp.ReadFrom(body[1:]); err != nil || correlation != 2 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 96 {
		t.Fatalf("response %d with %d topics, %v", correlation, len(resp.Topics), err)
	}
	for i, p := range resp.Topics[0].Partitions {
		if p.Partition != int32(i) || p.BaseOffset != int64(i) {
			t.Fatalf("answer %d is for partition %d with offset %d", i, p.Partition, p.BaseOffset)
		}
	}
	c.expect(3, 4)
	if peak := bodies.Gauge().Peak; peak > 1<<20 {
		t.Errorf("%d bytes of memory", peak)
	}
}

func TestALargeProduceThatIsBrokenEndsTheConnection(t *testing.T) {
	whole := wide(12, 256<<10, 1)
	second := bytes.Index(whole, bytes.Repeat([]byte{1}, 100)) // where the second partition's records begin
	for name, p := range map[string][]byte{
		"cut short":         whole[:5<<19],
		"a length too long": append(append(bytes.Clone(whole[:second-3]), 0xff, 0xff, 0xff), whole[second:]...),
		"a count of two billion": append(append(prefix(3<<20, 0, 8), 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30),
			append([]byte{0x77, 0x35, 0x94, 0}, make([]byte, 3<<20)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool { reply(answerTo(t, req)); return nil }}, nil)
			c := dial(t, addr)
			if _, err := c.Write(p); err == nil {
				_ = c.Conn.(*net.TCPConn).CloseWrite() // an error: the server was quicker
				c.closed()
			}
		})
	}
}

// TestWhatIsTooLargeIsNamed: the connection ends as at Apache Kafka, and the log says what to change.
func TestWhatIsTooLargeIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		sends      []byte
	}{
		{"frame", "the limit is 8388608: message too large (socket.request.max.bytes)", prefix(8<<20+1, 0, 12)},
		{"batch", "a batch of 2097152 bytes, the limit that follows from memory.limit is 1048576", wide(2, 2<<20, 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var log strings.Builder
			s, addr := open(t, &fake{respond}, func(c *Config) {
				c.RequestMax, c.Bodies = 8<<20, share(t, 1<<20)
				c.Logger = slog.New(slog.NewTextHandler(locked{&mu, &log}, nil))
			})
			c := dial(t, addr)
			if _, err := c.Write(tt.sends); err == nil {
				c.closed()
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), tt.says) {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

type locked struct {
	mu *sync.Mutex
	w  fmt.Stringer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.(*strings.Builder).Write(p)
}

// TestHalfLargeProducesGiveWay: peers that each hold a part of a large request do not keep an honest one out.
func TestHalfLargeProducesGiveWay(t *testing.T) {
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool { reply(answerTo(t, req)); return nil }},
		func(c *Config) { c.Stall = 10 * time.Minute })
	part := wide(20, 256<<10, 1)[:1<<20+1000]
	for range 12 {
		dial(t, addr).send(part)
	}
	c := dial(t, addr)
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go c.Write(wide(20, 256<<10, 9)) //nolint:errcheck // the answer tells
	c.expect(9)
}
