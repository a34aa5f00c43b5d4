package drill

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Difference is what Compare has found: how many records of which kind, and the first of them in words.
type Difference struct {
	// Lost were written and are not there, Twice are there once more than they were written, Disordered come after one that
	// was written later, Changed are there with something else in them, Unknown nobody has written.
	Lost, Twice, Disordered, Changed, Unknown int
	// First are at most firstMax sentences, each of which names a record.
	First []string
}

const firstMax = 8

// Error has all of it.
func (d *Difference) Error() string {
	return fmt.Sprintf("%d lost, %d twice, %d out of order, %d changed, %d unknown; the first:\n\t%s",
		d.Lost, d.Twice, d.Disordered, d.Changed, d.Unknown, strings.Join(d.First, "\n\t"))
}

func (d *Difference) say(n *int, format string, args ...any) {
	*n++
	if len(d.First) < firstMax {
		d.First = append(d.First, fmt.Sprintf(format, args...))
	}
}

// Compare holds what was read against what was written: each record once, in the order of its partition, with the same
// timestamp, key, value and headers. Offsets are only told: those of a copy are others. It returns nil or a *Difference.
// A caller whose copy has another name, or headers that were added, changes them back first.
func Compare(want, got []Record) error {
	d := &Difference{}
	wanted, there := byPlace(want), byPlace(got)
	for at := range there {
		if _, ok := wanted[at]; !ok {
			wanted[at] = nil
		}
	}
	places := make([]place, 0, len(wanted))
	for at := range wanted {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b place) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.partition - b.partition)
	})
	for _, at := range places {
		d.compare(at, wanted[at], there[at])
	}
	if d.Lost+d.Twice+d.Disordered+d.Changed+d.Unknown > 0 {
		return d
	}
	return nil
}

func byPlace(records []Record) map[place][]Record {
	m := map[place][]Record{}
	for _, r := range records {
		at := place{r.Topic, r.Partition}
		m[at] = append(m[at], r)
	}
	return m
}

// compare judges one partition.
func (d *Difference) compare(at place, want, got []Record) {
	// left are the places in want of records that are the same and were not found yet.
	left := map[[sha256.Size]byte][]int{}
	for i, r := range want {
		id := sum(r)
		left[id] = append(left[id], i)
	}
	found := make([]bool, len(want))
	const twice, unknown = -1, -2
	match := make([]int, len(got)) // the place in want of each
	for i, r := range got {
		id := sum(r)
		switch list, written := left[id]; {
		case len(list) > 0:
			match[i], found[list[0]] = list[0], true
			left[id] = list[1:]
		case written:
			match[i] = twice
		default:
			match[i] = unknown
		}
	}
	next := 0 // the first of want after all that was matched
	for i, r := range got {
		switch m := match[i]; {
		case m >= next:
			next = m + 1
		case m >= 0:
			d.say(&d.Disordered, "%v: offset %d comes after one that was written later: %s", at, r.Offset, brief(r))
		case m == twice:
			d.say(&d.Twice, "%v: offset %d is there once more than it was written: %s", at, r.Offset, brief(r))
		case next < len(want) && !found[next]:
			d.say(&d.Changed, "%v: offset %d is not record %d as it was written: %s", at, r.Offset, next, diff(r, want[next]))
			found[next] = true
			next++
		default:
			d.say(&d.Unknown, "%v: offset %d was written by nobody: %s", at, r.Offset, brief(r))
		}
	}
	for i, ok := range found {
		if !ok {
			d.say(&d.Lost, "%v: record %d of %d is not there: %s", at, i, len(want), brief(want[i]))
		}
	}
}

// sum stands for all of a record but where it is.
func sum(r Record) [sha256.Size]byte {
	raw := binary.BigEndian.AppendUint64(nil, uint64(r.Timestamp))
	add := func(b []byte) {
		n := uint64(len(b))
		if b == nil {
			n = 1 << 63 // null is not empty
		}
		raw = append(binary.BigEndian.AppendUint64(raw, n), b...)
	}
	add(r.Key)
	add(r.Value)
	for _, h := range r.Headers {
		add([]byte(h.Key))
		add(h.Value)
	}
	return sha256.Sum256(raw)
}

func brief(r Record) string {
	return fmt.Sprintf("timestamp %d, key %s, value %s, headers %.100q", r.Timestamp, shown(r.Key), shown(r.Value), r.Headers)
}

// Committed reads topics as a reader of committed records sees them, from their starts to where they ended when it began.
// While a transaction is open that began before, it waits; until ctx ends. opts say how to get there.
func Committed(ctx context.Context, topics []string, opts ...kgo.Opt) ([]Record, error) {
	client, err := kgo.NewClient(slices.Concat(opts, []kgo.Opt{
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100 * time.Millisecond),
	})...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err := errors.Join(err, starts.Error(), ends.Error()); err != nil {
		return nil, err
	}
	// What is last in a partition without open transactions is a record that is seen or a marker: when the one before the
	// end was polled, all was.
	unread := map[place]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		if start.Offset >= end.Offset {
			return
		}
		unread[place{end.Topic, end.Partition}] = end.Offset
		if from[end.Topic] == nil {
			from[end.Topic] = map[int32]kgo.Offset{}
		}
		from[end.Topic][end.Partition] = kgo.NewOffset().At(start.Offset)
	})
	client.AddConsumePartitions(from)
	var records []Record
	for len(unread) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("%d partitions were not read to their ends: %w", len(unread), err)
		}
		fetches.EachRecord(func(k *kgo.Record) {
			at := place{k.Topic, k.Partition}
			end, ok := unread[at]
			if !ok || k.Offset >= end {
				delete(unread, at)
				return
			}
			if !k.Attrs.IsControl() {
				records = append(records, FromClient(k))
			}
			if k.Offset == end-1 {
				delete(unread, at)
			}
		})
	}
	return records, nil
}

// FromClient is a record as franz-go has it.
func FromClient(k *kgo.Record) Record {
	r := Record{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset, Timestamp: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value}
	for _, h := range k.Headers {
		r.Headers = append(r.Headers, Header{h.Key, h.Value})
	}
	return r
}

// ToClient is a record as franz-go wants it.
func (r Record) ToClient() *kgo.Record {
	k := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Timestamp: unix(r.Timestamp), Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return k
}
