package upstream

import (
	"slices"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

// chosen says whether a local topic goes up.
func (c *Config) chosen(topic string) bool {
	match := func(p string) bool { return catalog.Matches(p, topic) }
	switch {
	case slices.Contains(c.Topics, topic):
		return !slices.Contains(c.Exclude, topic)
	case strings.HasPrefix(topic, "__"):
		return false
	}
	return slices.ContainsFunc(c.Topics, match) && !slices.ContainsFunc(c.Exclude, match)
}

// ofMirrors says whether a topic is of MirrorMaker's and Connect's own, by what MirrorMaker's DefaultTopicFilter and
// ReplicationPolicy go by: it does not come down unless it is named exactly. Going up nothing is left out by its name, for
// what is written to a board is not given up for a likeness.
func ofMirrors(topic string) bool {
	return topic == heartbeatsTopic || slices.ContainsFunc([]string{".internal", "-internal", ".replica", "." + heartbeatsTopic},
		func(end string) bool { return strings.HasSuffix(topic, end) })
}

// comes says whether a topic upstream comes down.
func (c *Config) comes(topic string) bool {
	return c.chosen(topic) && (!ofMirrors(topic) || slices.Contains(c.Topics, topic))
}

// upstream is what a local topic is called upstream.
func (c *Config) upstream(topic string) string {
	return strings.NewReplacer("{topic}", topic, "{cluster}", c.Alias).Replace(c.Naming)
}

// place is the partition upstream, of n, of a record of a partition of mine.
func place(local int32, mine, n int32, key []byte) int32 {
	switch {
	case mine == n:
		return local
	case key != nil:
		return record.PartitionForKey(key, int(n))
	}
	return local % n
}

// cursorPartitions is how many partitions of the cursor topic are used, whatever it has: a board whose partition moved
// would not find its cursors.
const cursorPartitions = 8

// cursorPartition is the partition with the cursors of a board.
func cursorPartition(board string) int32 {
	return record.PartitionForKey([]byte(board), cursorPartitions)
}
