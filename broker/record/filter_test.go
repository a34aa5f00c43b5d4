package record

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What is retained is what was there, whatever is taken out around it, once or again, with or without a delete horizon.
func TestRetainChangesNothingThatItKeeps(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 20).Draw(rt, "records")
		b := Batch(bytes.Clone(build(t, rapid.SampledFrom(codecs).Draw(rt, "codec"), records...)))
		producer := rapid.Bool().Draw(rt, "producer")
		if producer {
			b.SetProducer(7, 3, 100, false)
		}
		b.Stamp(rapid.Int64Range(0, math.MaxInt32).Draw(rt, "base"), 5)
		appended := rapid.Bool().Draw(rt, "log append time")
		if appended {
			b.StampAppendTime(123_456)
		}
		want, err := collect(b, 1<<20)
		if err != nil {
			rt.Fatal(err)
		}
		now := b
		for round := range 2 {
			keep := rapid.SliceOfN(rapid.Bool(), len(want), len(want)).Draw(rt, "keep")
			horizon := rapid.SampledFrom([]int64{-1, 0, 5_000, math.MaxInt64 / 4}).Draw(rt, "horizon")
			i := 0
			front := []byte("in front")
			out, err := now.Retain(front, 1<<20, horizon, func(r Record) bool {
				if r.Offset != want[i].Offset || !bytes.Equal(r.Key, want[i].Key) {
					rt.Fatalf("asked for offset %d, want %d", r.Offset, want[i].Offset)
				}
				i++
				return keep[i-1]
			})
			if err != nil || i != len(want) || !bytes.HasPrefix(out, front) {
				rt.Fatalf("round %d: %d of %d records asked for, %v", round, i, len(want), err)
			}
			was := now
			now = Batch(bytes.Clone(out[len(front):]))
			var kept []Record
			for i, r := range want {
				if keep[i] {
					kept = append(kept, r)
				}
			}
			if err := now.Check(); err != nil {
				rt.Fatal(err)
			}
			got, err := collect(now, 1<<20)
			if err != nil || len(got) != len(kept) || int(now.Count()) != len(kept) {
				rt.Fatalf("round %d: %d records, want %d, %v", round, len(got), len(kept), err)
			}
			largest := int64(-1)
			for i := range got {
				if !same(got[i], kept[i]) {
					rt.Fatalf("round %d: record %d is %v, want %v", round, i, got[i], kept[i])
				}
				largest = max(largest, got[i].Timestamp)
			}
			if now.BaseOffset() != b.BaseOffset() || now.LastOffset() != b.LastOffset() || now.LeaderEpoch() != 5 ||
				now.ProducerID() != b.ProducerID() || now.ProducerEpoch() != b.ProducerEpoch() || now.BaseSequence() != b.BaseSequence() {
				rt.Fatalf("round %d: the header is another: offsets %d to %d, producer %d", round, now.BaseOffset(), now.LastOffset(), now.ProducerID())
			}
			if len(kept) > 0 {
				at, set := now.DeleteHorizon()
				before, was := was.DeleteHorizon()
				if now.Codec() != b.Codec() || now.LogAppendTime() != appended || now.MaxTimestamp() != largest ||
					set != (horizon >= 0 || was) || horizon >= 0 && at != horizon || horizon < 0 && was && at != before {
					rt.Fatalf("round %d: codec %v, max timestamp %d of %d, horizon %d, %v", round, now.Codec(), now.MaxTimestamp(), largest, at, set)
				}
			} else if len(now) != HeaderSize || now.MaxTimestamp() != b.MaxTimestamp() && round == 0 {
				rt.Fatalf("round %d: %d bytes of no records", round, len(now))
			}
			want = kept
		}
		last := now.LastOffset() + 1000
		if now.Extendable(last) == producer {
			rt.Fatalf("extendable with a producer: %v", producer)
		}
		if !producer {
			now.Extend(last)
			got, err := collect(now, 1<<20)
			if err != nil || now.Check() != nil || now.LastOffset() != last || len(got) != len(want) {
				rt.Fatalf("extended: %d records, ends at %d, %v, %v", len(got), now.LastOffset(), now.Check(), err)
			}
		}
	})
}

// A batch larger than every block and window on the way.
func TestRetainOfALargeBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, codec := range codecs {
		var records []Record
		for range 300 {
			v := make([]byte, 1+rng.IntN(2000))
			for i := range v {
				v[i] = byte(rng.IntN(16))
			}
			records = append(records, Record{Timestamp: 1000, Key: v[:1], Value: v})
		}
		b := bytes.Clone(build(t, codec, records...))
		out, err := Batch(b).Retain(nil, 1<<20, -1, func(r Record) bool { return r.Offset%2 == 0 })
		if err != nil {
			t.Fatal(err)
		}
		want, _ := collect(b, 1<<20)
		want = slices.DeleteFunc(want, func(r Record) bool { return r.Offset%2 != 0 })
		got, err := collect(out, 1<<20)
		if err != nil || Batch(out).Check() != nil || !slices.EqualFunc(got, want, same) || len(out) > len(b)*2/3 {
			t.Errorf("%v: %d records of %d, %d bytes of %d, %v", codec, len(got), len(want), len(out), len(b), err)
		}
	}
}

func TestRetainOfDamagedRecordsIsAnError(t *testing.T) {
	for _, codec := range codecs {
		b := Batch(bytes.Clone(build(t, codec, Record{Key: []byte("a"), Value: bytes.Repeat([]byte("v"), 100)}, Record{Key: []byte("b"), Value: []byte("w")})))
		b = b[:len(b)-3]
		if out, err := b.Retain([]byte("x"), 1<<20, -1, func(Record) bool { return true }); err == nil || string(out) != "x" {
			t.Errorf("%v: %d bytes, %v", codec, len(out), err)
		}
	}
}
