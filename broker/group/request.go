package group

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Find makes sure that there is a coordinator, and returns the partition of __consumer_offsets that says who it is.
func (c *Coordinator) Find(ctx context.Context, id string) (partition int, err error) {
	n := c.config.Topic.Partitions()
	if n == 0 {
		if err := c.config.Topic.Ensure(ctx); err != nil {
			return 0, errors.Join(ErrUnavailable, err)
		}
		if n = c.config.Topic.Partitions(); n == 0 {
			return 0, ErrUnavailable
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.find()
	for _, s := range c.shards {
		// Read while the client connects. Whether it works it is told there.
		_ = c.load(s)
	}
	return Partition(id, n), nil
}

// protocolsMax bounds the protocols a member may know: every one is looked for at every other member.
const protocolsMax = 64

// Join has a member join; reply is called once, when the generation has begun or the member is refused. cancel stops
// the answer, not the join.
func (c *Coordinator) Join(e Join, reply func(JoinReply)) (cancel func() bool) {
	l := &c.config.Limits
	switch {
	case e.Group == "":
		reply(e.fail(ErrInvalidGroup).(JoinReply))
		return nil
	case int64(e.SessionMS) < l.MinSessionMS || int64(e.SessionMS) > l.MaxSessionMS:
		reply(e.fail(ErrInvalidSession).(JoinReply))
		return nil
	case e.ProtocolType == "" || len(e.Protocols) == 0 || len(e.Protocols) > protocolsMax:
		reply(e.fail(ErrInconsistentProtocol).(JoinReply))
		return nil
	}
	e.RebalanceMS = max(e.RebalanceMS, 0)
	name := e.Instance
	if name == "" {
		name = e.ClientID
	}
	e.newID = name + "-" + c.config.NewID()
	return c.ask(e.Group, func(r any) { reply(r.(JoinReply)) }, func(to ticket) event { e.tell = to; return e })
}

// Sync has a member ask for its assignment, see Join.
func (c *Coordinator) Sync(e Sync, reply func(SyncReply)) (cancel func() bool) {
	if e.Group == "" {
		reply(SyncReply{Err: ErrInvalidGroup})
		return nil
	}
	return c.ask(e.Group, func(r any) { reply(r.(SyncReply)) }, func(to ticket) event { e.tell = to; return e })
}

// Heartbeat keeps a member's session alive; reply is called once.
func (c *Coordinator) Heartbeat(e Heartbeat, reply func(error)) {
	if e.Group == "" {
		reply(ErrInvalidGroup)
		return
	}
	c.ask(e.Group, func(r any) { reply(asError(r)) }, func(to ticket) event { e.tell = to; return e })
}

// Leave takes members out; reply is called once.
func (c *Coordinator) Leave(e Leave, reply func(LeaveReply)) {
	if e.Group == "" {
		reply(LeaveReply{Err: ErrInvalidGroup})
		return
	}
	c.ask(e.Group, func(r any) { reply(r.(LeaveReply)) }, func(to ticket) event { e.tell = to; return e })
}

// Commit writes offsets down; reply is called once, when they are on flash or refused, all of them.
func (c *Coordinator) Commit(e Commit, reply func(error)) {
	c.ask(e.Group, func(r any) { reply(asError(r)) }, func(to ticket) event { e.tell = to; return e })
}

// Delete deletes a group without members and returns when that is on flash.
func (c *Coordinator) Delete(id string) error {
	if id == "" {
		return ErrInvalidGroup
	}
	return asError(c.wait(id, func(to ticket) event { return DeleteGroup{id, to} }))
}

// DeleteOffsets deletes offsets of a group and returns when that is on flash.
func (c *Coordinator) DeleteOffsets(e DeleteOffsets) DeleteReply {
	return c.wait(e.Group, func(to ticket) event { e.tell = to; return e }).(DeleteReply)
}

// wait is ask for who waits. It ends: a write does, and all else is done at once.
func (c *Coordinator) wait(id string, make func(ticket) event) any {
	answer := newBox()
	c.ask(id, answer.put, make)
	return answer.get()
}

// box hands over one answer.
type box chan any

func newBox() box       { return make(box, 1) }
func (b box) put(r any) { b <- r }
func (b box) get() any  { return <-b }
func asError(r any) error {
	err, _ := r.(error) // nil is no error
	return err
}

// ForgetTopic drops what groups have of a deleted topic and returns when that is on flash, so that one made anew under
// the same name begins without. id is the deleted topic's.
func (c *Coordinator) ForgetTopic(topic string, id [16]byte) error {
	gone := func(t string, of [16]byte) bool { return t == topic && (of == id || of == [16]byte{}) }
	var ids []string
	c.mu.Lock()
	for _, e := range c.groups {
		if len(e.offsets[topic]) > 0 || len(e.writing) > 0 {
			ids = append(ids, e.id)
		}
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(ids))
	for i, g := range ids {
		wg.Add(1)
		c.ask(g, func(r any) {
			errs[i] = asError(r)
			wg.Done()
		}, func(to ticket) event { return forget{gone, to} })
	}
	wg.Wait()
	for i, err := range errs {
		if errors.Is(err, ErrNotFound) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// Offset is how far a group has read a partition.
type Offset struct {
	Place
	Offset   int64
	Epoch    int32
	Metadata string
	TopicID  [16]byte // of the topic it is of, zero where who committed it did not say
}

// Count is how many offsets a group has, and about how many bytes they take. The error is ErrLoading, ErrNotCoordinator
// or ErrUnavailable; a group that does not exist has none.
func (c *Coordinator) Count(id string) (n, size int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.shardOf(id); err != nil {
		return 0, 0, err
	}
	if e := c.groups[id]; e != nil {
		return e.offsets.count(), int(e.offsets.cost()), nil
	}
	return 0, 0, nil
}

// Offsets are a group's, of the places asked for, or all of them, in order, where places is nil. What there is not is
// left out. Errors as Count's.
func (c *Coordinator) Offsets(id string, places []Place) ([]Offset, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.shardOf(id); err != nil {
		return nil, err
	}
	e := c.groups[id]
	if e == nil || e.phase == Dead {
		return nil, nil
	}
	if places == nil {
		places = e.places(func(string, offset) bool { return true })
	}
	list := make([]Offset, 0, len(places))
	for _, p := range places {
		if o, ok := e.offsets[p.Topic][p.Partition]; ok {
			list = append(list, Offset{p, o.at, o.epoch, o.metadata, o.topicID})
		}
	}
	return list, nil
}

// Listing is a group in a list.
type Listing struct {
	ID, ProtocolType string
	Phase            Phase
}

// List names all groups, in order. The error is ErrLoading while some are not known yet; the others are listed.
func (c *Coordinator) List() ([]Listing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.find()
	var err error
	for _, s := range c.shards {
		if s.state == loaded {
			continue
		}
		if failed := c.load(s); !errors.Is(failed, ErrNotCoordinator) {
			err = failed
		}
	}
	list := make([]Listing, 0, len(c.groups))
	for _, id := range slices.Sorted(maps.Keys(c.groups)) {
		if e := c.groups[id]; e.phase != Dead {
			list = append(list, Listing{id, e.protocolType, e.phase})
		}
	}
	return list, err
}

// Description is a group with its members. Protocol, and what depends on it, is there in a stable group only.
type Description struct {
	Listing
	Protocol string
	Members  []Described
}

// Described is a member in a description.
type Described struct {
	ID, Instance         string
	ClientID, ClientHost string
	Metadata, Assignment []byte
}

// Describe describes a group, with its members where members is true. ErrNotFound when there is none, and Count's.
// size is roughly what it takes, in bytes, members included.
func (c *Coordinator) Describe(id string, members bool) (d Description, size int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.shardOf(id); err != nil {
		return d, 0, err
	}
	e := c.groups[id]
	if e == nil || e.phase == Dead {
		return d, 0, ErrNotFound
	}
	d.Listing = Listing{id, e.protocolType, e.phase}
	stable := e.phase == Stable
	if stable {
		d.Protocol = e.protocol
	}
	for _, m := range e.members {
		out := Described{m.id, m.instance, m.clientID, m.clientHost, nil, nil}
		if stable {
			out.Metadata, out.Assignment = m.metadata(e.protocol), m.assignment
		}
		size += 192 + len(m.id) + len(m.clientID) + len(m.clientHost) + len(out.Metadata) + len(out.Assignment)
		if members {
			d.Members = append(d.Members, out)
		}
	}
	return d, size, nil
}

// Groups is how many groups there are, Memory what they take, in bytes.
func (c *Coordinator) Groups() (n int, memory int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.groups), c.charged
}

// Names appends the ids of all groups to dst, in no order.
func (c *Coordinator) Names(dst []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.groups {
		if e.phase != Dead {
			dst = append(dst, id)
		}
	}
	return dst
}

// Progress is how far a group has read one partition.
type Progress struct {
	Place
	Offset int64
}

// Progress appends to dst how far a group has read, in order, at most room partitions: of topics in their order as long as
// each fits whole. left is how many partitions did not fit. ok is false where there is no such group.
func (c *Coordinator) Progress(id string, dst []Progress, room int) (list []Progress, members, left int, ok bool) {
	from := len(dst)
	dst, members, left, ok = c.progress(id, dst, room)
	slices.SortFunc(dst[from:], func(a, b Progress) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return dst, members, left, ok
}

func (c *Coordinator) progress(id string, dst []Progress, room int) (list []Progress, members, left int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.groups[id]
	if e == nil || e.phase == Dead {
		return dst, 0, 0, false
	}
	for _, topic := range slices.Sorted(maps.Keys(e.offsets)) {
		partitions := e.offsets[topic]
		if left > 0 || len(partitions) > room {
			left += len(partitions)
			continue
		}
		room -= len(partitions)
		for p, o := range partitions {
			dst = append(dst, Progress{Place{topic, p}, o.at})
		}
	}
	return dst, len(e.members), left, true
}

// Timers are how many groups wait for a time, and how many may.
func (c *Coordinator) Timers() (n, most int) {
	c.timerMu.Lock()
	defer c.timerMu.Unlock()
	return c.timers.Len(), c.timers.Cap()
}

// TopicName is the compacted topic that groups and their offsets are kept in.
const TopicName = "__consumer_offsets"
