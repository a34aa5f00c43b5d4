package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Apply makes the image that follows img. It changes neither and depends on nothing else. When the command does not fit
// the image the error is one of this package's and there is no new image.
func Apply(img *Image, c Command) (*Image, error) {
	next, err := c.apply(img)
	if err != nil {
		return nil, err
	}
	next.version++
	return next, nil
}

func (c CreateTopic) apply(m *Image) (*Image, error) {
	at, taken := m.findName(c.Name)
	if taken {
		if other := m.byName[at].Name; other != c.Name {
			return nil, fmt.Errorf("%w: '%s' collides with existing topic '%s', they differ in '.' and '_' only", ErrInvalidTopic, c.Name, other)
		}
		return nil, fmt.Errorf("topic '%s': %w", c.Name, ErrTopicExists)
	}
	idAt, taken := m.findID(c.ID)
	if taken {
		return nil, fmt.Errorf("topic '%s': id %v belongs to '%s': %w", c.Name, c.ID, m.byID[idAt].Name, ErrTopicExists)
	}
	for p, s := range c.Partitions {
		if err := m.checkAssignment(s); err != nil {
			return nil, fmt.Errorf("topic '%s' partition %d: %w", c.Name, p, err)
		}
	}
	t := &Topic{Name: c.Name, ID: c.ID, Partitions: cloneStates(c.Partitions), Config: cloneConfig(c.Config)}
	next := *m
	next.byName = inserted(m.byName, at, t)
	next.byID = inserted(m.byID, idAt, t)
	next.partitions += len(t.Partitions)
	return &next, nil
}

func (c DeleteTopic) apply(m *Image) (*Image, error) {
	idAt, ok := m.findID(c.Topic)
	if !ok {
		return nil, fmt.Errorf("topic id %v: %w", c.Topic, ErrUnknownTopic)
	}
	t := m.byID[idAt]
	at, _ := m.findName(t.Name)
	next := *m
	next.byName = removed(m.byName, at)
	next.byID = removed(m.byID, idAt)
	next.partitions -= len(t.Partitions)
	forget := max(len(m.deleted)+1-maxDeleted, 0)
	next.deleted = append(slices.Clone(m.deleted[forget:]), c.Topic)
	return &next, nil
}

func (c CreatePartitions) apply(m *Image) (*Image, error) {
	t := m.TopicByID(c.Topic)
	if t == nil {
		return nil, fmt.Errorf("topic id %v: %w", c.Topic, ErrUnknownTopic)
	}
	if int(c.From) != len(t.Partitions) {
		return nil, fmt.Errorf("topic '%s' has %d partitions, not %d: %w", t.Name, len(t.Partitions), c.From, ErrInvalidPartitions)
	}
	for p, s := range c.Add {
		if err := m.checkAssignment(s); err != nil {
			return nil, fmt.Errorf("topic '%s' partition %d: %w", t.Name, len(t.Partitions)+p, err)
		}
	}
	changed := *t
	changed.Partitions = slices.Concat(t.Partitions, cloneStates(c.Add))
	next := m.with(&changed)
	next.partitions += len(c.Add)
	return next, nil
}

func (c AlterTopicConfig) apply(m *Image) (*Image, error) {
	t := m.TopicByID(c.Topic)
	if t == nil {
		return nil, fmt.Errorf("topic id %v: %w", c.Topic, ErrUnknownTopic)
	}
	changed := *t
	changed.Config = alter(t.Config, c.Replace, c.Ops, topicByName)
	return m.with(&changed), nil
}

func (c AlterBrokerConfig) apply(m *Image) (*Image, error) {
	if _, ok := m.findBroker(c.Broker); !ok && c.Broker != AllBrokers {
		return nil, fmt.Errorf("broker %d: %w", c.Broker, ErrUnknownBroker)
	}
	config := alter(m.BrokerConfig(c.Broker), c.Replace, c.Ops, brokerByName)
	next := *m
	at, ok := m.findBrokerConfig(c.Broker)
	switch {
	case ok && config == nil:
		next.brokerConfig = removed(m.brokerConfig, at)
	case ok:
		next.brokerConfig = slices.Clone(m.brokerConfig)
		next.brokerConfig[at].Config = config
	case config != nil:
		next.brokerConfig = inserted(m.brokerConfig, at, BrokerConfig{Broker: c.Broker, Config: config})
	}
	return &next, nil
}

func (c RegisterBroker) apply(m *Image) (*Image, error) {
	b := Broker{ID: c.ID, Host: c.Host, Port: c.Port, Rack: c.Rack, Incarnation: c.Incarnation, Epoch: int64(m.version) + 1}
	next := *m
	at, ok := m.findBroker(c.ID)
	if !ok {
		next.brokers = inserted(m.brokers, at, b)
		return &next, nil
	}
	if m.brokers[at].Incarnation == c.Incarnation {
		b.Epoch = m.brokers[at].Epoch
	}
	next.brokers = slices.Clone(m.brokers)
	next.brokers[at] = b
	return &next, nil
}

