package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
)

// sessionOf begins a session and returns its id.
func sessionOf(b *board, t *catalog.Topic, offsets ...int64) int32 {
	b.tb.Helper()
	req := fetching(t, offsets...)
	req.SessionEpoch, req.MaxWaitMillis = sessionFull, 0
	resp := ask[*kmsg.FetchResponse](b, req, 12)
	if resp.SessionID == 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != len(offsets) {
		b.tb.Fatalf("a session does not begin: %+v", resp)
	}
	return resp.SessionID
}

// more is an incremental request that changes nothing.
func more(id, epoch int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 1, 1<<20
	req.SessionID, req.SessionEpoch = id, epoch
	return req
}

func indexes(resp *kmsg.FetchResponse) (all []int32) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			all = append(all, p.Partition)
		}
	}
	return all
}

func TestSessionTellsOnlyWhatChanged(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 3, "a")
	id := sessionOf(b, topic, 1, 1, 1)

	if got := indexes(ask[*kmsg.FetchResponse](b, more(id, 1), 12)); len(got) != 0 {
		t.Errorf("nothing changed, told of %v", got)
	}
	produceOne(b, topic, 1, "b")
	resp := ask[*kmsg.FetchResponse](b, more(id, 2), 12)
	wantValues(t, resp, "b")
	if got := indexes(resp); len(got) != 1 || got[0] != 1 || resp.SessionID != id {
		t.Errorf("told of %v in session %d", got, resp.SessionID)
	}
	// The reader moves on: the same partition with another offset.
	next := more(id, 3)
	next.Topics = fetching(topic, 0, 2).Topics
	next.Topics[0].Partitions = next.Topics[0].Partitions[1:]
	if got := ask[*kmsg.FetchResponse](b, next, 12); len(indexes(got)) != 0 {
		t.Errorf("told of %v", indexes(got))
	}
	// A start that moves is told.
	b.log(topic, 0).start = 1
	if got := indexes(ask[*kmsg.FetchResponse](b, more(id, 4), 12)); len(got) != 1 || got[0] != 0 {
		t.Errorf("a start moved, told of %v", got)
	}
	// An error is told, and its end.
	b.log(topic, 2).start, b.log(topic, 2).end, b.log(topic, 2).high = 5, 5, 5
	for _, epoch := range []int32{5, 6} {
		resp = ask[*kmsg.FetchResponse](b, more(id, epoch), 12)
		if got := indexes(resp); len(got) != 1 || resp.Topics[0].Partitions[0].ErrorCode != codeOffsetOutOfRange {
			t.Errorf("an error lasts, told of %v", got)
		}
	}
	next = more(id, 7)
	next.Topics = fetching(topic, 0, 0, 5).Topics
	next.Topics[0].Partitions = next.Topics[0].Partitions[2:]
	resp = ask[*kmsg.FetchResponse](b, next, 12)
	if got := indexes(resp); len(got) != 1 || got[0] != 2 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("an error ended, told of %v", got)
	}
	// What is forgotten is not told of.
	next = more(id, 8)
	next.ForgottenTopics = []kmsg.FetchRequestForgottenTopic{{Topic: "t", Partitions: []int32{0, 1}}}
	_ = ask[*kmsg.FetchResponse](b, next, 12)
	produceOne(b, topic, 0, "c")
	if got := indexes(ask[*kmsg.FetchResponse](b, more(id, 9), 12)); len(got) != 0 {
		t.Errorf("told of %v, which are forgotten", got)
	}
}

func TestSessionWaits(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 2, "a")
	id := sessionOf(b, topic, 1, 1)
	req := more(id, 1)
	req.MaxWaitMillis = 500
	p := b.begin(req, 12)
	p.waits()
	produceOne(b, topic, 1, "b")
	wantValues(t, p.response().(*kmsg.FetchResponse), "b")
}

