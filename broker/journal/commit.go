package journal

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	parallelSyncs = 8 // segments synced at a time
	firstBackoff  = 10 * time.Millisecond
	lastBackoff   = time.Second
	keepShares    = 4096 // entries of maps and queues that are kept for the next commit
)

type shareKey struct {
	topic     [16]byte
	partition int32
}

type segmentKey struct {
	shareKey
	segment int64
}

// committer is what only the committer's goroutine touches. Its buffers are used again by every commit.
type committer struct {
	tail    tail
	front   front
	begun   time.Time // start of the last commit
	pending []staged  // taken from the queue, in order; those before head are in taken
	head    int
	taken   []staged // the groups of this commit, a prefix of pending

	share   map[shareKey]int // bytes that may travel either way, per partition
	force   bool             // everything that can goes as a pointer: one group alone is larger than a frame
	size    int              // of the frame, at most
	frame   []byte
	packed  []byte // the same with packed entries
	sealed  []byte // one of the two: what is written
	index   uint64 // of the frame
	frames  [][]byte
	count   int
	inline  int64
	pointed int64
	seen    map[segmentKey]struct{}
	flush   flush
}

// flush runs the syncs of pointed segments beside the journal's own.
type flush struct {
	syncs []func() error
	next  atomic.Int32
	wg    sync.WaitGroup
	mu    sync.Mutex
	err   error
}

func (f *flush) start() {
	f.next.Store(0)
	f.err = nil
	for range min(len(f.syncs), parallelSyncs) {
		f.wg.Go(f.work)
	}
}

func (f *flush) work() {
	for {
		i := int(f.next.Add(1)) - 1
		if i >= len(f.syncs) {
			return
		}
		if err := f.syncs[i](); err != nil {
			f.mu.Lock()
			if f.err == nil {
				f.err = fmt.Errorf("sync a segment: %w", err)
			}
			f.mu.Unlock()
		}
	}
}

func (f *flush) wait() error {
	f.wg.Wait()
	clear(f.syncs)
	f.syncs = f.syncs[:0]
	return f.err
}

// run is the committer.
func (j *Journal) run() {
	defer close(j.stopped)
	for {
		var goOn bool
		switch j.await() {
		case stepCommit:
			goOn = j.commit()
		case stepDrain:
			goOn = j.drain()
		}
		if !goOn {
			if len(j.c.front.ends) == 0 {
				j.tellDrained(nil)
			}
			j.tellDrained(ErrClosed)
			return
		}
	}
}

// step is what the committer does next.
type step uint8

const (
	stepEnd step = iota // the journal is closing, and nothing waits
	stepCommit
	stepDrain
)

// await returns when there is something to do.
func (j *Journal) await() step {
	c := &j.c
	var timer <-chan time.Time
	for {
		j.mu.Lock()
		waits := c.head < len(c.pending) || len(j.queue) > 0 || len(j.seals) > 0
		if !waits && j.closing {
			last := len(c.front.ends) > 0 && !c.front.tried // else the front keeps it for the next start
			c.front.tried = true
			j.ended = !last
			j.mu.Unlock()
			if last {
				return stepDrain
			}
			return stepEnd
		}
		drain := c.front.want || len(j.drains) > 0
		due := j.interval <= 0 || j.closing || j.queued >= j.o.FrameMax
		interval := j.interval
		j.mu.Unlock()
		if drain {
			return stepDrain
		}
		if !waits {
			select {
			case <-j.wake:
			case <-c.front.timer:
				c.front.timer, c.front.want = nil, true
			}
			continue
		}
		if due {
			return stepCommit
		}
		wait := min(c.begun.Add(interval).Sub(j.o.Now()), interval) // a clock that went back waits no longer
		if wait <= 0 {
			return stepCommit
		}
		if timer == nil {
			timer = j.o.After(wait)
		}
		select {
		case <-timer:
			return stepCommit
		case <-c.front.timer:
			c.front.timer, c.front.want = nil, true
		case <-j.wake: // enough for a frame, another interval, or the end
			timer = nil
		}
	}
}

// commit runs the seals, takes what fits into one frame, makes it durable and answers. It returns false when the
// journal has ended.
func (j *Journal) commit() bool {
	c := &j.c
	c.begun = j.o.Now()
	j.gather()
	j.refuse()
	c.collect(j.o.InlineMax, j.o.FrameMax)
	if len(c.taken) == 0 {
		return true
	}
	c.encode(&j.o, j.id)
	var err error
	if c.count > 0 { // else only barriers
		if err = j.store(); err == nil {
			j.last.Store(c.index)
			j.tally.add(c.index, c.inline, c.pointed)
			j.stats.commits.Add(1)
			j.stats.inline.Add(c.inline)
			j.stats.pointed.Add(c.pointed)
		}
	}
	if err != nil {
		return j.fail(err)
	}
	j.stats.groups.Add(int64(len(c.taken)))
	j.answer(nil)
	j.settle()
	c.shrink()
	return true
}

// shrink lets go of buffers that an unusual commit has left large.
func (c *committer) shrink() {
	if cap(c.frame) > keepBuffer && c.tail.mean < keepBuffer/4 {
		c.frame, c.packed, c.sealed, c.frames = nil, nil, nil, nil
	}
	if len(c.share) > keepShares {
		c.share, c.seen = make(map[shareKey]int), make(map[segmentKey]struct{})
	}
	if cap(c.pending) > keepShares && c.head == len(c.pending) {
		c.pending, c.head = nil, 0
	}
}

