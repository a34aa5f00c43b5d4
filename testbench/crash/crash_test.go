package crash

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/lane"
	"millrace/testbench/process"
)

var (
	kills = flag.Int("crash.kills", lane.Count("MILLRACE_KILLS", 10), "how often the process is killed (MILLRACE_KILLS)")
	seed  = flag.Uint64("crash.seed", 0, "seed of payloads and instants, 0 draws one")
)

const (
	kafkaTopic = "crash"
	mqttTopic  = "mqtt" // where the default route leads
	producers  = 3
	publishers = 3
	window     = 16 // publishes of one MQTT client that wait for their PUBACK
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// TestKill9 is the third proof of the first promise: see the package comment.
func TestKill9(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-crash.seed=%d -crash.kills=%d", s, *kills)
	rng := rand.New(rand.NewPCG(s, 0))
	p := process.Start(t, "")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	createTopic(ctx, t, p)
	load, done := context.WithCancel(ctx)
	defer done()
	var ledgers []*ledger
	var group sync.WaitGroup
	for i := range producers {
		l := newLedger(fmt.Sprintf("kafka-%d", i), true)
		ledgers = append(ledgers, l)
		group.Go(func() { produce(load, t, p, l, s, int32(i)) })
	}
	for i := range publishers {
		l := newLedger(fmt.Sprintf("mqtt-%d", i), false)
		ledgers = append(ledgers, l)
		group.Go(func() { publish(load, p, l, s) })
	}
	live := &seen{values: make(map[place]uint32)}
	var watching sync.WaitGroup
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	watching.Go(func() { consume(watch, t, p, live) })

	for range *kills {
		progress(t, ledgers)
		// Any instant will do, so it is drawn: most of them come while commits run.
		time.Sleep(time.Duration(rng.Int64N(int64(700 * time.Millisecond))))
		p.Kill()
		p.Start()
	}
	progress(t, ledgers)
	done()
	group.Wait()
	unwatch()
	watching.Wait()
	// Once more, so that what is read comes from a recovery.
	p.Kill()
	p.Start()
	judge(ctx, t, p, ledgers, live, s)
}

// progress waits until every producer had a record acknowledged since it was called.
func progress(t *testing.T, ledgers []*ledger) {
	t.Helper()
	before := make([]int, len(ledgers))
	for i, l := range ledgers {
		before[i] = l.count()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for i, l := range ledgers {
		for l.count() == before[i] {
			select {
			case <-tick.C:
			case <-limit.C:
				t.Fatalf("%s had nothing acknowledged for two minutes", l.name)
			}
		}
	}
}

func createTopic(ctx context.Context, t *testing.T, p *process.Process) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	small := "262144" // so that segments roll all the time
	if _, err := kadm.NewClient(client).CreateTopic(ctx, producers, 1, map[string]*string{"segment.bytes": &small}, kafkaTopic); err != nil {
		t.Fatal(err)
	}
}

// produce is one idempotent Kafka producer on a partition of its own. It lives through all crashes.
func produce(ctx context.Context, t *testing.T, p *process.Process, l *ledger, seed uint64, partition int32) {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka),
		kgo.DefaultProduceTopic(kafkaTopic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.MaxBufferedRecords(64))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	pace := time.NewTicker(3 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		for range 4 {
			n := l.next()
			client.Produce(t.Context(), &kgo.Record{Partition: partition, Value: payload(seed, l.name, n)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("%s: record %d: %v", l.name, n, err)
					return
				}
				l.ack(n, 0, 0)
			})
		}
		<-pace.C
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Errorf("%s: flush: %v", l.name, err)
	}
}

// publish is one MQTT client with QoS 1 and a session of its own. It lives through all crashes.
func publish(ctx context.Context, p *process.Process, l *ledger, seed uint64) {
	var period atomic.Int64
	connected := make(chan struct{}, 1)
	options := paho.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID(l.name).SetCleanSession(false).
		SetStore(paho.NewOrderedMemoryStore()).SetOrderMatters(false).
		SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond).
		SetOnConnectHandler(func(paho.Client) {
			period.Add(1)
			select {
			case connected <- struct{}{}:
			default:
			}
		})
	client := paho.NewClient(options)
	client.Connect()
	defer client.Disconnect(0)
	select {
	case <-connected:
	case <-ctx.Done():
		return
	}
	topic := "crash/" + l.name
	for ctx.Err() == nil {
		var burst [window]paho.Token
		var numbers, periods [window]int
		for i := range burst {
			numbers[i], periods[i] = l.next(), int(period.Load())
			burst[i] = client.Publish(topic, 1, false, payload(seed, l.name, numbers[i]))
		}
		for i, token := range burst {
			<-token.Done()
			if token.Error() != nil {
				continue // the connection ended while it was written: it was not acknowledged, and is sent again
			}
			l.ack(numbers[i], periods[i], int(period.Load()))
		}
	}
}

// consume reads both topics through all crashes and remembers what it was given.
func consume(ctx context.Context, t *testing.T, p *process.Process, s *seen) {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.ConsumeTopics(kafkaTopic, mqttTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		// Errors are those of a broker that is being killed; what matters is what is given.
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			s.add(place{r.Topic, r.Partition, r.Offset}, r.Value)
		})
	}
}

// judge reads everything there is and holds it against what was acknowledged and what was served.
func judge(ctx context.Context, t *testing.T, p *process.Process, ledgers []*ledger, live *seen, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.ConsumeTopics(kafkaTopic, mqttTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, kafkaTopic, mqttTopic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[place]bool) // partitions not read to their end yet, at offset 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[place{o.Topic, o.Partition, 0}] = true
		}
	})
	logs := make(map[string][]stored)
	next := make(map[place]int64)
	served := len(live.values)
	total := 0
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("read back: %v; not at the end of %v", err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			total++
			at := place{r.Topic, r.Partition, 0}
			if r.Offset != next[at] {
				t.Errorf("%s-%d goes from offset %d to %d", r.Topic, r.Partition, next[at]-1, r.Offset)
			}
			next[at] = r.Offset + 1
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset+1 >= end.Offset {
				delete(left, at)
			}
			live.add(place{r.Topic, r.Partition, r.Offset}, r.Value)
			producer, n, err := parse(r.Value)
			if err != nil || !bytes.Equal(r.Value, payload(seed, producer, n)) {
				t.Errorf("%s-%d at %d: the record is not what was sent (%v)", r.Topic, r.Partition, r.Offset, err)
				return
			}
			logs[producer] = append(logs[producer], stored{r.Partition, r.Offset, n})
		})
	}
	if grown := len(live.values) - total; grown > 0 {
		t.Errorf("%d records that were served are gone", grown)
	}
	for _, err := range live.faults {
		t.Error(err)
	}
	acked := 0
	for _, l := range ledgers {
		for _, err := range l.verdict(logs[l.name]) {
			t.Error(err)
		}
		acked += l.count()
		delete(logs, l.name)
	}
	for name := range logs {
		t.Errorf("records of %s, which never was", name)
	}
	t.Logf("%d kills: %d records acknowledged, %d in the log, %d of them served between", *kills, acked, total, served)
}
