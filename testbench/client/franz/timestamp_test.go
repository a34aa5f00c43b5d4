package franz

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
	"millrace/testbench/client/board"
)

// A topic keeps the producer's stamps within its limits, which may be altered, or has its own.
func TestTimestamps(t *testing.T) {
	b := board.Start(t)
	admin, ctx := kadm.NewClient(client(t, b)), within(t)
	own := map[string]*string{
		"message.timestamp.type": kadm.StringPtr("LogAppendTime"), "message.timestamp.after.max.ms": kadm.StringPtr("0"), "message.timestamp.before.max.ms": kadm.StringPtr("0"),
	}
	compressed := maps.Clone(own)
	compressed["compression.type"] = kadm.StringPtr("zstd")
	for topic, settings := range map[string]map[string]*string{"theirs": nil, "own": own, "compressed": compressed} {
		if _, err := admin.CreateTopic(ctx, 1, 1, settings, topic); err != nil {
			t.Fatal(err)
		}
	}
	c := client(t, b)
	try := func(topic string, at ...time.Time) (*kgo.Record, error) {
		var batch []*kgo.Record
		for _, at := range at {
			batch = append(batch, &kgo.Record{Topic: topic, Value: []byte("x"), Timestamp: at})
		}
		return c.ProduceSync(ctx, batch...).First()
	}
	now := time.Now()
	for _, tt := range []struct {
		name string
		at   []time.Time
		key  string // is set to value before it is tried
		ms   string
		want error
	}{
		{"of 2100, with the default", []time.Time{time.Unix(4_102_444_800, 0)}, "", "", nil},
		{"of 1971, with the default", []time.Time{time.Unix(31_536_000, 0)}, "", "", nil},
		{"two hours ahead", []time.Time{now.Add(2 * time.Hour)}, "after", "3600000", kerr.InvalidTimestamp},
		{"one of three ahead", []time.Time{now, now.Add(2 * time.Hour), now}, "", "", kerr.InvalidTimestamp},
		{"half an hour ahead", []time.Time{now.Add(30 * time.Minute)}, "", "", nil},
		{"two minutes old, one is allowed", []time.Time{now.Add(-2 * time.Minute)}, "before", "60000", kerr.InvalidTimestamp},
		{"two minutes old, ten are allowed", []time.Time{now.Add(-2 * time.Minute)}, "before", "600000", nil},
	} {
		if tt.key != "" {
			r, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "message.timestamp." + tt.key + ".max.ms", Value: &tt.ms}}, "theirs")
			if err != nil || r[0].Err != nil {
				t.Fatal(err, r[0].Err)
			}
		}
		if _, err := try("theirs", tt.at...); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	for _, r := range consume(t, b, "theirs", 4) {
		if r.Attrs.TimestampType() != 0 {
			t.Errorf("%v is not the producer's", r.Timestamp)
		}
	}
	for _, topic := range []string{"own", "compressed"} {
		if at := appended(t, b, topic); time.Since(time.UnixMilli(at)).Abs() > time.Minute {
			t.Errorf("%s: the producer is told %d", topic, at)
		}
		if _, err := try(topic, time.UnixMilli(1), now.Add(1000*time.Hour)); err != nil {
			t.Fatalf("%s: %v", topic, err)
		}
		for i, r := range consume(t, b, topic, 3) {
			if since := time.Since(r.Timestamp); r.Attrs.TimestampType() != 1 || since < -time.Minute || since > time.Minute {
				t.Errorf("%s: record %d has %v of type %d", topic, i, r.Timestamp, r.Attrs.TimestampType())
			}
		}
	}
}

// appended writes one record and returns when that was, as the answer says: franz-go does not tell.
func appended(t *testing.T, b *board.Board, topic string) int64 {
	t.Helper()
	c := client(t, b)
	details, err := kadm.NewClient(c).ListTopics(within(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	one := record.NewBuilder(record.None)
	one.Add(1, nil, []byte("x"), nil)
	batch, err := one.Build()
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, TopicID: details[topic].ID, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch}}}}
	resp, err := req.RequestWith(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(p.ErrorCode))
	}
	return resp.Topics[0].Partitions[0].LogAppendTime
}

// Offsets are found by time, though times are in no order.
func TestOffsetsByTime(t *testing.T) {
	b := board.Start(t)
	admin, ctx := kadm.NewClient(client(t, b)), within(t)
	if _, err := admin.CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	c := client(t, b)
	for _, batch := range [][]int64{{1000, 3000, 2000}, {2500}, {5000, 4000}, {100}} {
		var records []*kgo.Record
		for _, at := range batch {
			records = append(records, &kgo.Record{Topic: "t", Value: []byte("x"), Timestamp: time.UnixMilli(at)})
		}
		if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 2 {
		for at, want := range map[int64]int64{0: 0, 1000: 0, 1001: 1, 3000: 1, 3001: 4, 5000: 4} {
			o, err := admin.ListOffsetsAfterMilli(ctx, at, "t")
			if got, _ := o.Lookup("t", 0); err != nil || got.Err != nil || got.Offset != want {
				t.Errorf("round %d, from %d on: %+v, %v; want %d", round, at, got, err, want)
			}
		}
		// Nothing is so late: franz-go then asks for the end.
		if o, err := admin.ListOffsetsAfterMilli(ctx, 5001, "t"); err != nil || o["t"][0].Offset != 7 {
			t.Errorf("round %d, after all: %+v, %v", round, o, err)
		}
		if o, err := admin.ListMaxTimestampOffsets(ctx, "t"); err != nil || o["t"][0].Offset != 4 || o["t"][0].Timestamp != 5000 {
			t.Errorf("round %d, the greatest time: %+v, %v", round, o, err)
		}
		b.Restart()
		admin = kadm.NewClient(client(t, b))
	}
}