func (c AllocateProducerIDs) apply(m *Image) (*Image, error) {
	b, ok := m.Broker(c.Broker)
	if !ok {
		return nil, fmt.Errorf("broker %d: %w", c.Broker, ErrUnknownBroker)
	}
	if c.Epoch != -1 && c.Epoch != b.Epoch {
		return nil, fmt.Errorf("broker %d at epoch %d, command of epoch %d: %w", c.Broker, b.Epoch, c.Epoch, ErrStaleBrokerEpoch)
	}
	next := *m
	next.producerNext = max(next.producerNext, min(c.AtLeast, 1<<62)) + ProducerIDBlock
	return &next, nil
}

func (c ChangePartitions) apply(m *Image) (*Image, error) {
	// The changes are grouped per topic so that a restart that raises the epochs of one topic's hundred partitions
	// copies that topic once.
	changed := make(map[TopicID]*Topic)
	for _, ch := range c.Changes {
		t := changed[ch.Topic]
		if t == nil {
			was := m.TopicByID(ch.Topic)
			if was == nil {
				return nil, fmt.Errorf("topic id %v: %w", ch.Topic, ErrUnknownTopic)
			}
			own := *was
			own.Partitions = slices.Clone(was.Partitions)
			t = &own
			changed[ch.Topic] = t
		}
		if ch.Partition < 0 || int(ch.Partition) >= len(t.Partitions) {
			return nil, fmt.Errorf("topic '%s' partition %d: %w", t.Name, ch.Partition, ErrUnknownPartition)
		}
		s, err := t.Partitions[ch.Partition].changed(ch)
		if err == nil {
			err = m.checkAssignment(s)
		}
		if err != nil {
			return nil, fmt.Errorf("topic '%s' partition %d: %w", t.Name, ch.Partition, err)
		}
		t.Partitions[ch.Partition] = s
	}
	next := *m
	next.byName, next.byID = slices.Clone(m.byName), slices.Clone(m.byID)
	for _, t := range changed {
		next.replace(t)
	}
	return &next, nil
}

// changed is the partition state after ch.
func (s PartitionState) changed(ch PartitionChange) (PartitionState, error) {
	if ch.Epoch != -1 && ch.Epoch != s.Epoch {
		return s, fmt.Errorf("partition epoch is %d, the change was made at %d: %w", s.Epoch, ch.Epoch, ErrStalePartitionEpoch)
	}
	if ch.Raise || ch.Leader != s.Leader {
		s.LeaderEpoch++
	}
	s.Epoch++
	s.Leader = ch.Leader
	s.ISR = slices.Clone(ch.ISR)
	if ch.Replicas != nil {
		s.Replicas = slices.Clone(ch.Replicas)
	}
	return s, nil
}

// checkAssignment holds a partition state against itself and against the registered brokers.
func (m *Image) checkAssignment(s PartitionState) error {
	if err := s.check(); err != nil {
		return err
	}
	for _, r := range s.Replicas {
		if _, ok := m.findBroker(r); !ok {
			return fmt.Errorf("%w: replica %d is not a registered broker", ErrInvalidAssignment, r)
		}
	}
	return nil
}

// with is the image with one topic replaced by its next state.
func (m *Image) with(t *Topic) *Image {
	next := *m
	next.byName, next.byID = slices.Clone(m.byName), slices.Clone(m.byID)
	next.replace(t)
	return &next
}

// replace puts t where the topic of its id is. The slices must be the image's own.
func (m *Image) replace(t *Topic) {
	at, _ := m.findName(t.Name)
	m.byName[at] = t
	at, _ = m.findID(t.ID)
	m.byID[at] = t
}

// alter is a configuration after the operations; nil when nothing is left.
func alter(config map[string]string, replace bool, ops []ConfigOp, find func(string) *Setting) map[string]string {
	next := make(map[string]string, len(config)+len(ops))
	if !replace {
		maps.Copy(next, config)
	}
	for _, op := range ops {
		switch op.Op {
		case OpSet:
			next[op.Name] = op.Value
		case OpDelete:
			delete(next, op.Name)
		case OpAppend, OpSubtract:
			now, ok := next[op.Name]
			if s := find(op.Name); !ok && s != nil {
				now = s.Default
			}
			next[op.Name] = editList(now, op.Value, op.Op == OpAppend)
		}
	}
	if len(next) == 0 {
		return nil
	}
	return next
}

// editList adds or removes the items of a comma-separated list, keeping the order and never repeating one.
func editList(list, items string, add bool) string {
	out := splitList(list)
	for _, item := range splitList(items) {
		at := slices.Index(out, item)
		switch {
		case add && at < 0:
			out = append(out, item)
		case !add && at >= 0:
			out = slices.Delete(out, at, at+1)
		}
	}
	return strings.Join(out, ",")
}

func splitList(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

func inserted[T any](s []T, at int, v T) []T {
	out := make([]T, 0, len(s)+1)
	out = append(out, s[:at]...)
	out = append(out, v)
	return append(out, s[at:]...)
}

func removed[T any](s []T, at int) []T {
	out := make([]T, 0, len(s)-1)
	out = append(out, s[:at]...)
	return append(out, s[at+1:]...)
}

// cloneStates copies partition states, so that an image shares no memory with the command that made it.
func cloneStates(s []PartitionState) []PartitionState {
	out := make([]PartitionState, len(s))
	for i, p := range s {
		p.Replicas, p.ISR = slices.Clone(p.Replicas), slices.Clone(p.ISR)
		out[i] = p
	}
	return out
}

func cloneConfig(c map[string]string) map[string]string {
	if len(c) == 0 {
		return nil
	}
	return maps.Clone(c)
}
