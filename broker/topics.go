package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"millrace/bridge/upstream"
	"millrace/broker/canary"
	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/broker/quorum"
)

// topics holds the store against the catalog: what the catalog says exists, the store has, and the doors find it here.
// All methods are safe for concurrent use.
type topics struct {
	quorum *quorum.Quorum
	store  *partition.Store
	log    *slog.Logger
	// defaults are the [topic.*] tables, creation what is made of a topic that is asked for; a reload replaces them.
	defaults atomic.Pointer[catalog.Defaults]
	creation atomic.Pointer[creation]

	// offsetPartitions is `offsets.topic.num.partitions`.
	offsetPartitions int

	// reconciling is held while the store is made to agree, so that two proposals do not make one partition twice.
	reconciling sync.Mutex
	// byName is what the doors read; it is replaced as a whole, under reconciling.
	byName atomic.Pointer[map[string][]*partition.Partition]

	listening sync.Mutex
	listeners atomic.Pointer[[]*listener]
}

// creation says how a topic is made that somebody used without making it.
type creation struct {
	allowed                 bool // auto.create.topics.enable
	partitions, replication int
}

type listener struct{ fn func(*partition.Partition) }

// Image is the catalog as of the last command.
func (t *topics) Image() *catalog.Image { return t.quorum.Image() }

// Propose makes a command durable, applies it, and returns when the store agrees with it: a topic that was created can
// be appended to. A command that was made durable while the store could not follow (a full disk) returns the new image
// and the error; the next proposal, or the next start, tries again.
func (t *topics) Propose(ctx context.Context, c catalog.Command) (*catalog.Image, error) {
	img, err := t.quorum.Propose(ctx, c)
	if err != nil {
		return nil, err
	}
	err = t.reconcile()
	switch c.(type) {
	case catalog.CreateTopic, catalog.CreatePartitions:
		return img, err
	}
	return img, nil // what else the disk has no room for is not this command's affair
}

// reconcile makes what the catalog has and the store lacks, and removes what the catalog has deleted.
func (t *topics) reconcile() error {
	t.reconciling.Lock()
	defer t.reconciling.Unlock()
	img := t.quorum.Image()
	byName := make(map[string][]*partition.Partition, img.Len())
	failed := t.remove(img) // first: a new topic may have the name
	for topic := range img.Topics() {
		settings, err := t.defaults.Load().Resolve(topic.Name, topic.Config)
		if err != nil {
			t.log.Error("a topic's settings are not valid; the valid ones hold", "topic", topic.Name, "err", err)
		}
		list := make([]*partition.Partition, len(topic.Partitions))
		for i, state := range topic.Partitions {
			p := t.store.Get(topic.ID, int32(i))
			if p == nil {
				if p, err = t.store.Create(partition.Topic{ID: topic.ID, Name: topic.Name}, int32(i), settings); err != nil {
					if !errors.Is(err, partition.ErrOffline) { // the store says so itself, and tries again
						failed = append(failed, fmt.Errorf("create %s-%d: %w", topic.Name, i, err))
					}
					list = nil
					break
				}
			}
			p.SetConfig(settings)
			if state.LeaderEpoch > p.Epoch() {
				if err := p.SetLeader(state.LeaderEpoch, true); err != nil {
					failed = append(failed, err)
				}
			}
			list[i] = p
		}
		if list != nil { // half a topic would send keys to the wrong partitions
			byName[topic.Name] = list
		}
	}
	t.byName.Store(&byName)
	return errors.Join(failed...)
}