// gather runs the deferred seals, which stage, and moves the queue to pending.
func (j *Journal) gather() {
	c := &j.c
	j.mu.Lock()
	seals := j.seals
	j.seals, j.spareSeals = j.spareSeals[:0], nil
	j.mu.Unlock()
	for i, seal := range seals {
		seal()
		seals[i] = nil
	}
	if c.head > 0 && c.head >= len(c.pending)/2 {
		n := copy(c.pending, c.pending[c.head:])
		clear(c.pending[n:])
		c.pending, c.head = c.pending[:n], 0
	}
	j.mu.Lock()
	j.spareSeals = seals[:0]
	c.pending = append(c.pending, j.queue...)
	clear(j.queue)
	j.queue = j.queue[:0]
	j.mu.Unlock()
}

// refuse answers the refused groups at the head of pending.
func (j *Journal) refuse() {
	c := &j.c
	for c.head < len(c.pending) && c.pending[c.head].refused != nil {
		c.taken = c.pending[c.head : c.head+1]
		c.head++
		j.answer(c.taken[0].refused)
	}
	j.settle()
}

// answer calls the done of every taken group, in order, and lets go of them.
func (j *Journal) answer(err error) {
	taken := j.c.taken
	bytes := 0
	for i := range taken {
		bytes += taken[i].bytes
	}
	j.mu.Lock()
	j.queued -= bytes
	j.mu.Unlock()
	for i := range taken {
		taken[i].done(err)
	}
	clear(taken)
	j.c.taken = nil
}

// settle ends a refusal once everything staged so far is answered, and tells whether nothing waits.
func (j *Journal) settle() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	empty := j.c.head == len(j.c.pending) && len(j.queue) == 0 && len(j.seals) == 0
	if empty {
		j.rejecting = nil
	}
	return empty
}

// collect takes groups from pending while one frame holds them, at least one.
func (c *committer) collect(inlineMax, frameMax int) {
	clear(c.share)
	c.force, c.size = false, headerSize
	begin := c.head
	for c.head < len(c.pending) && c.pending[c.head].refused == nil {
		g := &c.pending[c.head]
		size := c.size + g.fixed
		for i := range g.entries {
			size += c.addShare(&g.entries[i], inlineMax)
		}
		if size > frameMax {
			if c.head > begin {
				for i := range g.entries { // it waits for the next commit: its share is not of this one
					c.takeShare(&g.entries[i])
				}
				break
			}
			c.force = true
			c.head++
			break
		}
		c.size = size
		c.head++
	}
	c.taken = c.pending[begin:c.head]
}

// free tells whether e may travel either way.
func free(e *Entry) bool { return e.Kind == Append && e.Sync != nil }

// addShare adds e to its partition's share and returns by how much the frame's inline bytes change.
func (c *committer) addShare(e *Entry, inlineMax int) int {
	if !free(e) {
		return 0
	}
	key := shareKey{e.Topic, e.Partition}
	was := c.share[key]
	now := was + len(e.Bytes)
	c.share[key] = now
	switch {
	case now < inlineMax:
		return len(e.Bytes)
	case was < inlineMax:
		return -was
	default:
		return 0
	}
}

func (c *committer) takeShare(e *Entry) {
	if free(e) {
		c.share[shareKey{e.Topic, e.Partition}] -= len(e.Bytes)
	}
}

// encode builds the frame of the taken groups and the list of segments to sync.
func (c *committer) encode(o *Options, id uint64) {
	c.count, c.inline, c.pointed = 0, 0, 0
	clear(c.seen)
	c.frame = append(c.frame[:0], make([]byte, headerSize)...)
	for i := range c.taken {
		for k := range c.taken[i].entries {
			c.encodeEntry(&c.taken[i].entries[k], o.InlineMax)
		}
	}
	var packed bool
	if len(c.frame) >= o.PackMin {
		c.packed, packed = pack(c.packed, c.frame)
	}
	if c.sealed = c.frame; packed {
		c.sealed = c.packed
	}
	c.index = c.tail.index + 1 + uint64(len(c.front.ends))
	seal(c.sealed, c.index, id, c.count, packed)
}

func (c *committer) encodeEntry(e *Entry, inlineMax int) {
	c.count++
	if e.Kind == Append {
		c.inline += int64(len(e.Bytes))
	}
	share := shareKey{e.Topic, e.Partition}
	if !free(e) || !c.force && c.share[share] < inlineMax {
		c.frame = appendEntry(c.frame, e)
		return
	}
	c.inline -= int64(len(e.Bytes))
	c.pointed += int64(len(e.Bytes))
	p := *e
	p.Kind, p.Length = Pointer, int32(len(e.Bytes))
	if e.Sum != nil {
		p.CRC = e.Sum()
	} else {
		p.CRC = checksum(e.Bytes)
	}
	c.frame = appendEntry(c.frame, &p)
	key := segmentKey{share, e.Segment}
	if _, ok := c.seen[key]; !ok {
		c.seen[key] = struct{}{}
		c.flush.syncs = append(c.flush.syncs, e.Sync)
	}
}

// write makes the frames, the last of which is this commit's, and all it points at durable, side by side.
func (c *committer) write() error {
	c.flush.start()
	err := c.tail.refresh()
	if err == nil {
		err = c.tail.writeAll(c.frames)
	}
	flushErr := c.flush.wait() // always: the syncs belong to groups that are about to be answered
	if err == nil {
		err = flushErr
	}
	if err != nil {
		return err
	}
	return c.tail.accept()
}
