package partition

import (
	"fmt"

	"millrace/broker/catalog"
	"millrace/broker/journal"
)

// Report says what recovery found and did. Everything in it that is not a count of ordinary work was logged as well.
type Report struct {
	Journal    journal.Report
	Slots      int // valid checkpoint slots found, 0 to 2
	Partitions int
	Entries    int64 // journal entries applied
	Orphans    []Orphan
	// Lost names what damage took, one line each with partition and offsets, the first maxLost of them; Gaps counts all.
	Lost []string
	Gaps int64
	// Offline names the partitions whose files could not be opened, with the reason. They come back by themselves.
	Offline []string
	// Quarantined counts journal entries of topics nobody knows; they lie in quarantine/ of the data directory.
	Quarantined int64
	// Deleted counts directories of deleted topics that were removed.
	Deleted int
}

// Orphan is a topic that lies on the disk and that the catalog does not know. Its partitions are open; the broker may
// adopt it under its id or leave it. Only a deletion in the journal ever removes one.
type Orphan struct {
	Topic      Topic
	Partitions int32 // one more than the highest partition found
}

// maxLost bounds how many losses are named; all are counted.
const maxLost = 1000

func (r *recovery) lost(format string, args ...any) {
	r.report.Gaps++
	line := fmt.Sprintf(format, args...)
	r.s.log.Error("recovery: " + line)
	if len(r.report.Lost) < maxLost {
		r.report.Lost = append(r.report.Lost, line)
	}
}

// orphans lists what the catalog does not know of.
func (r *recovery) orphans() {
	found := make(map[catalog.TopicID]int)
	orphan := func(t Topic, index int32) {
		if _, _, ok := r.s.cfg.Known(t.ID); ok {
			return
		}
		i, ok := found[t.ID]
		if !ok {
			i = len(r.report.Orphans)
			found[t.ID] = i
			r.report.Orphans = append(r.report.Orphans, Orphan{Topic: t})
		}
		o := &r.report.Orphans[i]
		o.Partitions = max(o.Partitions, index+1)
	}
	for p := range r.s.All() {
		orphan(p.topic, p.index)
	}
	for k, o := range r.s.offline {
		orphan(o.topic, k.index)
	}
}
