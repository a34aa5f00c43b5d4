package cleaner_test

import (
	"testing"
	"time"
)

// link needs a topic from an offset on.
type link int64

func (l *link) Needed(string, [16]byte, int32) (from int64, priority int, needed bool) {
	return int64(*l), 0, true
}

// Compaction goes on whatever a link still needs: of every key it gets the last value. The last value of one that is gone is
// its tombstone, so that stays until the link has it.
func TestCompactionLeavesALinkTheLastOfEveryKey(t *testing.T) {
	topic := compacted()
	topic.DeleteRetentionMS, topic.MinCleanableRatio = 3_600_000, 0
	w, p := begin(t, topic)
	l := new(link)
	w.Store.SetNeeds(l)
	put(t, w, p, "gone=1", "stays=1", "stays=2")
	put(t, w, p, "gone")
	roll(t, w, p)
	c := sweeper(w, 0, 0)
	for _, tt := range []struct {
		from link
		want []string
	}{
		{0, []string{"2 stays=2", "3 gone"}},
		{3, []string{"2 stays=2", "3 gone"}},
		{4, []string{"2 stays=2"}},
	} {
		*l = tt.from
		for range 2 {
			w.Clock = w.Clock.Add(2 * time.Hour)
			roll(t, w, p)
			pass(t, c)
		}
		expect(t, p, tt.want...)
	}
}
