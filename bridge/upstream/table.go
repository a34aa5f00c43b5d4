package upstream

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// cursorID is a CursorKey without what all keys of a link have in common.
type cursorID struct {
	lane      Lane
	topic     string
	partition int32
}

// position is where a lane is in a partition. There is one for every cursor upstream, whether the partition is there or not.
type position struct {
	// cursor is what is committed; has is false while there is none upstream.
	cursor Cursor
	has    bool
	// pos is where the lane reads next.
	//
	// Invariant: pos >= cursor.Next; what lies between held nothing to send.
	pos int64
	// checked is the cursor that the local log was last compared with.
	checked Cursor
	// queued says that the partition is in its queue, draft what a transaction that is being built does to it.
	queued bool
	draft  *draft
}

// part is one local partition that a link carries.
type part struct {
	topic string
	index int32
	id    [16]byte
	class int
	log   Partition // nil while the partition cannot be used
	to    *target
	lane  [lanes]*position
	// shown is what Needed says: the log asks with locks of its own held, so it is not worked out then.
	shown atomic.Pointer[shown]

	verdict Verdict
	reason  string
	// retry is when a Refused or Unreadable partition is tried again, strikes how often it failed in a row.
	retry   time.Time
	strikes int
	// most is how many bytes of it one transaction may hold, 0 for no limit: the peer took no more.
	most int
	// held says that a decision about it is waited for: no transaction begins with it.
	held bool
	// path is where the records went, nil where no groups are followed; marks are those of groups.
	path  *path
	marks []*mark
	// news is Link.news's.
	news bool
	// jump says that the live lane is to leave what there is to the other one.
	jump bool
}

// shown is what a partition needs of the log.
type shown struct {
	id   [16]byte
	from int64
}

// show brings shown up to date.
func (p *part) show() {
	s := shown{id: p.id}
	// Of a log that is not what was delivered nothing is known to be.
	if other := p.verdict == LocalAnew || p.verdict == LocalOther || p.verdict == LocalShort; !other && p.lane[Live].cursor.Local == p.id {
		s.from = p.needed()
	}
	if old := p.shown.Load(); old == nil || *old != s {
		p.shown.Store(&s)
	}
}

// target is a topic upstream.
type target struct {
	local, name string
	mine        int32 // partitions of the local topic
	want        int32 // partitions it should have
	id          [16]byte
	have        int32 // partitions upstream, 0 while it is not known
}

// table is what a link knows of its partitions. Link.mu guards all of it.
type table struct {
	parts   map[string][]*part // by topic and index; nil where a partition is not known
	all     []*part
	left    int // partitions there was no room for
	targets map[string]*target
	// cursors are all of this link's, read or written.
	cursors map[cursorID]*position
	queue   [lanes][]fifo // by class
	// dead are the cursors of topics that were deleted longest ago, beyond those that are kept: they may go upstream too.
	dead []cursorID
	// hints are what was delivered when the board was on last, as far as it was written down, until the cursors are read.
	hints map[cursorID]shown
}

func newTable(classes int) table {
	t := table{parts: map[string][]*part{}, targets: map[string]*target{}, cursors: map[cursorID]*position{}}
	for l := range t.queue {
		t.queue[l] = make([]fifo, classes)
	}
	return t
}

// fifo is a queue of partitions that have something to send.
type fifo struct {
	list []*part
	head int
}

func (q *fifo) len() int { return len(q.list) - q.head }

func (q *fifo) push(p *part) {
	if q.head > 0 && q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	if q.head > 1024 && q.head > len(q.list)/2 {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, p)
}

// remove takes out what gone says.
func (q *fifo) remove(gone func(*part) bool) {
	q.list, q.head = slices.DeleteFunc(q.list[q.head:], gone), 0
}

func (q *fifo) pop() *part {
	p := q.list[q.head]
	q.list[q.head] = nil
	q.head++
	return p
}

// at is the position of a lane, made where there is none.
func (t *table) at(l Lane, topic string, partition int32) *position {
	id := cursorID{l, topic, partition}
	p := t.cursors[id]
	if p == nil {
		p = &position{cursor: Cursor{Last: -1}}
		t.cursors[id] = p
	}
	return p
}

// find is a partition of the table, nil when it is not there.
func (t *table) find(topic string, partition int32) *part {
	list := t.parts[topic]
	if partition < 0 || int(partition) >= len(list) {
		return nil
	}
	return list[partition]
}

// enqueue notes that a partition has something to send, and says whether that is news.
func (t *table) enqueue(l Lane, p *part) bool {
	if pos := p.lane[l]; !pos.queued && p.verdict == Go && !p.held {
		pos.queued = true
		t.queue[l][p.class].push(p)
		return true
	}
	return false
}

// heard puts a partition that the log has told of in line, and says whether the table has no log of it: then it has one again.
func (t *table) heard(p *part) (stale bool) {
	if p.behind(Live) {
		t.enqueue(Live, p)
	}
	return p.log == nil
}

