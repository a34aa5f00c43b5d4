package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// written are the topics that the writers write to, and how many partitions they have on the board. "mqtt" is where
// publishes go.
var written = map[string]int32{"plant.one": 1, "plant.three": 3, "plant.keyed": 2, "mqtt": 2}

// names are those of written that Kafka clients write to.
var names = []string{"plant.one", "plant.three", "plant.keyed"}

// codecs are Kafka's, a client each.
var codecs = []kgo.CompressionCodec{
	kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
}

const (
	publishers = 2
	inflight   = 4 // publishes of one MQTT client that wait for their PUBACK
	// pace is how often each writes: what is written has to be compared in the end, and a lane is not about rates.
	pace = 80 * time.Millisecond
)

// writers are Kafka and MQTT clients that write to a board all the time, and live through all that happens to it. What they
// write says who wrote it, when, and in which round.
type writers struct {
	t     *testing.T
	round atomic.Int64
	acked atomic.Int64 // of Kafka clients
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// startWriters makes the topics, and begins.
func startWriters(t *testing.T, kafkaDoor, mqttDoor string, seed uint64) *writers {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafkaDoor))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for topic, n := range written {
		if _, err := kadm.NewClient(client).CreateTopic(t.Context(), n, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	w := &writers{t: t, stop: stop}
	for i, codec := range codecs {
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		w.work.Go(func() { w.produce(ctx, kafkaDoor, fmt.Sprint("kafka-", i), codec, rng) })
	}
	for i := range publishers {
		rng := rand.New(rand.NewPCG(seed, uint64(200+i)))
		w.work.Go(func() { w.publish(ctx, mqttDoor, fmt.Sprint("mqtt-", i), rng) })
	}
	t.Cleanup(w.end)
	return w
}

// end has the writers end, and returns when all they have sent is acknowledged.
func (w *writers) end() {
	w.stop()
	w.work.Wait()
}

// value is the n-th of a writer: mostly small, sometimes larger than a page of the link.
func (w *writers) value(name string, n int, rng *rand.Rand) []byte {
	size := rng.IntN(300)
	if rng.IntN(60) == 0 {
		size = rng.IntN(40 << 10)
	}
	raw := fmt.Appendf(nil, "%s %d of round %d ", name, n, w.round.Load())
	for range size {
		raw = append(raw, byte('a'+rng.IntN(16)))
	}
	return raw
}

// produce is one idempotent Kafka producer.
func (w *writers) produce(ctx context.Context, door, name string, codec kgo.CompressionCodec, rng *rand.Rand) {
	again := func(int) time.Duration { return 50 * time.Millisecond }
	client, err := kgo.NewClient(kgo.SeedBrokers(door), kgo.ProducerBatchCompression(codec), kgo.ClientID(name),
		kgo.RetryBackoffFn(again), kgo.MetadataMinAge(50*time.Millisecond), kgo.MaxBufferedRecords(64), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		w.t.Error(err)
		return
	}
	defer client.Close()
	beat := time.NewTicker(pace)
	defer beat.Stop()
	for n := 0; ctx.Err() == nil; {
		for range rng.IntN(6) {
			r := &kgo.Record{Topic: names[rng.IntN(len(names))], Value: w.value(name, n, rng)}
			if rng.IntN(3) > 0 {
				r.Key = fmt.Appendf(nil, "key %d", rng.IntN(20))
			}
			for range rng.IntN(3) {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: fmt.Sprint("h", rng.IntN(3)), Value: []byte("v")})
			}
			if r.Key != nil && rng.IntN(100) == 0 {
				r.Value, r.Headers = nil, append(r.Headers, kgo.RecordHeader{Key: "n", Value: fmt.Append(nil, name, n)})
			}
			n++
			client.Produce(w.t.Context(), r, func(_ *kgo.Record, err error) {
				switch {
				case err == nil:
					w.acked.Add(1)
				case w.t.Context().Err() == nil: // else the test has failed
					w.t.Errorf("%s: %v", name, err)
				}
			})
		}
		<-beat.C
	}
	if err := client.Flush(w.t.Context()); err != nil && w.t.Context().Err() == nil {
		w.t.Errorf("%s: flush: %v", name, err)
	}
}

// publish is one MQTT client with QoS 1 and a session of its own.
func (w *writers) publish(ctx context.Context, door, name string, rng *rand.Rand) {
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + door).SetClientID(name).SetCleanSession(false).
		SetStore(paho.NewOrderedMemoryStore()).SetOrderMatters(false).
		SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond))
	first := client.Connect()
	defer client.Disconnect(0)
	select {
	case <-first.Done():
	case <-ctx.Done():
		return
	}
	beat := time.NewTicker(pace)
	defer beat.Stop()
	for n := 0; ctx.Err() == nil; {
		var burst [inflight]paho.Token
		for i := range burst {
			burst[i] = client.Publish(fmt.Sprintf("%s/%d", name, rng.IntN(5)), 1, false, w.value(name, n, rng))
			n++
		}
		for _, token := range burst {
			select {
			case <-token.Done(): // acknowledged, or to be sent again on the next connection: the client does not tell these apart
			case <-w.t.Context().Done(): // the test has failed
			}
		}
		<-beat.C
	}
}
