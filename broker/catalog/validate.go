package catalog

import (
	"fmt"
	"slices"
)

// Validate holds a command against the rules of this version: names, configuration values, limits. A proposer asks it
// before it proposes; Apply does not repeat it (see the package comment).
func Validate(img *Image, c Command) error { return c.validate(img) }

func (c CreateTopic) validate(m *Image) error {
	if err := ValidTopicName(c.Name); err != nil {
		return err
	}
	if c.ID.IsZero() {
		return fmt.Errorf("%w: topic '%s' has no id", ErrInvalidTopic, c.Name)
	}
	if len(c.Partitions) == 0 {
		return fmt.Errorf("topic '%s': number of partitions must be larger than 0: %w", c.Name, ErrInvalidPartitions)
	}
	if m.Len() >= MaxTopics {
		return fmt.Errorf("%w topics: this catalog holds %d", ErrTooMany, MaxTopics)
	}
	if err := m.room(0, len(c.Partitions)); err != nil {
		return err
	}
	return validConfig(c.Config)
}

func (c DeleteTopic) validate(*Image) error { return nil }

func (c CreatePartitions) validate(m *Image) error {
	if len(c.Add) == 0 {
		return fmt.Errorf("%w: none to add", ErrInvalidPartitions)
	}
	return m.room(int(c.From), len(c.Add))
}

func (c AlterTopicConfig) validate(m *Image) error {
	if err := validOps(c.Ops, topicByName); err != nil {
		return err
	}
	t := m.TopicByID(c.Topic)
	if t == nil {
		return fmt.Errorf("topic id %v: %w", c.Topic, ErrUnknownTopic)
	}
	return validConfig(alter(t.Config, c.Replace, c.Ops, topicByName))
}

func (c AlterBrokerConfig) validate(m *Image) error {
	if err := validOps(c.Ops, brokerByName); err != nil {
		return err
	}
	config := alter(m.BrokerConfig(c.Broker), c.Replace, c.Ops, brokerByName)
	if err := fits(config); err != nil {
		return err
	}
	for name, value := range config {
		s := brokerByName(name)
		if s == nil {
			return fmt.Errorf("%w: unknown broker config name: %s", ErrInvalidConfig, name)
		}
		if s.ReadOnly {
			return fmt.Errorf("%w: %s is read-only, it is set in the configuration file", ErrInvalidConfig, name)
		}
		if err := s.Check(value); err != nil {
			return err
		}
	}
	return nil
}

func (c RegisterBroker) validate(m *Image) error {
	if c.ID < 0 || c.Host == "" || len(c.Host) > 255 || len(c.Rack) > 255 || c.Port < 0 || c.Port > 65535 {
		return fmt.Errorf("%w: id %d at '%s:%d'", ErrInvalidBroker, c.ID, c.Host, c.Port)
	}
	if _, known := m.Broker(c.ID); !known && len(m.brokers) >= MaxBrokers {
		return fmt.Errorf("%w brokers: this catalog holds %d", ErrTooMany, MaxBrokers)
	}
	return nil
}

func (c AllocateProducerIDs) validate(*Image) error { return nil }

func (c ChangePartitions) validate(*Image) error {
	if len(c.Changes) == 0 || len(c.Changes) > MaxPartitions {
		return fmt.Errorf("%w: %d partition changes in one command", ErrInvalidAssignment, len(c.Changes))
	}
	return nil
}

// room tells whether a topic of have partitions may get more.
func (m *Image) room(have, more int) error {
	if more > MaxPartitionsPerTopic-have {
		return fmt.Errorf("%w: a topic has at most %d", ErrInvalidPartitions, MaxPartitionsPerTopic)
	}
	if more > MaxPartitions-m.partitions {
		return fmt.Errorf("%w partitions: this catalog holds %d", ErrTooMany, MaxPartitions)
	}
	return nil
}

func validConfig(config map[string]string) error {
	if err := fits(config); err != nil {
		return err
	}
	c, err := ParseTopicConfig(config, DefaultTopicConfig())
	if err == nil && c.MinCompactionLagMS > c.MaxCompactionLagMS { // Kafka's LogConfig.validateValues
		err = fmt.Errorf("%w: min.compaction.lag.ms %d is above max.compaction.lag.ms %d", ErrInvalidConfig, c.MinCompactionLagMS, c.MaxCompactionLagMS)
	}
	return err
}

// fits holds a configuration against the limits of its size.
func fits(config map[string]string) error {
	if len(config) > MaxConfigEntries {
		return fmt.Errorf("%w configuration entries: at most %d", ErrTooMany, MaxConfigEntries)
	}
	for name, value := range config {
		if len(value) > MaxConfigValue {
			return fmt.Errorf("%w: value of %s has %d bytes, the limit is %d", ErrInvalidConfig, name, len(value), MaxConfigValue)
		}
	}
	return nil
}

func validOps(ops []ConfigOp, find func(string) *Setting) error {
	for i, op := range ops {
		if slices.ContainsFunc(ops[:i], func(o ConfigOp) bool { return o.Name == op.Name }) {
			return fmt.Errorf("%w: %s is altered twice", ErrInvalidConfig, op.Name)
		}
		if len(op.Value) > MaxConfigValue {
			return fmt.Errorf("%w: value of %s has %d bytes, the limit is %d", ErrInvalidConfig, op.Name, len(op.Value), MaxConfigValue)
		}
		if op.Op > OpSubtract {
			return fmt.Errorf("%w: unknown operation %d on %s", ErrInvalidConfig, op.Op, op.Name)
		}
		if s := find(op.Name); (op.Op == OpAppend || op.Op == OpSubtract) && (s == nil || s.Type != TypeList) {
			return fmt.Errorf("%w: %s is not a list, nothing can be appended or subtracted", ErrInvalidConfig, op.Name)
		}
	}
	return nil
}