// dequeue takes the partition that waited longest.
func (t *table) dequeue(l Lane, class int) *part {
	p := t.queue[l][class].pop()
	p.lane[l].queued = false
	return p
}

// ready says which classes have something to send.
func (t *table) ready(l Lane, into []bool) (some bool) {
	for c := range into {
		into[c] = t.queue[l][c].len() > 0
		some = some || into[c]
	}
	return some
}

// behind says whether a lane has something to do in the partition.
func (p *part) behind(l Lane) bool {
	if p.log == nil {
		return false
	}
	if l == Backfill {
		_, _, some := p.rest()
		return some
	}
	return p.jump || p.log.High() > p.lane[Live].pos
}

// done is what the backfill lane has finished.
func (p *part) done() int64 {
	if b := p.lane[Backfill]; b.has && b.cursor.Turn == p.lane[Live].cursor.Turn {
		return b.cursor.Next
	}
	return 0
}

// rest is what the backfill lane has to do next: the rest of the oldest range that is not finished.
func (p *part) rest() (from, end int64, some bool) {
	done := p.done()
	for _, r := range p.lane[Live].cursor.Ranges {
		if r.End > done {
			return max(r.First, done), r.End, true
		}
	}
	return 0, 0, false
}

// open are the ranges that are not finished, cut to what is left of them.
func (p *part) open() (list []Range) {
	done := p.done()
	for _, r := range p.lane[Live].cursor.Ranges {
		if r.End > done {
			list = append(list, Range{max(r.First, done), r.End})
		}
	}
	return list
}

// needed is the lowest offset that was not delivered.
func (p *part) needed() int64 {
	if from, _, some := p.rest(); some {
		return from
	}
	return p.lane[Live].cursor.Next
}

// lag is how far the partition is behind, in offsets and about in bytes.
func (p *part) lag() (records, bytes int64) {
	if p.log == nil {
		return 0, 0
	}
	start, high := p.log.Start(), p.log.High()
	records = max(0, high-max(start, p.lane[Live].pos))
	for _, r := range p.open() {
		records += max(0, min(r.End, high)-max(start, r.First))
	}
	if high > start {
		bytes = int64(float64(p.log.Size()) * float64(records) / float64(high-start))
	}
	return records, bytes
}

// look brings the table up to date with the log, and says which topics have no target, or one that is too small.
func (t *table) look(log Log, cfg *Config, class func(string) int) (wanting []*target) {
	names := log.Names()
	slices.Sort(names)
	var list []Partition
	there := map[cursorID]bool{}
	for _, name := range names {
		if !cfg.chosen(name) {
			continue
		}
		parts := log.Partitions(name)
		slices.SortFunc(parts, func(a, b Partition) int { return cmp.Compare(a.Index(), b.Index()) })
		for _, p := range parts {
			there[cursorID{Live, name, p.Index()}] = true
		}
		list = append(list, parts...)
	}
	t.drop(there)
	t.left = 0
	for _, p := range list {
		if known := t.find(p.Topic(), p.Index()); known == nil && len(t.all) >= cfg.Partitions {
			t.left++
			continue
		}
		t.put(p, cfg, class)
	}
	for _, to := range t.targets { // records go by the number of partitions there are, though one cannot be used now
		if n := log.Count(to.local); n > 0 {
			to.mine, to.want = n, n
			if cfg.UpstreamPartitions > 0 {
				to.want = cfg.UpstreamPartitions
			}
		}
	}
	t.age(names, cfg.deadMost())
	for _, to := range t.targets {
		if to.have < to.want {
			wanting = append(wanting, to)
		}
	}
	slices.SortFunc(wanting, func(a, b *target) int { return cmp.Compare(a.name, b.name) })
	return wanting
}

// put makes a partition of the log one of the table.
func (t *table) put(p Partition, cfg *Config, class func(string) int) *part {
	topic, index := p.Topic(), p.Index()
	to := t.targets[topic]
	if to == nil {
		to = &target{local: topic, name: cfg.upstream(topic)}
		t.targets[topic] = to
	}
	known := t.find(topic, index)
	if known == nil {
		known = &part{topic: topic, index: index, id: p.ID(), class: class(topic), to: to}
		for l := range known.lane {
			known.lane[l] = t.at(Lane(l), topic, index)
		}
		for len(t.parts[topic]) <= int(index) {
			t.parts[topic] = append(t.parts[topic], nil)
		}
		t.parts[topic][index] = known
		t.all = append(t.all, known)
	}
	if known.id = p.ID(); !known.lane[Live].has {
		known.lane[Live].cursor.Local = known.id
	}
	known.log = p
	known.show()
	if hint, is := t.hints[cursorID{Live, topic, index}]; is && hint.id == known.id {
		known.shown.Store(&hint)
	}
	return known
}
