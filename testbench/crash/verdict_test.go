package crash

import (
	"bytes"
	"strings"
	"testing"
)

// TestVerdict: the judge finds what it is there to find.
func TestVerdict(t *testing.T) {
	record := func(ns ...int) (log []stored) {
		for i, n := range ns {
			log = append(log, stored{0, int64(i), n})
		}
		return log
	}
	for _, tt := range []struct {
		name  string
		once  bool
		acked []int // in one connection
		log   []int
		want  string // of the only fault, empty for none
	}{
		{"all there", true, []int{0, 1, 2}, []int{0, 1, 2, 3}, ""},
		{"lost", true, []int{0, 1, 2}, []int{0, 2}, "acknowledged and is lost"},
		{"twice from an idempotent producer", true, []int{0, 1}, []int{0, 1, 1}, "there again"},
		{"twice with QoS 1", false, []int{0, 1}, []int{0, 1, 0, 1}, ""},
		{"out of order", true, []int{0, 1}, []int{1, 0}, "comes after"},
		{"out of order in one connection", false, []int{0, 1}, []int{1, 0}, "comes after"},
		{"unacknowledged out of order", false, []int{0}, []int{2, 0, 1}, ""},
		{"never sent", true, nil, []int{9}, "never sent"},
	} {
		l := newLedger("p", tt.once)
		for range 5 {
			l.next()
		}
		for _, n := range tt.acked {
			l.ack(n, 1, 1)
		}
		faults := l.verdict(record(tt.log...))
		switch {
		case tt.want == "" && len(faults) > 0:
			t.Errorf("%s: %v", tt.name, faults)
		case tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0].Error(), tt.want)):
			t.Errorf("%s: %v, want one fault about %q", tt.name, faults, tt.want)
		}
	}
	s := &seen{values: make(map[place]uint32)}
	s.add(place{"t", 0, 1}, []byte("a"))
	s.add(place{"t", 0, 1}, []byte("a"))
	if len(s.faults) > 0 {
		t.Errorf("the same again: %v", s.faults)
	}
	s.add(place{"t", 0, 1}, []byte("b"))
	if len(s.faults) != 1 {
		t.Errorf("another record at the same place: %v", s.faults)
	}
}

func TestPayloadsAreKnownByTheirBytes(t *testing.T) {
	large := 0
	for n := range 500 {
		b := payload(7, "kafka-1", n)
		producer, got, err := parse(b)
		if err != nil || producer != "kafka-1" || got != n {
			t.Fatalf("record %d reads as %s %d, %v", n, producer, got, err)
		}
		if bytes.Equal(b, payload(8, "kafka-1", n)) && len(b) > 20 {
			t.Errorf("record %d does not depend on the seed", n)
		}
		if len(b) >= 64<<10 {
			large++
		}
	}
	if large == 0 {
		t.Error("no record is large enough for a journal pointer")
	}
}
