package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/record"
	"millrace/broker/wheel"
)

// Log is one partition of __consumer_offsets. It is safe for concurrent use.
type Log interface {
	// AppendRecords appends records in one piece, keeping nothing of them. done is called exactly once, when they are on
	// flash or refused, possibly before AppendRecords returns. An error that wraps ErrTooMany says that it will never take
	// as much; any other that it may take it later.
	AppendRecords(recs []record.Record, done func(error))
	// ReadBatches appends whole checked batches to dst, the first of which holds offset or is the next after it: at least
	// one, and none past High. At High it appends nothing.
	ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error)
	Start() int64
	High() int64
}

// Topic is __consumer_offsets as this broker knows it.
type Topic interface {
	// Partitions is how many it has, 0 while it does not exist. The number does not change once it does.
	Partitions() int
	// Log is a partition that this broker leads; ErrNotCoordinator when it leads it not, ErrUnavailable when it cannot
	// use it now.
	Log(index int) (Log, error)
	// Ensure makes the topic when it does not exist.
	Ensure(ctx context.Context) error
	// Gone says whether a topic of this name and id (zero: any) does not exist any more.
	Gone(topic string, id [16]byte) bool
}

// Budget bounds the memory of all groups, in bytes. A broker/budget Share is one.
type Budget interface {
	TryAcquire(n int64) bool
	Overdraw(n int64)
	Release(n int64)
}

// Config is what a Coordinator needs. Everything but Logger is required.
type Config struct {
	Topic  Topic
	Limits Limits
	Memory Budget
	// Now is the wall clock, NowMS the time in milliseconds since any fixed instant, which never goes back:
	// (*pulse.Pulse).Now. Wake is told of a deadline that may be the earliest: (*pulse.Pulse).Wake.
	Now   func() time.Time
	NowMS func() int64
	Wake  func(atMS int64)
	// NewID makes a part of a member's id that no other has.
	NewID  func() string
	Logger *slog.Logger
}

// Coordinator runs the groups whose partition of __consumer_offsets this broker leads. It is safe for concurrent use.
//
// It registers with the pulse as a Source. One goroutine, Run, takes the events in the order they came; a group's
// records are appended in that order too.
type Coordinator struct {
	config Config
	log    *slog.Logger

	// queueMu guards what others leave for Run: never held while anything else is.
	queueMu sync.Mutex
	// queue is bounded by what asks: a connection has one request at a time, a group one alarm and a write for each
	// request.
	queue  []task
	closed bool          // Run has ended: what comes now is refused
	wake   chan struct{} // of one

	timerMu sync.Mutex
	timers  *wheel.Wheel[*entry] // nil: the sweep

	// mu guards the groups. Run holds it while it takes an event, readers of groups while they read.
	mu      sync.Mutex
	groups  map[string]*entry // Invariant: at most Limits.Groups, but for what was loaded.
	shards  []*shard          // of the topic's partitions, empty while it does not exist
	waiters map[ticket]*waiter
	last    ticket
	// charged is what was taken of Config.Memory.
	charged int64

	loading sync.WaitGroup
	reading sync.Mutex  // one partition is read at a time: the memory of one batch
	ending  atomic.Bool // nothing more needs to be read
}

// entry is a group with its timer.
type entry struct {
	*group
	shard *shard
	size  int64 // of the group, as charged

	handle wheel.Handle // guarded by timerMu, as is at
	at     int64        // when the timer is set to go off, never when it is not
}

// shard is one partition of the topic.
type shard struct {
	index int
	state shardState
	log   Log   // nil unless loaded
	retry int64 // when a load that failed may be tried again, in ms
}

type shardState uint8

const (
	unloaded shardState = iota
	loading
	loaded
)

// retryMS is how long a partition that could not be loaded is let be.
const retryMS = 5000

// task is one thing for Run to do.
type task struct {
	id    string
	event event
	entry *entry // the group itself, where it is known
	all   bool   // every group
}

// waiter is who is answered.
type waiter struct {
	mu    sync.Mutex
	reply func(any) // nil once answered, or not to be
}

