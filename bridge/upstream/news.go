package upstream

import (
	"maps"
	"slices"
	"sync"
)

// news is what the log has told since the link last asked. The log tells it with locks of its own held, so nothing of the
// log is asked with mu held.
type news struct {
	cfg *Config

	mu    sync.Mutex
	parts map[string][]*part // as the table had them last
	list  []*part            // that have something new
	spare []*part            // belongs to who drains
	// stale says that the log has topics or partitions that are not in the table, or others of the same name.
	stale   bool
	ignored map[string]struct{} // topics that are not carried
}

// ignoredMax bounds the names of topics that are known not to be carried.
const ignoredMax = 8192

func (n *news) find(topic string, partition int32) *part {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.findLocked(topic, partition)
}

// findLocked is a partition as the table had it last, nil when it was not there.
func (n *news) findLocked(topic string, partition int32) *part {
	if list := n.parts[topic]; partition >= 0 && int(partition) < len(list) {
		return list[partition]
	}
	return nil
}

// advanced notes that a partition has something new, and says whether that was not known.
func (n *news) advanced(topic string, id [16]byte, partition int32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.findLocked(topic, partition); p != nil && p.shown.Load().id == id {
		if p.news {
			return false
		}
		p.news = true
		n.list = append(n.list, p)
		return true
	}
	if _, known := n.ignored[topic]; known || n.stale {
		return false
	}
	if n.cfg.chosen(topic) {
		n.stale = true
		return true
	}
	if len(n.ignored) < ignoredMax {
		n.ignored[topic] = struct{}{}
	}
	return false
}

// begin is called before the table is brought up to date, end after it: what comes in between is not lost.
func (n *news) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stale = false
}

func (n *news) end(parts map[string][]*part) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parts = maps.Clone(parts)
	for topic, list := range n.parts {
		n.parts[topic] = slices.Clone(list)
	}
}

// drain calls fn with the partitions that have something new, and says whether the table is out of date. It is for one
// goroutine at a time. fn may ask the log.
func (n *news) drain(fn func(*part)) (stale bool) {
	n.mu.Lock()
	n.list, n.spare = n.spare[:0], n.list
	for _, p := range n.spare {
		p.news = false
	}
	stale = n.stale
	n.mu.Unlock()
	for i, p := range n.spare {
		n.spare[i] = nil
		fn(p)
	}
	return stale
}
