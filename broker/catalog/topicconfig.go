package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// TopicConfig is the settings of one topic, parsed. Times are milliseconds, sizes bytes; -1 in a retention means no
// limit. TopicSettings documents every field. It is a value: comparable, and safe to copy.
type TopicConfig struct {
	CleanupDelete, CleanupCompact bool // at least one is set
	Compression                   string
	DeleteRetentionMS             int64
	FileDeleteDelayMS             int64
	FlushMessages                 int64
	FlushMS                       int64
	DropOldest                    bool // the setting `full`
	IndexIntervalBytes            int64
	MaxCompactionLagMS            int64
	MaxMessageBytes               int64
	TimestampAfterMaxMS           int64
	TimestampBeforeMaxMS          int64
	LogAppendTime                 bool
	MinCleanableRatio             float64
	MinCompactionLagMS            int64
	MinInSyncReplicas             int64
	Preallocate                   bool
	RetentionBytes                int64
	RetentionMS                   int64
	SegmentBytes                  int64
	SegmentIndexBytes             int64
	SegmentJitterMS               int64
	SegmentMS                     int64
	UncleanLeaderElection         bool
}

var defaultTopicConfig = func() (c TopicConfig) {
	for i := range topicSettings {
		s := &topicSettings[i]
		if err := s.setTopic(&c, s.Default); err != nil {
			panic("catalog: default of " + s.Name + ": " + err.Error())
		}
	}
	return c
}()

// DefaultTopicConfig is the built-in configuration: every setting at its Default.
func DefaultTopicConfig() TopicConfig { return defaultTopicConfig }

// ParseTopicConfig lays overrides, by Kafka's setting names, over defaults. The result can be used even with an error:
// the settings the error names, each with its value, keep their default. The error wraps ErrInvalidConfig.
func ParseTopicConfig(overrides map[string]string, defaults TopicConfig) (TopicConfig, error) {
	c := defaults
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		s := topicByName(name)
		if s == nil {
			errs = append(errs, fmt.Errorf("%w: unknown topic config name: %.100s", ErrInvalidConfig, name))
			continue
		}
		if err := s.setTopic(&c, overrides[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return c, errors.Join(errs...)
}

// Value is the text form of a setting as DescribeConfigs shows it, "" for a name that is not a topic setting.
func (c TopicConfig) Value(name string) string {
	s := topicByName(name)
	if s == nil {
		return ""
	}
	switch f := s.field(&c).(type) {
	case *int64:
		return strconv.FormatInt(*f, 10)
	case *float64:
		return strconv.FormatFloat(*f, 'g', -1, 64)
	case *bool:
		return strconv.FormatBool(*f)
	case *string:
		return *f
	case choice:
		if *f.to {
			return f.yes
		}
		return f.no
	case *cleanup:
		var items []string
		if f.CleanupCompact {
			items = append(items, "compact")
		}
		if f.CleanupDelete {
			items = append(items, "delete")
		}
		return strings.Join(items, ",")
	}
	panic("catalog: " + name + " has a field of an unknown type")
}

// choice is a setting of two words, kept as a bool.
type choice struct {
	to      *bool
	no, yes string
}

// cleanup is where cleanup.policy lives: two bools of the TopicConfig.
type cleanup TopicConfig

// setTopic parses value and stores it in the setting's field of c.
func (s *Setting) setTopic(c *TopicConfig, value string) error {
	v, err := s.parse(value)
	if err != nil {
		return err
	}
	switch f := s.field(c).(type) {
	case *int64:
		*f = v.(int64)
	case *float64:
		*f = v.(float64)
	case *bool:
		*f = v.(bool)
	case *string:
		*f = v.(string)
	case choice:
		*f.to = v.(string) == f.yes
	case *cleanup:
		items := v.([]string)
		f.CleanupCompact = slices.Contains(items, "compact")
		f.CleanupDelete = slices.Contains(items, "delete")
	}
	return nil
}