func TestSessionErrors(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 1, "a")
	id := sessionOf(b, topic, 1)
	for _, tt := range []struct {
		name    string
		version int16
		id      int32
		epoch   int32
		code    int16
	}{
		{"unknown", 12, id + 1, 1, codeSessionNotFound},
		{"epoch too high", 12, id, 2, codeInvalidSessionEpoch},
		{"epoch negative", 12, id, -2, codeInvalidSessionEpoch},
		{"by name and then by id", 13, id, 1, codeSessionTopicID},
	} {
		if got := ask[*kmsg.FetchResponse](b, more(tt.id, tt.epoch), tt.version); got.ErrorCode != tt.code || len(got.Topics) != 0 {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	// A final epoch ends the session and fetches in full.
	last := fetching(topic, 0)
	last.SessionID = id
	resp := ask[*kmsg.FetchResponse](b, last, 12)
	wantValues(t, resp, "a")
	if resp.SessionID != 0 {
		t.Errorf("session %d after its end", resp.SessionID)
	}
	if got := ask[*kmsg.FetchResponse](b, more(id, 1), 12); got.ErrorCode != codeSessionNotFound {
		t.Errorf("code %d after the end", got.ErrorCode)
	}
}

// Partitions that gave records go to the end, so that a small answer serves all of them in turn.
func TestSessionIsFair(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 3, "a")
	id := sessionOf(b, topic, 0, 0, 0) // served in full once, at their turn now: 0, 1, 2
	var order []int32
	for epoch := int32(1); epoch <= 6; epoch++ {
		req := more(id, epoch)
		req.MaxBytes = 1
		order = append(order, indexes(ask[*kmsg.FetchResponse](b, req, 12))...)
	}
	if want := []int32{0, 1, 2, 0, 1, 2}; len(order) != 6 || [6]int32(order) != [6]int32(want) {
		t.Errorf("served in the order %v", order)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	b := open(t, func(c *Config) { c.Sessions, c.SessionBytes = 2, 5*(&want{name: "t"}).size() })
	topic := filled(b, "t", 6, "a")
	begin := func(offsets ...int64) int32 {
		req := fetching(topic, offsets...)
		req.SessionEpoch, req.MaxWaitMillis = sessionFull, 0
		resp := ask[*kmsg.FetchResponse](b, req, 12)
		if len(indexes(resp)) != len(offsets) {
			t.Errorf("a full answer of %d partitions", len(indexes(resp)))
		}
		return resp.SessionID
	}
	if begin(0, 0, 0, 0, 0, 0) != 0 {
		t.Error("a session of more partitions than there is room for")
	}
	first, second := begin(0), begin(0, 0)
	if first == 0 || second == 0 || first == second {
		t.Fatalf("sessions %d and %d", first, second)
	}
	if begin(0) != 0 {
		t.Error("a third of two sessions")
	}
	b.pass(sessionIdleMS - 1)
	_ = ask[*kmsg.FetchResponse](b, more(first, 1), 12) // used
	b.pass(1)
	third := begin(0) // takes the place of the second
	if third == 0 {
		t.Fatal("an idle session does not give way")
	}
	if got := ask[*kmsg.FetchResponse](b, more(second, 1), 12); got.ErrorCode != codeSessionNotFound {
		t.Errorf("code %d for the one that gave way", got.ErrorCode)
	}
	if got := ask[*kmsg.FetchResponse](b, more(first, 2), 12); got.ErrorCode != 0 {
		t.Errorf("code %d for the one in use", got.ErrorCode)
	}
	// Partitions are bounded when they are added later, too.
	grow := more(first, 3)
	grow.Topics = fetching(topic, 0, 0, 0, 0, 0, 0).Topics
	if got := ask[*kmsg.FetchResponse](b, grow, 12); got.ErrorCode == 0 {
		t.Error("a session grew past the bound")
	}
	c := b.sessions
	sum := int64(0)
	for _, s := range c.byID {
		sum += sizeOf(s.wants)
		if len(s.wants) != len(s.index) {
			t.Errorf("session %d has %d wants and %d keys", s.id, len(s.wants), len(s.index))
		}
	}
	if sum != c.taken || c.taken > c.room || c.oldest.Len() != len(c.byID) {
		t.Errorf("%d bytes counted as %d, %d of %d sessions in order", sum, c.taken, c.oldest.Len(), len(c.byID))
	}
}
