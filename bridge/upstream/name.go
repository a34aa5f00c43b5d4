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
