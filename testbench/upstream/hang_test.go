package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// verification is the setting of brokers that has leaders take no record of a transaction that its coordinator does not know of.
const verification = "transaction.partition.verification.enable"

// hand is somebody with a link's transactional id who leaves a transaction as a coordinator does that has lost some of its markers.
type hand struct {
	t        *testing.T
	client   *kgo.Client
	id       string
	producer int64
	epoch    int16
}

// handOf takes a transactional id over.
func handOf(t *testing.T, c *kafka.Cluster, id string) *hand {
	t.Helper()
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.Produce.Int16(), 11) // the last before leaders tell the coordinator themselves
	h := &hand{t: t, client: c.Client(t, kgo.MaxVersions(versions)), id: id}
	h.takeOver()
	return h
}

func (h *hand) takeOver() {
	h.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = &h.id, 10_000
	lane.Until(h.t, "the producer id is given", func(ctx context.Context) error {
		resp, err := req.RequestWith(ctx, h.client)
		if err != nil {
			return err
		}
		h.producer, h.epoch = resp.ProducerID, resp.ProducerEpoch
		return kerr.ErrorForCode(resp.ErrorCode)
	})
}

// write writes records of one partition in a transaction that the coordinator is not told of.
func (h *hand) write(ctx context.Context, epoch int16, records ...kgo.Record) error {
	w := record.NewBuilder(record.None)
	for _, r := range records {
		w.Add(r.Timestamp.UnixMilli(), r.Key, r.Value, nil)
	}
	built, err := w.Build()
	if err != nil {
		return err
	}
	b := slices.Clone(built)
	b.SetProducer(h.producer, epoch, 0, true)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = records[0].Partition, b
	one := kmsg.NewProduceRequestTopic()
	one.Topic, one.Partitions = records[0].Topic, []kmsg.ProduceRequestTopicPartition{p}
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis, req.Topics = &h.id, -1, 10_000, []kmsg.ProduceRequestTopic{one}
	resp, err := h.client.Broker(1).Request(ctx, req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// mark ends what is open in a partition, as the coordinator does: with the epoch after that of the records.
func (h *hand) mark(epoch int16, topic string, partition int32, commit bool) {
	h.t.Helper()
	t := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
	t.Topic, t.Partitions = topic, []int32{partition}
	m := kmsg.NewWriteTxnMarkersRequestMarker()
	m.ProducerID, m.ProducerEpoch, m.Committed, m.Topics = h.producer, epoch+1, commit, []kmsg.WriteTxnMarkersRequestMarkerTopic{t}
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Markers = append(req.Markers, m)
	lane.Until(h.t, "a marker is written", func(ctx context.Context) error {
		resp, err := req.RequestWith(ctx, h.client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.Markers[0].Topics[0].Partitions[0].ErrorCode)
	})
}

// verify switches the verification on or off, and waits until it is.
func (h *hand) verify(on bool) {
	h.t.Helper()
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = verification, kmsg.StringPtr(fmt.Sprint(on))
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.Configs = kmsg.ConfigResourceTypeBroker, append(r.Configs, c)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, r)
	probe := &hand{t: h.t, client: h.client, id: fmt.Sprint("probe of ", h.id, on)}
	probe.takeOver()
	lane.Until(h.t, fmt.Sprintf("%s is %v", verification, on), func(ctx context.Context) error {
		resp, err := req.RequestWith(ctx, h.client)
		if err == nil {
			err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
		}
		if err != nil {
			return err
		}
		err = probe.write(ctx, probe.epoch, kgo.Record{Topic: "probe", Timestamp: time.Now(), Value: []byte("?")})
		if is := errors.Is(err, kerr.TransactionAbortable) || errors.Is(err, kerr.InvalidTxnState); is != on || !is && err != nil {
			probe.takeOver() // what it has written hangs: a new epoch may write again
			return fmt.Errorf("not yet: %v", err)
		}
		return nil
	})
}

// fate is what a partition got of a transaction.
type fate string

const (
	absent    fate = "absent" // it was not written to
	open      fate = "open"   // its marker was lost
	committed fate = "committed"
	aborted   fate = "aborted"
)

// A transaction of a link whose markers are there in part is ended as the rest of it was, and else taken back, before the next life sends
// anything: each record is there once, in order. What always takes back is found. Where the peer refuses, the link waits and says what it needs.
func TestWhatHangsIsSettled(t *testing.T) {
	t.Parallel()
	c := kafka.Start(t, kafka.Options{Properties: []string{
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "allow.everyone.if.no.acl.found=true",
	}})
	admin := kadm.NewClient(c.Client(t))
	lane.Until(t, "there is a topic to probe, and who may not write markers", func(ctx context.Context) error {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, "probe"); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return err
		}
		for _, acls := range []*kadm.ACLBuilder{
			kadm.NewACLs().Clusters().Operations(kadm.OpAll).Allow("User:*").AllowHosts("*"),
			kadm.NewACLs().Clusters().Operations(kadm.OpAlter, kadm.OpClusterAction).Deny("User:*").DenyHosts(denied),
		} {
			list, err := admin.CreateACLs(ctx, acls)
			if err != nil {
				return err
			}
			for _, r := range list {
				if r.Err != nil {
					return r.Err
				}
			}
		}
		return nil
	})
	s := drawn(t)
	none := func(r upstream.Remote) upstream.Remote { return r }
	for i, tt := range []struct {
		name          string
		cursor, a, b  fate
		denied        bool
		wrap          func(upstream.Remote) upstream.Remote
		commit, found bool // what is to become of it; a defect is to be found
	}{
		{"cursor hangs, data is committed", open, committed, open, false, none, true, false},
		{"cursor hangs, data is taken back", open, aborted, open, false, none, false, false},
		{"cursor is committed, data hangs", committed, open, committed, false, none, true, false},
		{"cursor is taken back, data hangs", aborted, open, open, false, none, false, false},
		{"all hangs", open, open, open, false, none, false, false},
		{"all hangs that was written", absent, open, absent, false, none, false, false},
		{"refused, cursor", open, committed, open, true, none, true, false},
		{"refused, data", committed, open, open, true, none, true, false},
		{"always taken back", open, committed, open, false, func(r upstream.Remote) upstream.Remote { return upstreamtest.Heedless(r, false) }, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, c, fmt.Sprint("hang.", i), s, tt.wrap)
			l := b.start()
			b.write()
			b.delivered(l)
			l.way.Cut()
			b.write()
			b.hang(tt.cursor, tt.a, tt.b)
			if tt.denied {
				b.waits()
			}
			l = b.start()
			b.delivered(l)
			if is := l.Status(); is.Sent.Settled == 0 && !tt.found {
				t.Errorf("it has ended nothing: %+v", is.Sent)
			} else if (is.Sent.Records == 0) != tt.commit && !tt.found {
				t.Errorf("%d records were sent, though it was to be committed: %v", is.Sent.Records, tt.commit)
			}
			b.write()
			b.delivered(l)
			d := b.fault()
			switch {
			case tt.found && d == nil:
				t.Error("not found")
			case tt.found:
				t.Logf("found: %s", first(d))
			case d != nil:
				t.Error(d)
			}
			b.decided(admin)
		})
	}
}

