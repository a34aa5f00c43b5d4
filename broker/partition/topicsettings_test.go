package partition_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// flush.messages = 3 lets two records be answered before the sync. Nobody is served them before it all the same, and
// where the sync fails they are gone, as that setting says.
func TestFlushMessagesMovesOnlyTheAnswer(t *testing.T) {
	for _, fails := range []int{0, 1} {
		w := partitiontest.New(t)
		w.Topic.FlushMessages = 3
		w.Start()
		p := w.Create("a")
		w.Journal.Hold()
		w.Journal.Fail(fails)
		answers := make(chan partition.AppendResult, 3)
		for i := range 3 {
			p.Append(partitiontest.Batch(fmt.Sprint(i)), partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { answers <- r })
			if want := min(i+1, 2); len(answers) != want {
				t.Fatalf("%d of %d unsynced records are answered, want %d", len(answers), i+1, want)
			}
		}
		for i := range int64(2) {
			if r := <-answers; r.Base != i || r.Err != nil {
				t.Errorf("answered %+v, want offset %d", r, i)
			}
		}
		if got := values(t, p); p.High() != 0 || len(got) > 0 {
			t.Errorf("before the sync %v are served, high watermark %d", got, p.High())
		}
		w.Journal.Step()
		left := int64(3)
		if fails > 0 {
			left = 0
		}
		if r := <-answers; (r.Err != nil) != (fails > 0) || r.Err == nil && r.Base != 2 {
			t.Errorf("with %d failed syncs the third is answered %+v", fails, r)
		}
		if p.High() != left || p.End() != left || !slices.Equal(values(t, p), want(0, left)) {
			t.Errorf("with %d failed syncs: %v, high watermark %d, end %d; want %d records", fails, values(t, p), p.High(), p.End(), left)
		}
		w.Journal.Fail(0)
		w.Journal.Release()
		partitiontest.Fill(t, p, 1) // answered early too, and kept by a clean stop
		w.Stop()
		w.Start()
		if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, left+1)) {
			t.Errorf("after a clean stop: %v", got)
		}
	}
}

// What retention.ms and retention.bytes let go, and nothing else; -1 keeps everything.
func TestRetentionGoesByAgeAndBySize(t *testing.T) {
	const hour = 3_600_000
	for _, tt := range []struct {
		name      string
		ms, bytes int64
		// gone is how many of six segments go when the first three are two hours old and the others are new.
		gone int
	}{
		{"neither", -1, -1, 0},
		{"age", hour, -1, 3},
		{"an age nobody has", 3 * hour, -1, 0},
		{"size", -1, 2, 4}, // in segments, as below
		{"a size nobody has", -1, 7, 0},
		{"both, age asks for more", hour, 4, 3},
		{"both, size asks for more", hour, 1, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := partitiontest.New(t)
			size := int64(len(partitiontest.Batch("0")))
			w.Topic.SegmentBytes = size // a segment for each record
			w.Topic.RetentionMS, w.Topic.RetentionBytes = tt.ms, tt.bytes
			if tt.bytes > 0 {
				w.Topic.RetentionBytes *= size
			}
			w.Start()
			p := w.Create("a")
			partitiontest.Fill(t, p, 3)
			w.Clock = w.Clock.Add(2 * time.Hour)
			partitiontest.Fill(t, p, 3)
			if n := segments(t, w, p); n != 6 {
				t.Fatalf("%d segments, want 6", n)
			}
			r, err := p.Retain(w.Clock.UnixMilli())
			if err != nil || r.Segments != tt.gone || p.Start() != int64(tt.gone) {
				t.Errorf("%+v, %v, start %d; want %d segments gone", r, err, p.Start(), tt.gone)
			}
			if n := segments(t, w, p); n != 6-tt.gone {
				t.Errorf("%d files are left, want %d", n, 6-tt.gone)
			}
			w.Restart()
			if got := values(t, w.Partition("a")); !slices.Equal(got, want(int64(tt.gone), 6)) {
				t.Errorf("after a restart: %v", got)
			}
		})
	}
}

// With message.timestamp.type = LogAppendTime the broker's clock counts, for what Kafka clients append and for what is
// gathered from MQTT clients and sensors; without it their own times stay.
func TestMessageTimestampType(t *testing.T) {
	const theirs = 1_700_000_000_000
	for _, ours := range []bool{false, true} {
		w := partitiontest.New(t)
		w.Topic.LogAppendTime = ours
		w.Start()
		p := w.Create("a")
		b := record.NewBuilder(record.None)
		b.Add(theirs, nil, []byte("0"), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan partition.AppendResult, 1)
		answer := func(r partition.AppendResult) { answers <- r }
		for i, add := range []func(){
			func() { p.Append(batch, partition.AppendOptions{Epoch: -1}, answer) },
			func() {
				p.AppendRecords([]record.Record{{Timestamp: theirs, Value: []byte("1")}}, partition.AppendOptions{Epoch: -1}, answer)
			},
		} {
			add()
			r := <-answers
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			told, at := int64(-1), int64(theirs)
			if ours {
				told, at = w.Clock.UnixMilli(), w.Clock.UnixMilli()
			}
			if r.AppendTime != told {
				t.Errorf("LogAppendTime %v, way in %d: told %d, want %d", ours, i, r.AppendTime, told)
			}
			span, err := p.Read(r.Base, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := span.Append(nil)
			span.Release()
			if err != nil {
				t.Fatal(err)
			}
			stored := record.Batch(raw)
			if err := stored.Check(); err != nil || stored.LogAppendTime() != ours {
				t.Errorf("LogAppendTime %v, way in %d: the batch says %v, %v", ours, i, stored.LogAppendTime(), err)
			}
			for rec, err := range stored.Records(1 << 20) {
				if err != nil || rec.Timestamp != at {
					t.Errorf("LogAppendTime %v, way in %d: stored at %d, %v; want %d", ours, i, rec.Timestamp, err, at)
				}
			}
		}
	}
}
