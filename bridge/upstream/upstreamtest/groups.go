package upstreamtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"millrace/bridge/upstream"
)

// group is a consumer group upstream.
type group struct {
	offsets map[place]upstream.GroupOffset
	members bool
	err     error
}

type place struct {
	topic     string
	partition int32
}

func (k *Kafka) group(name string) *group {
	if k.groups[name] == nil {
		k.groups[name] = &group{offsets: map[place]upstream.GroupOffset{}}
	}
	return k.groups[name]
}

// GroupOffset is what a group has committed of a partition, -1 for nothing.
func (k *Kafka) GroupOffset(name, topic string, partition int32) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if o, is := k.group(name).offsets[place{topic, partition}]; is {
		return o.Offset
	}
	return -1
}

// SetGroupOffset commits for a group as somebody there does.
func (k *Kafka) SetGroupOffset(name, topic string, partition int32, offset int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.group(name).offsets[place{topic, partition}] = upstream.GroupOffset{Topic: topic, Partition: partition, Offset: offset}
}

// DeleteGroup lets a group go, as the peer does after a while.
func (k *Kafka) DeleteGroup(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.groups, name)
}

// Join has a group have members, or none.
func (k *Kafka) Join(name string, members bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.group(name).members = members
}

// RefuseGroup refuses all requests about a group; nil ends it.
func (k *Kafka) RefuseGroup(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.group(name).err = err
}

// Hide has readers of a topic's records be refused; nil ends it.
func (k *Kafka) Hide(topic string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.topics[topic].hidden = nil; err != nil {
		k.topics[topic].hidden = &upstream.RefusedError{Topic: topic, Whole: true, Err: err}
	}
}

// GroupRequests is how many requests about groups a client has made.
func (c *Client) GroupRequests() int64 { return c.asked.Load() }

// SearchReads is how often it has read records of topics that are no cursors.
func (c *Client) SearchReads() int64 { return c.searched.Load() }

// Producer implements upstream.Follower.
func (s *session) Producer(context.Context) int64 {
	s.c.k.mu.Lock()
	defer s.c.k.mu.Unlock()
	if h := s.c.k.holders[s.id]; h != nil {
		return h.id
	}
	return -1
}

// Visible implements upstream.Follower.
func (s *session) Visible(
	ctx context.Context, topic string, partition int32, from int64, most int, fn func(upstream.Seen) error,
) (next int64, bytes int, err error) {
	s.c.searched.Add(1)
	var list []upstream.Seen
	var refused error
	next = from
	err = s.c.ask(ctx, func() error {
		list, next, bytes = nil, from, 0
		p := s.c.k.topics[topic].partitions[partition]
		if refused = s.c.k.topics[topic].hidden; refused == nil && from < p.first {
			refused = fmt.Errorf("offset %d: %w", from, upstream.ErrOutOfRange)
		}
		if refused != nil {
			return nil
		}
		for _, e := range p.list[:p.open()] {
			if e.offset < from {
				continue
			}
			if bytes >= most || bytes > 0 && s.c.k.rng.IntN(20) == 0 { // an answer may end anywhere
				break
			}
			next, bytes = e.offset+1, bytes+len(e.Key)+len(e.Value)+20
			if e.marker || e.txn != nil && !e.txn.committed {
				continue
			}
			producer := int64(-1)
			if e.txn != nil {
				producer = e.txn.producer
			}
			list = append(list, upstream.Seen{
				Offset: e.offset, Producer: producer, Timestamp: e.Timestamp, Key: e.Key, Value: e.Value, Headers: e.Headers,
			})
		}
		return nil
	})
	if err = cmp.Or(err, refused); err == nil {
		err = s.c.take(ctx, bytes)
	}
	if err != nil {
		return from, 0, err
	}
	for _, r := range list {
		if err := fn(r); err != nil {
			return r.Offset, bytes, err
		}
	}
	return next, bytes, nil
}

// Offsets implements upstream.Follower.
func (s *session) Offsets(ctx context.Context, groups []upstream.GroupOffsets) error {
	s.c.asked.Add(1)
	return s.c.ask(ctx, func() error {
		for i := range groups {
			g := &groups[i]
			there := s.c.k.group(g.Group)
			if g.Err = there.err; g.Err != nil {
				continue
			}
			for j := range g.List {
				o := &g.List[j]
				if has, is := there.offsets[place{o.Topic, o.Partition}]; is {
					o.Offset, o.Metadata = has.Offset, has.Metadata
				}
			}
		}
		return nil
	})
}

// Commit implements upstream.Follower.
func (s *session) Commit(ctx context.Context, groups []upstream.GroupOffsets) error {
	for i := range groups {
		s.c.asked.Add(1)
		g := &groups[i]
		list := slices.Clone(g.List)
		commit := func() error {
			there := s.c.k.group(g.Group)
			switch {
			case there.err != nil:
				return there.err
			case there.members:
				return upstream.ErrActive
			}
			for _, o := range list {
				there.offsets[place{o.Topic, o.Partition}] = o
			}
			return nil
		}
		var refused error
		err := s.c.do(ctx, func() error { refused = commit(); return nil }, nil)
		if err != nil {
			return err
		}
		g.Err = refused
	}
	return nil
}

// Groups are the consumer groups of a board: it implements upstream.Groups. It is safe for concurrent use.
type Groups struct {
	mu   sync.Mutex
	list map[string]map[place]upstream.GroupOffset
}

// NewGroups has no group yet.
func NewGroups() *Groups { return &Groups{list: map[string]map[place]upstream.GroupOffset{}} }

// Commit commits for a group.
func (g *Groups) Commit(name string, p *Partition, offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.list[name] == nil {
		g.list[name] = map[place]upstream.GroupOffset{}
	}
	g.list[name][place{p.topic, p.index}] = upstream.GroupOffset{Topic: p.topic, ID: p.id, Partition: p.index, Offset: offset}
}

// Offset is what a group has committed, -1 for nothing.
func (g *Groups) Offset(name string, p *Partition) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o, is := g.list[name][place{p.topic, p.index}]; is {
		return o.Offset
	}
	return -1
}

// Names implements upstream.Groups.
func (g *Groups) Names() (list []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.list {
		list = append(list, name)
	}
	return list
}

// Offsets implements upstream.Groups.
func (g *Groups) Offsets(name string) (list []upstream.GroupOffset) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.list[name] {
		list = append(list, o)
	}
	return list
}
