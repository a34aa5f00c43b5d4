package upstream

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The client refuses nothing that the peer may take, and makes no batch of several records that is too large for most peers.
func TestLargeRecordsGoAlone(t *testing.T) {
	k, err := NewKafka(KafkaConfig{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	cl, _, err := k.client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if most := cl.OptValue(kgo.ProducerBatchMaxBytes).(int32); most < 64<<20 {
		t.Errorf("the client refuses records of more than %d bytes", most)
	}
	large := Record{Topic: "a", Value: []byte(strings.Repeat("x", 1000))}
	small := Record{Topic: "a", Value: []byte("x")}
	elsewhere := Record{Topic: "a", Partition: 1, Value: large.Value}
	for _, tt := range []struct {
		name string
		recs []Record
		want int
	}{
		{"one that is too large", []Record{large}, 1},
		{"behind a small one", []Record{small, large}, 1},
		{"before a small one", []Record{large, small}, 1},
		{"of two partitions", []Record{large, elsewhere}, 2},
		{"of two partitions, and again", []Record{large, elsewhere, small}, 2},
		{"small ones", []Record{small, small, small}, 3},
		{"as many as fit", []Record{small, small, small, small, small, small, small, small, small, small, small, small}, 11},
	} {
		if got := batch(tt.recs, 500); got != tt.want {
			t.Errorf("%s: %d go together, want %d", tt.name, got, tt.want)
		}
	}
}

// A request may take a part of the transaction it is of.
func TestRequestsHaveThePatienceOfTheirTransaction(t *testing.T) {
	k, err := NewKafka(KafkaConfig{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for patience, want := range map[time.Duration]time.Duration{
		time.Second: requestLeast, time.Minute: 15 * time.Second, 8 * time.Minute: 2 * time.Minute, time.Hour: requestMost,
	} {
		k.Patience(patience)
		cl, _, err := k.client(k.timeouts()...)
		if err != nil {
			t.Fatal(err)
		}
		read, write := cl.OptValue(kgo.RequestTimeoutOverhead), cl.OptValue(kgo.ProduceRequestTimeout)
		if read != want || write != want {
			t.Errorf("of %v it has %v and %v, want %v", patience, read, write, want)
		}
		cl.Close()
	}
}

func TestFetchesFitTheLink(t *testing.T) {
	n := fetchLeast
	for range 20 {
		n = fit(n, n, time.Second)
	}
	if n != fetchMost {
		t.Errorf("a quick link is asked for %d", n)
	}
	if got := fit(n, 10, time.Millisecond); got != n {
		t.Errorf("at the end %d", got)
	}
	for range 20 {
		n = fit(n, n, time.Minute)
	}
	if n != fetchLeast {
		t.Errorf("a slow one for %d", n)
	}
}