func (w *waiter) take() func(any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn := w.reply
	w.reply = nil
	return fn
}

// New makes a Coordinator without groups. Run it. It panics on a Config that lacks something.
func New(c Config) *Coordinator {
	if c.Topic == nil || c.Memory == nil || c.Now == nil || c.NowMS == nil || c.Wake == nil || c.NewID == nil {
		panic("group: config lacks something")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Coordinator{
		config: c, log: c.Logger, wake: make(chan struct{}, 1), groups: map[string]*entry{}, waiters: map[ticket]*waiter{},
		timers: wheel.New[*entry](wheel.Config{TickMS: 1, Slots: 64, Capacity: c.Limits.Groups + 1, NowMS: c.NowMS()}),
	}
}

// Run takes events until ctx is done. The caller owns the goroutine, and closes the topic's logs after it has ended.
func (c *Coordinator) Run(ctx context.Context) {
	c.mu.Lock()
	c.find() // what is there is read before anybody asks
	for _, s := range c.shards {
		c.load(s)
	}
	c.mu.Unlock()
	c.sweepLater()
	for {
		select {
		case <-ctx.Done():
			c.ending.Store(true)
			c.loading.Wait()
			c.close()
			return
		case <-c.wake:
		}
		for {
			c.queueMu.Lock()
			tasks := c.queue
			c.queue = nil
			c.queueMu.Unlock()
			if len(tasks) == 0 {
				break
			}
			for i := range tasks {
				c.mu.Lock()
				c.take(&tasks[i])
				c.mu.Unlock()
			}
		}
	}
}

// close refuses what is left, and what comes from now on.
func (c *Coordinator) close() {
	c.queueMu.Lock()
	c.closed = true
	left := c.queue
	c.queue = nil
	c.queueMu.Unlock()
	for i := range left {
		c.refuse(&left[i])
	}
}

// refuse answers an event that nobody will take.
func (c *Coordinator) refuse(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer(t.event.to(), t.event.fail(ErrUnavailable))
}

// post leaves something for Run.
func (c *Coordinator) post(t task) {
	c.queueMu.Lock()
	closed := c.closed
	if !closed {
		c.queue = append(c.queue, t)
	}
	c.queueMu.Unlock()
	if closed {
		c.refuse(&t)
		return
	}
	select {
	case c.wake <- struct{}{}:
	default: // it was told and has not looked yet
	}
}

// ask posts an event that is answered. cancel stops the answer, unless it was given.
func (c *Coordinator) ask(id string, reply func(any), make func(ticket) event) (cancel func() bool) {
	w := &waiter{reply: reply}
	c.mu.Lock()
	c.last++
	to := c.last
	c.waiters[to] = w
	c.mu.Unlock()
	c.post(task{id: id, event: make(to)})
	return func() bool { return w.take() != nil }
}

// answer gives one who waits what there is to say. Holds mu.
func (c *Coordinator) answer(to ticket, body any) {
	w := c.waiters[to]
	delete(c.waiters, to)
	if w == nil {
		return
	}
	if reply := w.take(); reply != nil {
		reply(body)
	}
}

// take does one task. Holds mu.
func (c *Coordinator) take(t *task) {
	if t.all {
		for _, e := range c.groups {
			c.step(e, t.event)
			c.step(e, tick{}) // a group that found no timer is late, not lost
		}
		if _, swept := t.event.(sweep); swept {
			c.sweepLater()
		}
		return
	}
	if t.entry != nil {
		if c.groups[t.entry.id] == t.entry {
			c.step(t.entry, t.event)
		}
		return
	}
	refuse := func(err error) { c.answer(t.event.to(), t.event.fail(err)) }
	s, err := c.shardOf(t.id)
	if err != nil {
		refuse(err)
		return
	}
	weight := t.event.weight()
	if weight > 0 && !c.config.Memory.TryAcquire(weight) {
		c.log.Warn("no memory for more group state", "group", t.id, "bytes", weight)
		refuse(c.full(t.event))
		return
	}
	e := c.groups[t.id]
	if e == nil {
		switch err := t.event.absent(); {
		case err != nil:
			refuse(err)
		case len(c.groups) >= c.config.Limits.Groups:
			c.log.Warn("too many groups", "group", t.id, "limit", c.config.Limits.Groups)
			refuse(c.full(t.event))
		default:
			e = &entry{group: newGroup(t.id, &c.config.Limits), shard: s, at: never}
			c.groups[t.id] = e
		}
	}
	if e != nil {
		c.step(e, t.event)
	}
	c.config.Memory.Release(weight) // the group is charged for what it took
}

// full is what is said to who would be one too many.
func (c *Coordinator) full(e event) error {
	if _, commit := e.(Commit); commit {
		return ErrTooMany
	}
	return ErrFull
}

// step has an event happen to a group and does what follows. Holds mu.
func (c *Coordinator) step(e *entry, ev event) {
	out := e.step(c.moment(), ev)
	for _, w := range out.writes {
		c.append(e, w)
	}
	for _, r := range out.replies {
		c.answer(r.to, r.body)
	}
	c.settle(e)
}

// settle does what has to follow every step: memory, timer, and the end of a group. Holds mu.
func (c *Coordinator) settle(e *entry) {
	if e.vacant() || e.gone() {
		c.charge(-e.size)
		e.size = 0
		delete(c.groups, e.id)
		c.schedule(e, never)
		return
	}
	c.charge(e.group.size - e.size)
	e.size = e.group.size
	c.schedule(e, e.alarm)
}

func (c *Coordinator) charge(n int64) {
	c.charged += n
	if n > 0 {
		c.config.Memory.Overdraw(n) // there was room: take has asked
	} else {
		c.config.Memory.Release(-n)
	}
}

// append writes a group's records. Holds mu.
func (c *Coordinator) append(e *entry, w write) {
	now := c.config.Now().UnixMilli()
	records := make([]record.Record, len(w.records))
	for i, r := range w.records {
		records[i] = record.Record{Timestamp: now, Key: r.key, Value: r.value}
	}
	e.shard.log.AppendRecords(records, func(err error) {
		if err != nil {
			c.log.Error("group state could not be written", "group", e.id, "err", err)
			if !errors.Is(err, ErrTooMany) {
				err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		}
		c.post(task{entry: e, event: written{w.seq, err}})
	})
}

func (c *Coordinator) moment() moment { return moment{c.config.NowMS(), c.config.Now().UnixMilli()} }

// sweepLater sets the timer of the next sweep.
func (c *Coordinator) sweepLater() {
	at := c.config.NowMS() + c.config.Limits.SweepMS
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	if _, err := c.timers.Add(at, nil); err != nil {
		panic("group: no timer for the sweep: " + err.Error()) // the wheel has room for it and every group
	}
	c.config.Wake(at)
}

// schedule sets a group's timer. A timer that goes off early is set anew: deadlines that move on, as every heartbeat
// moves one, cost nothing.
func (c *Coordinator) schedule(e *entry, at int64) {
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	if at == e.at || at > e.at && at != never {
		return
	}
	c.timers.Cancel(e.handle)
	e.at = never
	if at == never {
		return
	}
	var err error
	if e.handle, err = c.timers.Add(at, e); err != nil {
		// More groups were loaded than the limit is now. The sweep looks after those without a timer.
		c.log.Warn("no timer for a group", "group", e.id, "err", err)
		return
	}
	e.at = at
	c.config.Wake(at)
}

// Next implements pulse.Source.
func (c *Coordinator) Next() (atMS int64, ok bool) {
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	return c.timers.Next()
}

// Advance implements pulse.Source: it leaves what is due for Run.
func (c *Coordinator) Advance(nowMS int64) {
	var due [64]*entry
	for {
		c.timerMu.Lock()
		n := c.timers.Advance(nowMS, due[:])
		for _, e := range due[:n] {
			if e != nil {
				e.at = never
			}
		}
		c.timerMu.Unlock()
		for i, e := range due[:n] {
			if e == nil {
				c.post(task{all: true, event: sweep{}})
			} else {
				c.post(task{entry: e, event: tick{}})
			}
			due[i] = nil
		}
		if n < len(due) {
			return
		}
	}
}
