package segment

import (
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"millrace/bridge/payload"
	"millrace/broker/record"
)

// underLevels is how many levels of a topic name have a hash of their own, beside the whole name's: filters with a wildcard
// ask for those before it.
const underLevels = 3

// Wanted are MQTT topics that somebody looks for in a log, as hashes. Of records that are passed by none has one of them;
// the other way about nothing is certain. The zero Wanted wants nothing. It is ready for Skip after Done.
type Wanted struct {
	topics, under []uint32 // of whole names, and of what whole names begin with; ascending after Done
	all           bool
}

// Reset makes it want nothing.
func (w *Wanted) Reset() { w.topics, w.under, w.all = w.topics[:0], w.under[:0], false }

// Add adds what a valid topic filter matches. One that begins with a wildcard wants everything.
func (w *Wanted) Add(filter string) {
	level, end := 0, -1 // end of the literal levels that are asked for
	rest, more, at := filter, true, 0
	for more {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "+" || name == "#" {
			if level == 0 {
				w.all = true
				return
			}
			h := topicHash(filter[:end])
			// What # stands for includes the level above it (4.7.1.2).
			w.topics, w.under = append(w.topics, h), append(w.under, h)
			return
		}
		if at += len(name); level < underLevels {
			end = at
		}
		level++
		at++
	}
	w.topics = append(w.topics, topicHash(filter))
}

// wantedMax is how many hashes are worth comparing: more of them want about everything.
const wantedMax = 1 << 13

// Done ends the adding. It reports whether anything can be passed by.
func (w *Wanted) Done() bool {
	if w.all || len(w.topics)+len(w.under) > wantedMax {
		return false
	}
	w.topics, w.under = sorted(w.topics), sorted(w.under)
	return true
}

func sorted(hashes []uint32) []uint32 {
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

// topicHash is the hash of a topic name, or of some of its first levels.
func topicHash(s string) uint32 { return mix(record.Update(0, []byte(s))) }

// mix spreads a CRC over all bits, as the last step of Murmur3 does: a CRC alone is linear.
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// topicHashes are the hashes of what one span's records are called.
type topicHashes struct {
	topics, under []uint32 // ascending
}

// add adds the topics of a batch; false where not all of its records say what they are called.
func (t *topicHashes) add(b record.Batch) bool { return b.EachHeader(payload.Topic, t.addName) }

// addName adds a topic name; false for what the MQTT door does not take from a header, or not from everybody's: then the
// record's name is made of its key, by rules that may change.
func (t *topicHashes) addName(name []byte) bool {
	crc, from, level, ascii := uint32(0), 0, 0, true
	for i, c := range name {
		switch {
		case c == '/' && level < underLevels:
			crc = record.Update(crc, name[from:i])
			t.under = insert(t.under, mix(crc))
			from, level = i, level+1
		case c == '+' || c == '#' || c == 0:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if len(name) == 0 || name[0] == '$' || len(name) > math.MaxUint16 || !ascii && !utf8.Valid(name) {
		return false
	}
	t.topics = insert(t.topics, mix(record.Update(crc, name[from:])))
	return true
}

func (t *topicHashes) reset() { t.topics, t.under = t.topics[:0], t.under[:0] }

func insert(hashes []uint32, h uint32) []uint32 {
	i, found := slices.BinarySearch(hashes, h)
	if found {
		return hashes
	}
	return slices.Insert(hashes, i, h)
}

// In says whether a batch may have something wanted, by looking at it.
func (w *Wanted) In(b record.Batch) bool {
	var t topicHashes
	return w.all || !t.add(b) || intersect(w.topics, t.topics) || intersect(w.under, t.under)
}

func intersect(a, b []uint32) bool {
	return slices.ContainsFunc(a, func(h uint32) bool {
		_, found := slices.BinarySearch(b, h)
		return found
	})
}
