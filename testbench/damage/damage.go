// Package damage proves that rot costs no more than what it touched: one bit flipped, some bytes cut out, or the end cut
// off, anywhere in any file of a stopped broker. The next start must come up, never serve a wrong byte, lose at most the
// records that lay where the damage is, say which, and take new records.
package damage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kind is what a file of a data directory is.
type kind string

const (
	log         kind = "log"
	index       kind = "index"
	timeIndex   kind = "time index"
	topicIndex  kind = "topic index"
	snapshot    kind = "producer snapshot"
	epochs      kind = "leader epochs"
	causes      kind = "start causes"
	metadata    kind = "partition.metadata"
	walFile     kind = "journal"
	slot        kind = "checkpoint slot"
	bootTable   kind = "boot table"
	raftLog     kind = "catalog log"
	vote        kind = "vote"
	catalogSnap kind = "catalog snapshot"
	meta        kind = "meta.properties"
	metaCopy    kind = "meta.properties.copy"
	life        kind = "life.json"
	key         kind = "identity.pem"
	keyCopy     kind = "identity.pem.copy"
	paused      kind = "paused links"
	linkDay     kind = "day of a link"
	linkKept    kind = "what a link has delivered"
)

// kinds are all of them.
var kinds = []kind{log, index, timeIndex, topicIndex, snapshot, epochs, causes, metadata, walFile, slot, bootTable, raftLog, vote, catalogSnap, meta, metaCopy, life, key, keyCopy, paused, linkDay, linkKept}

// kindOf is the kind of a file by its path in the data directory, "" for one that holds nothing.
func kindOf(path string) kind {
	dir, name := filepath.Split(path)
	switch {
	case name == ".lock", name == "wear.json": // the latter is there when the device was written to, by whoever
		return ""
	case name == "meta.properties":
		return meta
	case name == "meta.properties.copy":
		return metaCopy
	case name == "life.json":
		return life
	case name == "identity.pem":
		return key
	case name == "identity.pem.copy":
		return keyCopy
	case path == "upstream/paused.json":
		return paused
	case strings.HasPrefix(dir, "upstream/") && strings.HasSuffix(name, ".day"):
		return linkDay
	case strings.HasPrefix(dir, "upstream/") && strings.HasSuffix(name, ".delivered"):
		return linkKept
	case strings.HasPrefix(name, "checkpoint."):
		return slot
	case strings.HasPrefix(name, "clock."):
		return bootTable
	case strings.HasPrefix(dir, "journal/"):
		return walFile
	case strings.HasPrefix(dir, "quorum/log/"):
		return raftLog
	case name == "vote":
		return vote
	case strings.HasPrefix(dir, "quorum/") && strings.HasSuffix(name, ".snapshot"):
		return catalogSnap
	case strings.HasSuffix(name, ".log"):
		return log
	case strings.HasSuffix(name, ".index"):
		return index
	case strings.HasSuffix(name, ".topicindex"):
		return topicIndex
	case strings.HasSuffix(name, ".timeindex"):
		return timeIndex
	case strings.HasSuffix(name, ".snapshot"):
		return snapshot
	case name == "leader-epoch-checkpoint":
		return epochs
	case name == "log-start-causes":
		return causes
	case name == "partition.metadata":
		return metadata
	}
	return kind("unknown file " + path)
}

// injury is one thing done to one file.
type injury struct {
	path     string
	kind     kind
	how      string
	from, to int64 // bytes of the undamaged file that are no more what they were
	zeros    bool  // and all of them were zero, behind everything that means something
	size     int64 // of the undamaged file
	bit      byte
}

func (i injury) String() string {
	if i.how == "flip" {
		return fmt.Sprintf("flip bit %d of byte %d of %s (%s, %d bytes)", i.bit, i.from, i.path, i.kind, i.size)
	}
	return fmt.Sprintf("%s bytes %d to %d of %s (%s, %d bytes)", i.how, i.from, i.to-1, i.path, i.kind, i.size)
}

// choose picks an injury: first the kind, so that rare files are hit as often as logs, then the file, then the place.
func choose(rng *rand.Rand, files map[string][]byte, places map[string][]place) injury {
	of := make(map[kind][]string)
	for path, raw := range files {
		if k := kindOf(path); k != "" && len(raw) > 0 {
			of[k] = append(of[k], path)
		}
	}
	var have []kind
	for _, k := range kinds {
		if len(of[k]) > 0 {
			have = append(have, k)
		}
	}
	// Where records lie is looked at more often.
	have = append(have, log, log, walFile, walFile)
	k := have[rng.IntN(len(have))]
	for len(of[k]) == 0 {
		k = have[rng.IntN(len(have))]
	}
	slices.Sort(of[k])
	path := of[k][rng.IntN(len(of[k]))]
	raw := files[path]
	full := int64(len(bytes.TrimRight(raw, "\x00")))
	size := int64(len(raw))
	i := injury{path: path, kind: k, size: size, how: "flip"}
	reach := max(full, 1)
	if rng.IntN(10) == 0 {
		reach = size
	}
	i.from = rng.Int64N(reach)
	switch n := rng.IntN(20); {
	case n < 12:
		i.bit, i.to = byte(rng.IntN(8)), i.from+1
	case n < 17:
		i.how = "cut out"
		i.to = min(size, i.from+1+rng.Int64N(1<<rng.IntN(12)))
	default:
		i.how, i.to = "cut off", size
	}
	if at := places[path]; i.how != "flip" && len(at) > 0 && rng.IntN(3) == 0 {
		// Between two batches or frames, where what is left looks whole.
		i.from = max(at[rng.IntN(len(at))].from, 0)
		if i.how == "cut out" {
			i.to = min(size, at[rng.IntN(len(at))].to)
		}
		if i.to <= i.from {
			i.how, i.to = "cut off", size
		}
	}
	if i.how == "cut out" && i.to == size { // up to the end: what is left may look like a file that was never longer
		i.how = "cut off"
	}
	i.zeros = i.from >= full && i.how != "flip"
	return i
}

// alike is from where to where bytes may be missing for all that the damaged file says: in a row of zeros nobody sees which.
func (i injury) alike(raw []byte) (from, to int64) {
	from, to = i.from, i.to
	if i.how != "cut out" {
		return from, to
	}
	for n := to - from; to < int64(len(raw)) && raw[to] == raw[to-n]; {
		to++
	}
	for n := i.to - i.from; from > 0 && raw[from-1] == raw[from-1+n]; {
		from--
	}
	return from, to
}

// inflict does it.
func (i injury) inflict(dir string, raw []byte) error {
	damaged := slices.Clone(raw)
	if i.how == "flip" {
		damaged[i.from] ^= 1 << i.bit
	} else {
		damaged = slices.Delete(damaged, int(i.from), int(i.to))
	}
	return os.WriteFile(filepath.Join(dir, i.path), damaged, 0o644)
}