// hang leaves a transaction that the link would have sent next: in the cursor topic and in both partitions.
func (b *bench) hang(cursor fate, data ...fate) {
	b.t.Helper()
	h := handOf(b.t, b.kafka, "millrace-board of "+b.topic+"-"+b.topic+"-live")
	h.verify(false)
	var cursors []kgo.Record
	write := func(records ...kgo.Record) {
		b.t.Helper()
		ctx, cancel := context.WithTimeout(b.t.Context(), lane.Patience)
		defer cancel()
		if err := h.write(ctx, h.epoch, records...); err != nil {
			b.t.Fatal(err)
		}
	}
	end := func(f fate, topic string, partition int32) {
		if f == committed || f == aborted {
			h.mark(h.epoch, topic, partition, f == committed)
		}
	}
	for i, p := range b.parts {
		r := cursorOf(b.t, b.kafka, b.topic, p.Index())
		known, err := upstream.ParseCursor(r.Value)
		if err != nil {
			b.t.Fatal(err)
		}
		var records []kgo.Record
		for _, r := range p.Records() {
			if r.Offset >= known.Next {
				records = append(records, kgo.Record{Topic: b.topic, Partition: p.Index(), Timestamp: time.UnixMilli(r.Timestamp), Key: r.Key, Value: r.Value})
			}
		}
		if known.Next, known.Last, known.CRC = p.High(), -1, 0; data[i] == absent {
			continue
		}
		if r.Value, err = known.Append(nil); err != nil {
			b.t.Fatal(err)
		}
		r.Timestamp = time.Now()
		cursors = append(cursors, r)
		write(records...)
		end(data[i], b.topic, p.Index())
	}
	if cursor != absent {
		write(cursors...)
		end(cursor, cursors[0].Topic, cursors[0].Partition)
	}
	h.verify(true)
	h.takeOver() // the coordinator gives what it takes for ended the next epoch
}

