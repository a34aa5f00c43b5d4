package segment

import (
	"errors"
	"fmt"

	"millrace/broker/record"
)

// ErrTopicIndex is returned for pages of a topic index that are not what was written.
var ErrTopicIndex = errors.New("bad page of a topic index")

// TopicSpan is what a topic index says of a stretch of its log.
type TopicSpan struct {
	First, Next    int64 // offsets, Next exclusive
	Position, Last int64 // of its first and its last batch
	Topics, Under  int   // hashes of topics, and of what topics begin with: -1 where there are too many
	entry          topicEntry
}

// Holds says whether the span's last batch may be this one.
func (t TopicSpan) Holds(b record.Batch) bool {
	return record.Castagnoli(b[:record.HeaderSize]) == t.entry.sum && b.NextOffset() == t.Next
}

// Knows says whether the span may have all topics of a batch that is in it.
func (t TopicSpan) Knows(b record.Batch) bool {
	var h topicHashes
	if !h.add(b) {
		return false
	}
	for _, topic := range h.topics {
		if !t.entry.may(&Wanted{topics: []uint32{topic}}) {
			return false
		}
	}
	for _, under := range h.under {
		if !t.entry.may(&Wanted{under: []uint32{under}}) {
			return false
		}
	}
	return true
}

// ParseTopics reads the bytes of a topic index whose segment begins at base, page by page. bad are the pages that are no
// good: nobody goes by those.
func ParseTopics(raw []byte, base int64) (spans []TopicSpan, bad error) {
	for n := 0; len(raw) > 0; n++ {
		page := raw[:min(topicPage, len(raw))]
		raw = raw[len(page):]
		used := 0
		if len(page) == topicPage {
			used = checkPage(page)
		}
		if used == 0 {
			bad = errors.Join(bad, fmt.Errorf("%w: page %d", ErrTopicIndex, n))
			continue
		}
		for rest := page[pageHeader:used]; len(rest) > 0; {
			e, after, err := nextEntry(rest)
			if err != nil {
				bad = errors.Join(bad, fmt.Errorf("%w: page %d: %w", ErrTopicIndex, n, err))
				break
			}
			rest = after
			under := e.under
			if under == underUnknown {
				under = -1
			}
			spans = append(spans, TopicSpan{
				First: base + e.first, Next: base + e.next, Position: e.from, Last: e.at, Topics: e.topics, Under: under,
				entry: e,
			})
		}
	}
	return spans, bad
}
