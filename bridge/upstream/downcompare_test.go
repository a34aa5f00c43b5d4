package upstream_test

import (
	"encoding/json"
	"fmt"
	"slices"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// line is a record as it is compared.
func line(timestamp int64, key, value []byte, headers []record.Header) string {
	return fmt.Sprintf("%d %q %v %q %v %q", timestamp, key, key == nil, value, value == nil, headers)
}

// held is what the board has of a partition.
func (s *sea) held(p place) (list []string) {
	for _, part := range s.log.Partitions(p.topic) {
		if int(part.Index()) != p.partition {
			continue
		}
		for _, r := range part.(*upstreamtest.Partition).Records() {
			list = append(list, line(r.Timestamp, r.Key, r.Value, r.Headers))
		}
	}
	return list
}

// gaps are those the board tells of a partition.
func (s *sea) gaps(p place) (list []upstream.Gap) {
	for _, part := range s.log.Partitions(upstream.LocalGapTopic) {
		for _, r := range part.(*upstreamtest.Partition).Records() {
			var g upstream.Gap
			if err := json.Unmarshal(r.Value, &g); err != nil {
				s.t.Fatal(err)
			}
			if g.Topic == p.topic && int(g.Partition) == p.partition {
				list = append(list, g)
			}
		}
	}
	return list
}

// expected is what the board should have taken of a partition below an offset since it went on.
func (s *sea) expected(p place, end int64) (list []string) {
	told := s.gaps(p)[s.told[p]:]
	for _, r := range s.kafka.Everything(p.topic, p.partition, s.from[p]) {
		own := slices.ContainsFunc(r.Headers, func(h record.Header) bool { return h.Key == upstream.HeaderBoard && string(h.Value) == "board1" })
		gone := slices.ContainsFunc(told, func(g upstream.Gap) bool { return r.Offset >= g.First && r.Offset <= g.Last })
		if r.Offset < end && !own && !gone {
			headers := append(slices.Clone(r.Headers), record.Header{Key: upstream.HeaderCluster, Value: []byte("fake")})
			list = append(list, line(r.Timestamp, r.Key, r.Value, headers))
		}
	}
	return list
}

// faultsOf compares what a partition of the board holds with what was there to be taken below an offset.
func (s *sea) faultsOf(p place, end int64) (list []string) {
	held, want := s.held(p), append(slices.Clone(s.before[p]), s.expected(p, end)...)
	for i := range max(len(held), len(want)) {
		switch {
		case i >= len(held):
			return append(list, fmt.Sprintf("%v: record %d of %d is missing: %.80s", p, i, len(want), want[i]))
		case i >= len(want):
			return append(list, fmt.Sprintf("%v: record %d is beyond the %d there should be: %.80s", p, i, len(want), held[i]))
		case held[i] != want[i]:
			return append(list, fmt.Sprintf("%v: record %d is %.80s, want %.80s", p, i, held[i], want[i]))
		}
	}
	return list
}

// faults compares everything.
func (s *sea) faults() (list []string) {
	list = s.found
	for topic, n := range s.size {
		for i := range n {
			if topic != "x" {
				list = append(list, s.faultsOf(place{topic, i}, 1<<40)...)
			}
		}
	}
	if len(s.held(place{"x", 0})) > 0 {
		list = append(list, "a topic came that nobody has chosen")
	}
	return list
}
