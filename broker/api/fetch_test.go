package api

import (
	"bytes"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/record"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// fetching is a Fetch request for partitions 0 and up of a topic, from the offsets given.
func fetching(t *catalog.Topic, offsets ...int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 500, 1, 1<<20, sessionNone
	out := kmsg.NewFetchRequestTopic()
	out.Topic, out.TopicID = t.Name, t.ID
	for i, o := range offsets {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(i), o, 1<<20
		out.Partitions = append(out.Partitions, p)
	}
	req.Topics = append(req.Topics, out)
	return req
}

// filled is a topic whose partitions have one batch of each value.
func filled(b *board, name string, partitions int, values ...string) *catalog.Topic {
	b.tb.Helper()
	t := b.topic(name, partitions)
	for i := range partitions {
		for _, v := range values {
			produceOne(b, t, int32(i), v)
		}
	}
	return t
}

func produceOne(b *board, t *catalog.Topic, index int32, value string) {
	b.tb.Helper()
	req := producing(t, -1, batch(b.tb, record.None, value))
	req.Topics[0].Partitions[0].Partition = index
	if got := ask[*kmsg.ProduceResponse](b, req, 12).Topics[0].Partitions[0]; got.ErrorCode != 0 {
		b.tb.Fatalf("produce: %+v", got)
	}
	b.Advance(t.ID, index)
}

// values are the values of all records in an answer.
func values(t testing.TB, resp *kmsg.FetchResponse) (all []string) {
	t.Helper()
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			for rest := p.RecordBatches; len(rest) > 0; {
				var b record.Batch
				var err error
				if b, rest, err = record.Next(rest); err != nil {
					t.Fatal(err)
				}
				for r, err := range b.Records(1 << 20) {
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, string(r.Value))
				}
			}
		}
	}
	return all
}

func wantValues(t testing.TB, resp *kmsg.FetchResponse, want ...string) {
	t.Helper()
	got := values(t, resp)
	if len(got) != len(want) {
		t.Fatalf("values %q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("values %q, want %q", got, want)
		}
	}
}

func TestFetchInEveryVersion(t *testing.T) {
	versions(t, 1, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := filled(b, "t", 2, "a", "b", "c")
		resp := ask[*kmsg.FetchResponse](b, fetching(topic, 1, 3), version)
		wantValues(t, resp, "b", "c")
		p := resp.Topics[0].Partitions
		if p[0].HighWatermark != 3 || p[1].HighWatermark != 3 || p[0].ErrorCode != 0 || resp.SessionID != 0 {
			t.Errorf("%+v", resp)
		}
		if p[0].LastStableOffset != -1 || p[0].AbortedTransactions != nil {
			t.Errorf("what only read_committed asks for: %+v", p[0])
		}
		req := fetching(topic, 0)
		req.IsolationLevel = 1
		q := ask[*kmsg.FetchResponse](b, req, version).Topics[0].Partitions[0]
		if q.LastStableOffset != 3 || q.AbortedTransactions == nil {
			t.Errorf("read_committed: %+v", q)
		}
	})
}

func TestFetchWaitsForRecords(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 3, "a")
	p := b.begin(fetching(topic, 1, 1, 1), 12)
	p.waits()
	b.Advance(topic.ID, 0) // nothing new
	p.waits()
	produceOne(b, topic, 2, "b")
	wantValues(t, p.response().(*kmsg.FetchResponse), "b")
}

func TestFetchIsAnsweredEmptyAtItsDeadline(t *testing.T) {
	b := open(t, nil)
	p := b.begin(fetching(filled(b, "t", 1, "a"), 1), 12)
	b.pass(499)
	p.waits()
	b.pass(2)
	resp := p.response().(*kmsg.FetchResponse)
	wantValues(t, resp)
	if resp.Topics[0].Partitions[0].HighWatermark != 1 {
		t.Errorf("%+v", resp)
	}
}

func TestFetchWaitsForMinBytes(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 2, "a")
	size := len(batch(t, record.None, "a"))
	req := fetching(topic, 0, 0)
	req.MinBytes = int32(4 * size)
	p := b.begin(req, 12)
	p.waits()
	reads := b.log(topic, 0).reads
	produceOne(b, topic, 0, "b")
	p.waits()
	produceOne(b, topic, 1, "c")
	wantValues(t, p.response().(*kmsg.FetchResponse), "a", "b", "a", "c")
	if more := b.log(topic, 0).reads - reads; more != 1 {
		t.Errorf("the log was read %d times while the fetch waited, only the answer may", more)
	}
}

