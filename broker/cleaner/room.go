package cleaner

import (
	"cmp"
	"container/heap"
	"errors"

	"millrace/broker/partition"
)

// offered is a partition that may give its oldest segment up.
type offered struct {
	Partition
	offer partition.Offer
}

// offers is a heap: what goes first is at its top. Delivered data goes first, then what links still need, the lowest class
// of it before the next, and within a class what arrived first.
type offers []offered

func (o offers) Len() int      { return len(o) }
func (o offers) Swap(i, j int) { o[i], o[j] = o[j], o[i] }
func (o *offers) Push(x any)   { *o = append(*o, x.(offered)) }
func (o offers) Less(i, j int) bool {
	a, b := o[i].offer, o[j].offer
	return cmp.Or(cmp.Compare(b.Class, a.Class), cmp.Compare(a.Arrival, b.Arrival)) < 0
}

func (o *offers) Pop() any {
	last := len(*o) - 1
	x := (*o)[last]
	(*o)[last] = offered{}
	*o = (*o)[:last]
	return x
}

// offers asks every partition that may give something up.
func (c *Cleaner) offers() (all offers) {
	for p := range c.cfg.Partitions() {
		if !p.Config().DropOldest {
			continue
		}
		if o, ok := p.Offer(); ok {
			all = append(all, offered{p, o})
		}
	}
	heap.Init(&all)
	return all
}

// relief is one clearing of a full disk.
type relief struct {
	c *Cleaner
	// class is the least that went so far: before something of a lower one goes, every partition is asked again.
	class int
	lost  map[string]*loss // what links still needed, by partition
}

// loss is what a partition gave up of it: offsets, both ends included, and bytes.
type loss struct {
	class              int
	first, last, bytes int64
	records            int64
}

// makeRoom drops the oldest segments of all partitions that allow it while the disk is full, in the order of offers. Each
// partition is asked once, and once more for each segment it gives and for each class that is begun.
func (c *Cleaner) makeRoom(now int64) error {
	if !c.cfg.Space.Low(c.cfg.Headroom) {
		return nil
	}
	r := relief{c: c, class: partition.Delivered, lost: make(map[string]*loss)}
	defer r.tell()
	var errs []error
	queue := c.offers()
	for len(queue) > 0 {
		if queue[0].offer.Class < r.class { // links deliver meanwhile: what they need may be less by now
			queue = c.offers()
			if len(queue) == 0 {
				break
			}
			r.class = min(r.class, queue[0].offer.Class)
		}
		of := &queue[0]
		gone, err := of.DropOldest(of.offer.Class)
		errs = append(errs, err)
		r.count(of, gone)
		was := of.offer
		var ok bool
		if of.offer, ok = of.Offer(); !ok || err != nil || gone.Segments == 0 && of.offer == was { // no more, or not now
			heap.Pop(&queue)
		} else {
			heap.Fix(&queue, 0)
		}
		if gone.Segments == 0 {
			continue
		}
		c.cfg.Space.Refresh(now)
		if !c.cfg.Space.Low(c.cfg.Headroom) {
			break
		}
	}
	return errors.Join(errs...)
}

// count counts what a partition gave up.
func (r *relief) count(of *offered, gone partition.Retained) {
	r.c.dropped.Add(gone.To - gone.From)
	r.c.count(of, gone, "disk full")
	n := gone.To - gone.Needed
	if n == 0 {
		return
	}
	r.c.sacrificedRecords.Add(n)
	r.c.sacrificedBytes.Add(gone.NeededBytes)
	l := r.lost[of.String()]
	if l == nil {
		l = &loss{class: of.offer.Class, first: gone.Needed}
		r.lost[of.String()] = l
	}
	l.class, l.last, l.records, l.bytes = min(l.class, of.offer.Class), gone.To-1, l.records+n, l.bytes+gone.NeededBytes
}

// tell logs what links will not get.
func (r *relief) tell() {
	for p, l := range r.lost {
		r.c.cfg.Logger.Warn("the disk is full: records that a link still needed were given up", "partition", p, "class", l.class,
			"first", l.first, "last", l.last, "records", l.records, "bytes", l.bytes)
	}
}

// Sacrificed is the records that links still needed and that were given up because the disk was full, as offsets, and
// about how many bytes they were.
func (c *Cleaner) Sacrificed() (records, bytes int64) {
	return c.sacrificedRecords.Load(), c.sacrificedBytes.Load()
}
