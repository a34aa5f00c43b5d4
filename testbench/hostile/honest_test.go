package hostile

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/process"
)

// bound is how long one operation of an honest client may take, whatever the others do.
const bound = 15 * time.Second

// honest counts what honest clients got done, and the worst wait among it.
type honest struct {
	name  string
	count atomic.Int64
	worst atomic.Int64 // ns
}

func (h *honest) did(begin time.Time) {
	h.count.Add(1)
	took := int64(time.Since(begin))
	for {
		worst := h.worst.Load()
		if took <= worst || h.worst.CompareAndSwap(worst, took) {
			return
		}
	}
}

func (h *honest) String() string {
	return fmt.Sprintf("%s: %d, worst %v", h.name, h.count.Load(), time.Duration(h.worst.Load()).Round(time.Millisecond))
}

// content is the n-th payload of an honest client.
func content(who string, n int) []byte {
	return fmt.Appendf(bytes.Repeat([]byte{byte(n)}, 700), " %s %d", who, n)
}

// produceAndConsume produces record by record and reads them back as they come, until ctx ends.
func produceAndConsume(ctx context.Context, t *testing.T, p *process.Process, produced, consumed *honest) {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("honest-kafka"),
		kgo.ConsumeTopics("honest-kafka"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	for n := 0; ctx.Err() == nil; n++ {
		limited, cancel := context.WithTimeout(t.Context(), bound)
		begin := time.Now()
		if err := client.ProduceSync(limited, &kgo.Record{Value: content("kafka", n)}).FirstErr(); err != nil {
			t.Errorf("honest record %d after %v: %v", n, time.Since(begin), err)
			cancel()
			return
		}
		produced.did(begin)
		begin = time.Now()
		for got := false; !got; {
			f := client.PollFetches(limited)
			if err := f.Err(); err != nil {
				t.Errorf("honest fetch of record %d after %v: %v", n, time.Since(begin), err)
				cancel()
				return
			}
			for _, r := range f.Records() {
				if got || r.Offset != int64(n) || !bytes.Equal(r.Value, content("kafka", n)) {
					t.Errorf("honest record %d is read as %d: %.40q", n, r.Offset, r.Value)
				}
				got = true
			}
		}
		cancel()
		consumed.did(begin)
	}
}

// publishAndReceive publishes message by message to itself until ctx ends.
func publishAndReceive(ctx context.Context, t *testing.T, p *process.Process, published, received *honest) {
	got := make(chan []byte, 16)
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID("honest").SetAutoReconnect(false).
		SetKeepAlive(2 * bound).SetConnectTimeout(bound).
		SetConnectionLostHandler(func(_ paho.Client, err error) { t.Errorf("the honest MQTT client lost its connection: %v", err) }))
	defer client.Disconnect(0)
	wait := func(what string, token paho.Token) bool {
		if !token.WaitTimeout(bound) {
			t.Errorf("honest %s: no answer in %v", what, bound)
			return false
		}
		if token.Error() != nil {
			t.Errorf("honest %s: %v", what, token.Error())
		}
		return token.Error() == nil
	}
	take := func(_ paho.Client, m paho.Message) { got <- m.Payload() }
	if !wait("connect", client.Connect()) || !wait("subscribe", client.Subscribe("honest/#", 1, take)) {
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		begin := time.Now()
		if !wait("publish", client.Publish("honest/x", 1, false, content("mqtt", n))) {
			return
		}
		published.did(begin)
		select {
		case payload := <-got:
			if !bytes.Equal(payload, content("mqtt", n)) {
				t.Errorf("honest message %d comes back as %.40q", n, payload)
			}
		case <-time.After(bound):
			t.Errorf("honest message %d does not come back in %v", n, bound)
			return
		}
		received.did(begin)
	}
}
