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

// What goes ahead of a transaction is the first record of its partition, mostly a cursor, and nothing where that saves nothing.
func TestARecordGoesAhead(t *testing.T) {
	body := Record{Topic: "a", Value: make([]byte, scoutLeast)}
	cursor, gap := Record{Topic: "cursors", Partition: 3}, Record{Topic: "gaps"}
	for _, tt := range []struct {
		name string
		recs []Record
		want int
	}{
		{"the first cursor", []Record{body, body, cursor, cursor}, 2},
		{"a gap", []Record{body, cursor, gap, cursor, gap}, 2},
		{"nothing of little", []Record{{Topic: "a"}, cursor}, -1},
		{"what is alone", []Record{body, body}, 0},
	} {
		if got := scouting(tt.recs); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Each refusal of a Send is waited for longer than the last, up to seconds, and the next Send begins anew.
func TestRefusalsAreWaitedForLonger(t *testing.T) {
	s := &kafkaSession{}
	for range 2 {
		for i, least := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1280, 2500, 2500} {
			if got := s.wait(1); got < least*time.Millisecond || got > 2*least*time.Millisecond {
				t.Errorf("refusal %d: %v, want %v to %v", i, got, least*time.Millisecond, 2*least*time.Millisecond)
			}
		}
		s.refused.Store(0)
	}
}

// Partitions that are led are not asked for again; those of which nothing was said are.
func TestPartitionsThatAreNotLedAreAskedForAgain(t *testing.T) {
	topics := map[string]map[int32]*Bound{"a": {0: {From: 1}, 1: {From: 1, Err: ErrMoved}, 2: {}}, "b": {0: {From: 1, Err: ErrOutOfRange}}}
	if !moved(topics) || len(topics) != 1 || len(topics["a"]) != 2 || topics["a"][1].Err != nil || topics["a"][1].From != 0 {
		t.Errorf("left are %v", topics)
	}
	topics["a"][1].From, topics["a"][2].From = 1, 1
	if moved(topics) || len(topics) != 0 {
		t.Errorf("left are %v", topics)
	}
}

// What held a link up for once does not leave it with small transactions for ever.
func TestTransactionsGrowAgain(t *testing.T) {
	ln := &lane{Link: &Link{cfg: Config{TransactionBytes: defaultTransactionBytes, TransactionTimeout: time.Minute}}, size: firstTransaction}
	ln.fitLocked(ln.size, 12*time.Second)
	if ln.size != leastTransactionBytes {
		t.Fatalf("%d bytes after one that took long", ln.size)
	}
	for range 3 {
		ln.fitLocked(ln.size, swift/10)
	}
	if ln.size != firstTransaction {
		t.Errorf("%d bytes, want %d", ln.size, firstTransaction)
	}
	ln.fitLocked(ln.size, swift/10)
	if ln.size != firstTransaction {
		t.Errorf("%d bytes: a near peer has nothing of larger ones", ln.size)
	}
}