// denied is from where nobody may write markers.
const denied = "127.0.0.2"

// waits has a life that may not write markers wait, with the reason.
func (b *bench) waits() {
	b.t.Helper()
	remote, err := upstream.NewKafka(upstream.KafkaConfig{
		Brokers: []string{b.kafka.Node(1).Direct}, TransactionTimeout: 10 * time.Second,
		Dial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(denied)}}).DialContext,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	l, err := upstream.New(upstream.Config{
		Name: b.topic, Board: "board of " + b.topic, Topics: []string{b.topic}, TransactionTimeout: 10 * time.Second, Linger: -1,
	}, upstream.Env{
		Log: b.log, Clock: upstreamtest.Clock{}, Remote: remote, Backoff: steady{}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	lane.Until(b.t, "it waits, and says what it needs", func(context.Context) error {
		if is := l.Status(); !strings.Contains(is.Reason, "ALTER or CLUSTER_ACTION") {
			return fmt.Errorf("%s: %s", is.State, is.Reason)
		}
		return nil
	})
	if is := l.Status(); is.Sent.Transactions != 0 {
		b.t.Errorf("it has sent: %+v", is.Sent)
	}
}

// decided waits until nothing is open any more.
func (b *bench) decided(admin *kadm.Client) {
	b.t.Helper()
	lane.Until(b.t, "all is decided", func(ctx context.Context) error {
		ends, err := admin.ListEndOffsets(ctx, b.topic, upstream.DefaultCursorTopic)
		if err != nil {
			return err
		}
		stable, err := admin.ListCommittedOffsets(ctx, b.topic, upstream.DefaultCursorTopic)
		if err != nil {
			return err
		}
		ends.Each(func(o kadm.ListedOffset) {
			if at, _ := stable.Lookup(o.Topic, o.Partition); at.Offset != o.Offset {
				err = fmt.Errorf("%s-%d is stable up to %d of %d", o.Topic, o.Partition, at.Offset, o.Offset)
			}
		})
		return err
	})
}

// cursorOf is the committed cursor of a partition of the one link that carries a topic.
func cursorOf(t *testing.T, c *kafka.Cluster, topic string, partition int32) (found kgo.Record) {
	t.Helper()
	want := fmt.Appendf(nil, `"topic":%q,"partition":%d}`, topic, partition)
	for _, r := range logOf(t, []string{upstream.DefaultCursorTopic}, c.Direct()...) {
		if bytes.HasSuffix(r.Key, want) {
			found = kgo.Record{Topic: r.Topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.Timestamp), Key: r.Key, Value: r.Value}
		}
	}
	if found.Key == nil {
		t.Fatalf("there is no cursor of %s-%d", topic, partition)
	}
	return found
}