func TestFetchMinBytesZeroNeverWaits(t *testing.T) {
	b := open(t, nil)
	req := fetching(filled(b, "t", 1), 0)
	req.MinBytes = 0
	wantValues(t, ask[*kmsg.FetchResponse](b, req, 12))
}

func TestFetchKeepsToMaxBytes(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 3, "a", "b")
	size := int32(len(batch(t, record.None, "a")))
	for _, tt := range []struct {
		max, partition int32
		want           []string
	}{
		{1 << 20, 1 << 20, []string{"a", "b", "a", "b", "a", "b"}},
		{3 * size, 1 << 20, []string{"a", "b", "a"}},
		{2 * size, 1 << 20, []string{"a", "b"}},
		{1 << 20, size, []string{"a", "a", "a"}},
		{0, 0, []string{"a"}}, // one batch always, so that every reader gets on
		{1, 1, []string{"a"}},
		{-5, -5, []string{"a"}},
	} {
		req := fetching(topic, 0, 0, 0)
		req.MaxBytes = tt.max
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = tt.partition
		}
		wantValues(t, ask[*kmsg.FetchResponse](b, req, 12), tt.want...)
	}
}

// The broker's own limit holds whatever is asked for.
func TestFetchKeepsToTheBrokersMaxBytes(t *testing.T) {
	size := len(batch(t, record.None, "a"))
	b := open(t, func(c *Config) { c.FetchMax = 3 * size })
	req := fetching(filled(b, "t", 3, "a", "b"), 0, 0, 0)
	req.MaxBytes = 1 << 20
	wantValues(t, ask[*kmsg.FetchResponse](b, req, 12), "a", "b", "a")
}

func TestFetchRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version int16
		change  func(b *board, req *kmsg.FetchRequest)
		code    int16
	}{
		{"unknown topic", 12, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].Topic = "no" }, codeUnknownTopicOrPartition},
		{"unknown topic id", 13, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].TopicID[3]++ }, codeUnknownTopicID},
		{"unknown partition", 12, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].Partition = 5 }, codeUnknownTopicOrPartition},
		{"offset past the end", 12, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = 3 }, codeOffsetOutOfRange},
		{"offset before the start", 12, func(b *board, r *kmsg.FetchRequest) {
			b.log(b.Image().Topic("t"), 0).start = 1
			r.Topics[0].Partitions[0].FetchOffset = 0
		}, codeOffsetOutOfRange},
		{"negative offset", 12, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = -1 }, codeOffsetOutOfRange},
		{"epoch gone by", 12, func(b *board, r *kmsg.FetchRequest) {
			b.log(b.Image().Topic("t"), 0).epoch = 2
			r.Topics[0].Partitions[0].CurrentLeaderEpoch = 1
		}, codeFencedLeaderEpoch},
		{"epoch to come", 12, func(_ *board, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = 1 }, codeUnknownLeaderEpoch},
		{"unreadable", 12, func(b *board, r *kmsg.FetchRequest) {
			b.log(b.Image().Topic("t"), 0).readError = errors.New("?")
			r.Topics[0].Partitions[0].FetchOffset = 0
		}, codeUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := open(t, nil)
			req := fetching(filled(b, "t", 1, "a", "b"), 2)
			tt.change(b, req)
			if got := ask[*kmsg.FetchResponse](b, req, tt.version).Topics[0].Partitions[0]; got.ErrorCode != tt.code {
				t.Errorf("code %d, want %d", got.ErrorCode, tt.code)
			}
		})
	}
}

func TestFetchFromAFollowerTellsTheLeader(t *testing.T) {
	b := open(t, nil)
	b.do(catalog.CreateTopic{Name: "far", ID: catalog.NewTopicID(), Partitions: []catalog.PartitionState{leadBy([]int32{other})}})
	p := ask[*kmsg.FetchResponse](b, fetching(b.Image().Topic("far"), 0), 12).Topics[0].Partitions[0]
	if p.ErrorCode != codeNotLeader || p.CurrentLeader.LeaderID != other {
		t.Errorf("%+v", p)
	}
}

