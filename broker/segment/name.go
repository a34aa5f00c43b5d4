package segment

import (
	"fmt"
	"strconv"
	"strings"
)

// The suffixes of a segment's files.
const (
	LogSuffix       = ".log"
	IndexSuffix     = ".index"
	TimeIndexSuffix = ".timeindex"
	// TopicIndexSuffix is Millrace's own: which MQTT topics are where.
	TopicIndexSuffix = ".topicindex"
	// DeletedSuffix is appended to the names of files that are about to be unlinked, as Kafka does.
	DeletedSuffix = ".deleted"
	// CleanedSuffix is appended while compaction writes a segment, SwapSuffix once it is decided that it takes the place of
	// several, both as Kafka does.
	CleanedSuffix = ".cleaned"
	SwapSuffix    = ".swap"
)

// fileName is a base offset in 20 digits and a suffix, as Kafka names the files of a segment.
func fileName(base int64, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }

// ParseName is the base offset in the name of a segment's file, ok false when it is not one with that suffix.
func ParseName(name, suffix string) (base int64, ok bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	return base, err == nil && base >= 0
}
