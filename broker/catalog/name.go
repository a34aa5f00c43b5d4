package catalog

import (
	"fmt"
	"strings"
)

// MaxNameLength is the length of a topic name in bytes (Kafka's org.apache.kafka.common.internals.Topic).
const MaxNameLength = 249

// ValidTopicName checks a name by Kafka's rules: 1 to 249 of [a-zA-Z0-9._-], not "." and not "..".
// The error wraps ErrInvalidTopic and says which rule was broken.
func ValidTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the empty string is not allowed", ErrInvalidTopic)
	case name == "." || name == "..":
		return fmt.Errorf("%w: '.' or '..' is not allowed", ErrInvalidTopic)
	case len(name) > MaxNameLength:
		return fmt.Errorf("%w: the length of '%.20s…' is longer than the max allowed length %d", ErrInvalidTopic, name, MaxNameLength)
	}
	for i := range len(name) {
		if !legal(name[i]) {
			return fmt.Errorf("%w: '%s' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'", ErrInvalidTopic, name)
		}
	}
	return nil
}

func legal(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// Reserved says whether a topic belongs to the broker: clients may read it, but neither produce to it, create, alter nor
// delete it. As at Apache Kafka this is a list of names and not every name with underscores: Debezium, for one, keeps its
// heartbeats in `__debezium-heartbeat.…`.
func Reserved(name string) bool {
	switch name {
	case "__consumer_offsets", "__transaction_state", "__cluster_metadata", "__share_group_state":
		return true
	}
	return strings.HasPrefix(name, "__millrace") || strings.HasPrefix(name, "__mqtt_")
}

// InternalName tells whether a topic belongs to the broker itself: clients may read it and not delete it.
func InternalName(name string) bool { return strings.HasPrefix(name, "__") }

// compareNames orders topic names with '.' and '_' taken as the same letter, because Kafka's metric names merge the two:
// names that compare equal collide. It is the order of Image.byName.
func compareNames(a, b string) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x == '.' {
			x = '_'
		}
		if y == '.' {
			y = '_'
		}
		if x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