func TestFetchTellsWhereLogsPart(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 1, "a", "b", "c")
	log := b.log(topic, 0)
	log.epoch, log.epochEnds = 4, map[int32]int64{1: 2}
	req := fetching(topic, 3)
	req.Topics[0].Partitions[0].LastFetchedEpoch = 3 // we only know of 1, which ended at 2
	p := ask[*kmsg.FetchResponse](b, req, 12).Topics[0].Partitions[0]
	if p.ErrorCode != 0 || p.DivergingEpoch.Epoch != 1 || p.DivergingEpoch.EndOffset != 2 || len(p.RecordBatches) > 0 {
		t.Errorf("%+v", p)
	}
}

func TestReplicasAreRefused(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 1)
	for version, change := range map[int16]func(*kmsg.FetchRequest){
		12: func(r *kmsg.FetchRequest) { r.ReplicaID = 2 },
		16: func(r *kmsg.FetchRequest) { r.ReplicaState.ID = 2 },
	} {
		req := fetching(topic, 0)
		change(req)
		if got := ask[*kmsg.FetchResponse](b, req, version); got.ErrorCode != codeReplicaNotAvailable {
			t.Errorf("v%d: code %d", version, got.ErrorCode)
		}
	}
}

func TestFetchOfAPeerThatHasGone(t *testing.T) {
	b := open(t, nil)
	p := b.begin(fetching(b.topic("t", 1), 0), 12)
	if !p.cancel() {
		t.Error("a waiting fetch is not given up")
	}
	if p.cancel() {
		t.Error("it is given up twice")
	}
	p.waits()
}

func TestFetchWithoutRoomToWaitIsAnsweredAtOnce(t *testing.T) {
	b := open(t, nil)
	b.waits.Close()
	wantValues(t, ask[*kmsg.FetchResponse](b, fetching(b.topic("t", 1), 0), 12))
}

// Whatever bytes a Fetch holds, it is answered once, and nothing is left behind.
func FuzzFetch(f *testing.F) {
	b := open(f, nil)
	topic := filled(b, "t", 2, "a")
	for _, version := range []int16{4, 7, 12, 18} {
		req := fetching(topic, 0, 0)
		req.SetVersion(version)
		f.Add(version, req.AppendTo(nil))
		req.SessionEpoch = 0
		f.Add(version, req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		h := wire.Header{Key: 1, Version: version}
		req, err := wire.Decode(h, body)
		if err != nil {
			return
		}
		req.(*kmsg.FetchRequest).MaxWaitMillis = 0
		var answers int
		b.Serve(&server.Request{Header: h, Body: req, Context: t.Context()}, func(a server.Answer) {
			r := a()
			var out bytes.Buffer
			p, err := r.Append(nil)
			out.Write(p)
			if err != nil || out.Len() != r.Size() {
				t.Errorf("%d bytes of %d, %v", out.Len(), r.Size(), err)
			}
			r.Release()
			answers++
		})
		if answers != 1 {
			t.Errorf("%d answers", answers)
		}
	})
}

func TestFetchOfATopicThatIsDeletedIsAnsweredAtOnce(t *testing.T) {
	versions(t, 1, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := filled(b, "t", 1, "a")
		req := fetching(topic, 1)
		req.MaxWaitMillis, req.MinBytes = 60_000, 1
		p := b.begin(req, version)
		p.waits()
		gone := kmsg.NewPtrDeleteTopicsRequest()
		gone.TopicNames = []string{"t"}
		if got := ask[*kmsg.DeleteTopicsResponse](b, gone, 5).Topics[0]; got.ErrorCode != 0 {
			t.Fatalf("code %d", got.ErrorCode)
		}
		want := codeUnknownTopicOrPartition
		if version >= 13 {
			want = codeUnknownTopicID
		}
		if got := p.response().(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode; got != want {
			t.Errorf("code %d, want %d", got, want)
		}
	})
}

func TestFetchesOfManyPartitionsShareRoom(t *testing.T) {
	share, err := budget.New(64<<10).Share("answers", 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, func(c *Config) { c.Answers = share })
	offsets := make([]int64, 500)
	req := fetching(filled(b, "t", len(offsets), "a"), offsets...)
	r := b.begin(req, 12).raw()
	if used := share.Used(); used == 0 || used > int64(r.Size()) {
		t.Errorf("%d bytes of room for an answer of %d", used, r.Size())
	}
	r.Release()
	if used := share.Used(); used != 0 {
		t.Errorf("%d bytes of room are not given back", used)
	}
}
