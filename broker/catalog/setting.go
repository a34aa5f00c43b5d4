package catalog

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Type is the type of a setting; the numbers are those DescribeConfigs answers (KIP-569).
type Type int8

// The types Kafka knows and Millrace uses.
const (
	TypeBoolean Type = 1
	TypeString  Type = 2
	TypeInt     Type = 3
	TypeLong    Type = 5
	TypeDouble  Type = 6
	TypeList    Type = 7
)

// Setting describes one setting as DescribeConfigs and the configuration file need it; read only.
type Setting struct {
	// Name is Kafka's.
	Name string
	Type Type
	// Default is the built-in value, in the text form DescribeConfigs shows.
	Default string
	Doc     string
	// Min and Max bound Int, Long and Double, inclusive.
	Min, Max int64
	// OneOf lists the values a String or the items a List may have; empty: any.
	OneOf []string
	// Synonym is the broker setting the topic setting falls back to in Kafka's naming, "" when there is none.
	Synonym string
	// ReadOnly settings are set in the configuration file only.
	ReadOnly bool
	// Sensitive values are never shown.
	Sensitive bool

	// field points at the setting's place in a TopicConfig; nil for broker settings. It yields *int64, *bool, *float64,
	// *string or a choice.
	field func(*TopicConfig) any
}

// Range says in words which values are valid, for errors and documentation.
func (s *Setting) Range() string {
	switch {
	case len(s.OneOf) > 0 && s.Type == TypeList:
		return "a list of " + strings.Join(s.OneOf, ", ")
	case len(s.OneOf) > 0:
		return "one of " + strings.Join(s.OneOf, ", ")
	case s.Type == TypeBoolean:
		return "true or false"
	case s.Type == TypeDouble || s.Type == TypeInt || s.Type == TypeLong:
		if s.Max == math.MaxInt64 {
			return fmt.Sprintf("%d or more", s.Min)
		}
		return fmt.Sprintf("%d to %d", s.Min, s.Max)
	}
	return "any text"
}

// Check tells whether value is valid; the error wraps ErrInvalidConfig and names setting, value and range.
func (s *Setting) Check(value string) error {
	_, err := s.parse(value)
	return err
}

// parse yields an int64, bool, float64, string or []string by the setting's type.
func (s *Setting) parse(value string) (any, error) {
	bad := func() error {
		return fmt.Errorf("%w: invalid value %.200q for %s: want %s", ErrInvalidConfig, value, s.Name, s.Range())
	}
	text := strings.TrimSpace(value)
	switch s.Type {
	case TypeInt, TypeLong:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < s.Min || n > s.Max {
			return nil, bad()
		}
		return n, nil
	case TypeDouble:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !(f >= float64(s.Min) && f <= float64(s.Max)) { // written so that NaN is refused
			return nil, bad()
		}
		return f, nil
	case TypeBoolean:
		switch strings.ToLower(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, bad()
	case TypeList:
		items := splitList(text)
		for _, item := range items {
			if len(s.OneOf) > 0 && !slices.Contains(s.OneOf, item) {
				return nil, bad()
			}
		}
		if len(items) == 0 && len(s.OneOf) > 0 {
			return nil, bad()
		}
		return items, nil
	}
	if len(s.OneOf) > 0 && !slices.Contains(s.OneOf, text) {
		return nil, bad()
	}
	return text, nil
}

// TopicSettings lists every topic setting Millrace honours, sorted by name. The slice is the caller's.
func TopicSettings() []Setting { return slices.Clone(topicSettings) }

// TopicSetting finds a topic setting by name.
func TopicSetting(name string) (Setting, bool) { return copied(topicByName(name)) }

// BrokerSettings lists the broker settings, sorted by name. The slice is the caller's.
func BrokerSettings() []Setting { return slices.Clone(brokerSettings) }

// BrokerSetting finds a broker setting by name.
func BrokerSetting(name string) (Setting, bool) { return copied(brokerByName(name)) }

func copied(s *Setting) (Setting, bool) {
	if s == nil {
		return Setting{}, false
	}
	return *s, true
}

func topicByName(name string) *Setting  { return find(topicSettings, name) }
func brokerByName(name string) *Setting { return find(brokerSettings, name) }

func find(table []Setting, name string) *Setting {
	at, ok := slices.BinarySearchFunc(table, name, func(s Setting, name string) int { return strings.Compare(s.Name, name) })
	if !ok {
		return nil
	}
	return &table[at]
}