// remove deletes what the catalog has deleted.
func (t *topics) remove(img *catalog.Image) (failed []error) {
	gone := map[catalog.TopicID]bool{}
	find := func(id catalog.TopicID) {
		// What the catalog does not know and has not deleted either was lost there and could not be adopted: it stays.
		if img.TopicByID(id) == nil && img.Deleted(id) {
			gone[id] = true
		}
	}
	for p := range t.store.All() {
		find(p.TopicID())
	}
	for _, p := range t.store.OfflinePartitions() {
		find(p.Topic.ID)
	}
	if len(gone) == 0 {
		return nil
	}
	// The doors stop finding a deleted topic before its files go.
	byName := maps.Clone(*t.byName.Load())
	maps.DeleteFunc(byName, func(_ string, list []*partition.Partition) bool { return len(list) > 0 && gone[list[0].TopicID()] })
	t.byName.Store(&byName)
	for id := range gone {
		if err := t.store.DeleteTopic(id); err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

// Topic finds the partitions of a topic, by number. A topic the disk had no room for yet is not found.
func (t *topics) Topic(name string) ([]*partition.Partition, bool) {
	list, ok := (*t.byName.Load())[name]
	return list, ok
}

// Ensure finds a topic, or creates it where auto.create.topics.enable allows; otherwise catalog.ErrUnknownTopic.
func (t *topics) Ensure(ctx context.Context, name string) ([]*partition.Partition, error) {
	if list, ok := t.Topic(name); ok {
		return list, nil
	}
	if topic := t.Image().Topic(name); topic != nil {
		err := t.reconcile()
		if list, ok := t.Topic(name); ok {
			return list, nil
		}
		for i := range topic.Partitions {
			if err := t.store.Offline(topic.ID, int32(i)); err != nil {
				return nil, err
			}
		}
		return nil, errors.Join(fmt.Errorf("%s exists and has no place on the disk", name), err)
	}
	how := *t.creation.Load()
	settings, own := internalTopics[name]
	if own {
		how = creation{allowed: true, partitions: 1, replication: 1}
		if name == group.TopicName {
			how.partitions = t.offsetPartitions
		}
	}
	if !how.allowed {
		return nil, fmt.Errorf("%s: %w, and auto.create.topics.enable is false", name, catalog.ErrUnknownTopic)
	}
	create, err := catalog.NewTopic(t.Image(), name, catalog.NewTopicID(), how.partitions, how.replication, settings)
	if err == nil {
		_, err = t.Propose(ctx, create)
	}
	if errors.Is(err, catalog.ErrTopicExists) { // somebody was quicker, and the store may still be following
		err = t.reconcile()
	}
	if list, ok := t.Topic(name); ok {
		return list, nil
	}
	if err == nil {
		err = fmt.Errorf("%s: %w: deleted while it was being created", name, catalog.ErrUnknownTopic)
	}
	return nil, err
}

// internalTopics are those the board keeps its own state in, with the settings they are made with whatever the
// configuration says of others.
var internalTopics = map[string]map[string]string{
	"__mqtt_sessions": internalSettings,
	"__mqtt_retained": internalSettings,
	group.TopicName:   internalSettings,
	canary.TopicName:  canary.Settings,
	canary.BesideName: canary.Settings,
	// The cursors and the gaps of links that go down.
	upstream.LandingTopic: internalSettings,
	upstream.LocalGapTopic: {
		"cleanup.policy": "delete", "segment.bytes": "1048576", "retention.bytes": "1048576", "retention.ms": "-1", "compression.type": "producer",
	},
	EventsTopic: {
		"cleanup.policy": "delete", "segment.bytes": "1048576", "retention.bytes": "1048576", "retention.ms": "-1",
		"flush.messages": "1", "compression.type": "producer",
	},
}

// max.message.bytes: what the door took of a client fits here, whatever the default for other topics.
var internalSettings = map[string]string{
	"max.message.bytes": "2147483647",
	"cleanup.policy":    "compact", "segment.bytes": "1048576", "flush.messages": "1", "compression.type": "producer",
}

// online lets the doors find a partition that has come back.
func (t *topics) online(*partition.Partition) {
	if err := t.reconcile(); err != nil {
		t.log.Error("the disk does not hold all the catalog says; tried again with the next change", "err", err)
	}
}

// Offline names the partitions that the disk has and that cannot be used now.
func (t *topics) Offline() (names []string) {
	for _, p := range t.store.OfflinePartitions() {
		names = append(names, fmt.Sprintf("%s-%d", p.Topic.Name, p.Index))
	}
	return names
}

// Names lists the topics in no particular order.
func (t *topics) Names() []string {
	byName := *t.byName.Load()
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	return names
}

// OnAdvance has fn called whenever the high watermark of a partition has moved, from the committer's goroutine: it must
// be quick and must not append. After cancel has returned fn may be running once more, but is not called again.
func (t *topics) OnAdvance(fn func(*partition.Partition)) (cancel func()) {
	added := &listener{fn}
	t.change(func(all []*listener) []*listener { return append(all, added) })
	return func() {
		t.change(func(all []*listener) []*listener {
			kept := all[:0]
			for _, l := range all {
				if l != added {
					kept = append(kept, l)
				}
			}
			return kept
		})
	}
}

// change replaces the listeners by what edit makes of a copy of them.
func (t *topics) change(edit func([]*listener) []*listener) {
	t.listening.Lock()
	defer t.listening.Unlock()
	var all []*listener
	if now := t.listeners.Load(); now != nil {
		all = append(all, *now...)
	}
	all = edit(all)
	t.listeners.Store(&all)
}

// advanced tells every listener.
func (t *topics) advanced(p *partition.Partition) {
	if all := t.listeners.Load(); all != nil {
		for _, l := range *all {
			l.fn(p)
		}
	}
}
