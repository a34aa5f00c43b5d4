package partition

import (
	"fmt"
	"slices"
	"sort"
	"sync/atomic"

	"millrace/broker/segment"
)

// epochs says in which leader epoch each offset was written: Kafka's LeaderEpochFileCache. The list is replaced, never
// changed. One writer at a time; readers need no lock.
type epochs struct {
	list atomic.Pointer[[]segment.EpochStart]
}

func (e *epochs) load() []segment.EpochStart {
	if l := e.list.Load(); l != nil {
		return *l
	}
	return nil
}

func (e *epochs) store(l []segment.EpochStart) { e.list.Store(&l) }

// after is the index of the first epoch that starts past offset.
func after(l []segment.EpochStart, offset int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].Start > offset })
}

// at is the leader epoch that offset was written in, false where that is not known.
func (e *epochs) at(offset int64) (int32, bool) {
	l := e.load()
	if n := after(l, offset); n > 0 {
		return l[n-1].Epoch, true
	}
	return -1, false
}

// note adds epoch from offset start on, when it is newer than all that are known.
func (e *epochs) note(epoch int32, start int64) {
	l := e.load()
	if n := len(l); epoch < 0 || n > 0 && l[n-1].Epoch >= epoch {
		return
	}
	// An epoch that wrote nothing has no place in the list.
	for len(l) > 0 && l[len(l)-1].Start >= start {
		l = l[:len(l)-1]
	}
	e.store(append(slices.Clip(l), segment.EpochStart{Epoch: epoch, Start: start}))
}

// cut forgets the epochs that start at or after end.
func (e *epochs) cut(end int64) {
	if l := e.load(); len(cutList(l, end)) < len(l) {
		e.store(slices.Clip(cutList(l, end)))
	}
}

func cutList(l []segment.EpochStart, end int64) []segment.EpochStart {
	return l[:sort.Search(len(l), func(i int) bool { return l[i].Start >= end })]
}

// raise forgets the epochs that end at or before start; the one that start lies in begins there.
func (e *epochs) raise(start int64) {
	l := e.load()
	n := after(l, start)
	if n == 0 || l[n-1].Start == start && n == 1 {
		return
	}
	l = slices.Clone(l[n-1:])
	l[0].Start = start
	e.store(l)
}

func (e *epochs) check() error {
	l := e.load()
	for i := 1; i < len(l); i++ {
		if l[i-1].Epoch >= l[i].Epoch || l[i-1].Start >= l[i].Start {
			return fmt.Errorf("leader epochs %v and %v are out of order", l[i-1], l[i])
		}
	}
	return nil
}

// EpochEnd answers OffsetForLeaderEpoch (KIP-101, KIP-279): the largest leader epoch known that is not above the one
// asked for, and the offset where it ended. It is -1, -1 where nothing is known of it.
func (p *Partition) EpochEnd(epoch int32) (int32, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end, now := p.end.Load(), p.epoch.Load()
	l := p.epochs.load()
	switch n := sort.Search(len(l), func(i int) bool { return l[i].Epoch > epoch }); {
	case epoch < 0 || epoch > now:
		return -1, -1
	case epoch == now:
		return epoch, end
	case len(l) == 0:
		return -1, -1
	case n == 0:
		return epoch, l[0].Start
	case n == len(l):
		return l[n-1].Epoch, end
	default:
		return l[n-1].Epoch, l[n].Start
	}
}
