// Package drill is what every client lane asks of its client, and the one judge of the answers: records come back byte for
// byte, under every codec and to another client too (Records); three members share a topic, come and go, and go on where
// they were after a restart of theirs and of the broker (Group); who proves to be Ann is let in, who does not is refused
// (Login). A lane says how its client produces and how it joins a group: in Go, or as a Program that talks JSON.
package drill

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// limit is how long one drill may take. It only ends a hang on a loaded machine.
const limit = 2 * time.Minute

// Record is one as a client is to write it, or has read it. A nil Key or Value is Kafka's null, an empty one is not.
type Record struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Offset is the broker's; a client that writes does not look at it.
	Offset int64 `json:"offset"`
	// Timestamp is in milliseconds of Unix time.
	Timestamp int64    `json:"timestamp"`
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
}

// Header is one of a record; they have an order, and a key may be there twice. A nil Value is null.
type Header struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Door is where a client goes in and what it says there.
type Door struct {
	// Address is "host:port".
	Address string `json:"address"`
	// User, Password and Mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512) are for SASL; no User, no SASL.
	User      string `json:"user,omitempty"`
	Password  string `json:"password,omitempty"`
	Mechanism string `json:"mechanism,omitempty"`
	// CA is the file of the authority to trust with TLS; empty for no TLS.
	CA string `json:"ca,omitempty"`
}

// Batch is what is written with one codec: none, gzip, snappy, lz4 or zstd.
type Batch struct {
	Codec   string   `json:"codec"`
	Records []Record `json:"records"`
}

// Member is what a member of a group is told. It reads what the group has not yet committed, from the start where nothing
// is, and commits by itself what it has read and told.
type Member struct {
	Group string `json:"group"`
	// Name is its client id.
	Name   string   `json:"name"`
	Topics []string `json:"topics"`
	// Assignor is one of the lane's, or empty for whatever the client has by default.
	Assignor string `json:"assignor"`
}

// Client is a library at work. Its methods may be called by several goroutines.
type Client interface {
	// Produce writes every record to its partition, in the order they have, and returns when all are acknowledged by all
	// replicas; or the first error the library met.
	Produce(t testing.TB, door Door, batches []Batch) error
	// Join starts a member. It hands each record to tell, in the order read, and has done so before it commits it or gives its
	// partition away. leave has it leave its group, and returns when it is gone.
	Join(t testing.TB, door Door, m Member, tell func(Record)) (leave func() error)
}

// Lane is a client and what is known of it.
type Lane struct {
	Client
	// Codecs are all the client has.
	Codecs []string
	// Assignors are names as the broker shows them; the first is the one the client uses by default, the others are to differ
	// from it in what they ask of the broker or of the client: cooperative, sticky.
	Assignors []string
	// Refused and Denied are found in what the client says of a wrong password, and of a topic it may not write.
	Refused, Denied string
	// Cannot says which records the library refuses to write; nil where it writes all. franz-go writes them for it to read.
	Cannot func(Record) bool
	// Keeps turns a record into what is left of it when the library has read it, where it cannot tell apart all that Kafka can;
	// nil where it can.
	Keeps func(*Record)
	// Idle says that members come, go, and lose the broker only while there is nothing to read: the library's reader reads on
	// while its partitions move or the broker is away, and what it then commits comes too late, so that records come again.
	Idle bool
	// Late says that what a member has read is committed when it gives the partition away or leaves, and else not for long.
	Late bool
}

// within is the time of one drill.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// diff says in what a record is not what it must be; empty when it is the same.
func diff(got, want Record) string {
	var list []string
	if got.Timestamp != want.Timestamp {
		list = append(list, fmt.Sprintf("timestamp %d, want %d", got.Timestamp, want.Timestamp))
	}
	for _, f := range []struct {
		name      string
		got, want []byte
	}{{"key", got.Key, want.Key}, {"value", got.Value, want.Value}} {
		if !same(f.got, f.want) {
			list = append(list, fmt.Sprintf("%s %s, want %s", f.name, shown(f.got), shown(f.want)))
		}
	}
	if !slices.EqualFunc(got.Headers, want.Headers, func(a, b Header) bool { return a.Key == b.Key && same(a.Value, b.Value) }) {
		list = append(list, fmt.Sprintf("headers %.200q, want %.200q", got.Headers, want.Headers))
	}
	return strings.Join(list, "; ")
}

// same tells null from empty, as Kafka does.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func shown(b []byte) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprintf("%.60q of %d bytes", b, len(b))
}
