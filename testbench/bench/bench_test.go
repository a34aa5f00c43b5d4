package main

import (
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestRatiosAreOfTheSameRound(t *testing.T) {
	f := newFigures("ms")
	for _, round := range [][2]float64{{1, 10}, {100, 1000}, {5, 10}} { // the machine was slow in the second
		f.add(us, round[0])
		f.add("nats", round[1])
	}
	if r, ok := f.ratio("nats"); !ok || math.Abs(r-0.1) > 1e-9 {
		t.Errorf("ratio %v, %v; want 0.1: of the medians it would be 0.5", r, ok)
	}
	if _, ok := f.ratio("kafka"); ok {
		t.Error("a ratio to a peer that was not measured")
	}
	if g := f.against("kafka", "ms", 1, false); g != nil {
		t.Errorf("a goal against a peer that was not measured: %v", g)
	}
	if g := f.against("nats", "ms", 0.05, false); len(g) != 1 || g[0].met {
		t.Errorf("0.1 is at most 0.05: %v", g)
	}
}

func TestQuantiles(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(100-i)*time.Microsecond)
	}
	if p50, p99, last := quantile(d, 0.5), quantile(d, 0.99), quantile(d, 1); p50 != 51 || p99 != 100 || last != 100 {
		t.Errorf("p50 %v, p99 %v, p100 %v", p50, p99, last)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

// A consumer that believed a cut answer would measure less than it says.
func TestFetchAnswersAreReadWholeOrNotAtAll(t *testing.T) {
	r := kmsg.NewPtrFetchResponse()
	r.Version = fetchVersion
	p := kmsg.NewFetchResponseTopicPartition()
	p.HighWatermark, p.RecordBatches = 7, []byte("batches")
	p.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: 1, FirstOffset: 2}}
	r.Topics = []kmsg.FetchResponseTopic{{Topic: "t", Partitions: []kmsg.FetchResponseTopicPartition{p}}}
	body := r.AppendTo(nil)
	high, batches, err := fetched(body)
	if err != nil || high != 7 || string(batches) != "batches" {
		t.Fatalf("high %d, batches %q, %v", high, batches, err)
	}
	for n := range body {
		if _, _, err := fetched(body[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(body), err)
		}
	}
	r.Topics[0].Partitions[0].ErrorCode = kerr.OffsetOutOfRange.Code
	if _, _, err := fetched(r.AppendTo(nil)); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("an error of the partition: %v", err)
	}
}

func TestBenchmarksAreReadAtTheirBest(t *testing.T) {
	order, found, err := readBenchmarks("goos: linux\n" +
		"BenchmarkWheel/add+cancel/1000000-2 \t 2000000\t        49.80 ns/op\t       0 B/op\t       0 allocs/op\n" +
		"BenchmarkWheel/add+cancel/1000000-2 \t 2000000\t        45.10 ns/op\t       8 B/op\t       1 allocs/op\n" +
		"BenchmarkRuntime/add+cancel/1000000-2 \t 2000000\t       250 ns/op\t      80 B/op\t       1 allocs/op\nPASS\n")
	if err != nil || len(order) != 2 || order[0] != "Wheel/add+cancel/1000000" {
		t.Fatalf("%v, %v", order, err)
	}
	if got := found[order[0]]; got != (benchmark{45.1, 1}) {
		t.Errorf("%+v", got)
	}
}

func TestAServerThatDoesNotRunCanBeKilled(t *testing.T) {
	if err := (&server{}).kill(); err != nil {
		t.Error(err)
	}
}
