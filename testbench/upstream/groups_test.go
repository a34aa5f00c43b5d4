package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/broker"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// followParts is how many partitions the topic has at both ends.
const followParts = 2

// Consumer groups of the board read on upstream at the record where they were, with their own names: what was sent went in many
// transactions, with markers and somebody else's records, some of which were taken back, between them; and the board was killed.
func TestGroupsReadOnUpstream(t *testing.T) {
	c := kafka.Shared(t)
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	b := stationIn(t, c, "groups", filepath.Join(t.TempDir(), "data"), `groups = ["reader-*"]`, "sync.group.offsets.interval = '1s'")
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	topic := b.topic("a")
	open := func(server string, opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(server), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	there := open(c.Bootstrap()[0], kgo.TransactionalID("groups-somebody"))
	for _, cl := range []*kgo.Client{open(b.Kafka), there} {
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, followParts, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	var written [followParts]int64
	names := []string{"reader-1", "reader-2", "reader-3"}
	read := map[string][]int64{}
	for _, n := range names {
		read[n] = make([]int64, followParts)
	}
	for round := range 12 {
		here := open(b.Kafka)
		for range 3 {
			for p := range int32(followParts) {
				var recs []*kgo.Record
				for range 1 + rng.IntN(40) {
					recs = append(recs, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d", written[p])})
					written[p]++
				}
				if err := here.ProduceSync(ctx, recs...).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			if err := there.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for i := range 1 + rng.IntN(3) {
				there.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % followParts), Value: []byte("somebody")}, nil)
			}
			if err := errors.Join(there.Flush(ctx), there.EndTransaction(ctx, kgo.TransactionEndTry(rng.IntN(2) == 0))); err != nil {
				t.Fatal(err)
			}
		}
		admin := kadm.NewClient(here)
		for _, n := range names {
			var at kadm.Offsets
			for p := range int32(followParts) {
				read[n][p] += rng.Int64N(written[p] - read[n][p] + 1)
				at.AddOffset(topic, p, read[n][p], -1)
			}
			if err := admin.CommitAllOffsets(ctx, n, at); err != nil {
				t.Fatal(err)
			}
		}
		here.Close()
		if round%2 == 1 { // else all of it would be a few transactions
			b.delivered()
		}
		if round == 5 {
			b.Kill()
			b.Start()
		}
	}
	b.delivered()
	// All is sent: how far a group has read since is asked of the link, not of a clock.
	last := open(b.Kafka)
	admin := kadm.NewClient(last)
	for i, n := range names {
		var at kadm.Offsets
		for p := range int32(followParts) {
			read[n][p] = written[p] - []int64{0, 1, 17}[i]
			at.AddOffset(topic, p, read[n][p], -1)
		}
		if err := admin.CommitAllOffsets(ctx, n, at); err != nil {
			t.Fatal(err)
		}
	}
	up := kadm.NewClient(there)
	var is broker.LinkStatus
	lane.Until(t, "groups are committed upstream", func(ctx context.Context) error {
		is = b.is("there is nothing to translate", func(is *broker.LinkStatus) bool {
			return is.Groups == nil || is.Groups.Followed != len(names) || is.Groups.Waiting != 0 || is.Groups.Problem != ""
		})
		for _, n := range names {
			list, err := up.FetchOffsets(ctx, n)
			if err != nil {
				return err
			}
			for p := range int32(followParts) {
				o, ok := list.Lookup(topic, p)
				if want := fmt.Sprintf("/%d", read[n][p]); !ok || !strings.Contains(o.Metadata+"/", want+"/") {
					return fmt.Errorf("%s-%d: %d %q is committed, want %s", n, p, o.At, o.Metadata, want)
				}
			}
		}
		return nil
	})
	t.Logf("%d records, %d transactions; %+v", written[0]+written[1], is.Transactions, *is.Groups)
	if err := there.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for p := range int32(followParts) { // by which a reader knows that there is no more
		there.Produce(ctx, &kgo.Record{Topic: topic, Partition: p, Value: []byte("end")}, nil)
	}
	if err := errors.Join(there.Flush(ctx), there.EndTransaction(ctx, kgo.TryCommit)); err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		reads := readsOn
		if i == 2 {
			reads = kcatReadsOn
		}
		got := reads(ctx, t, c.Bootstrap()[0], n, topic)
		for p := range followParts {
			var want []string
			for v := read[n][p]; v < written[p]; v++ {
				want = append(want, fmt.Sprint(v))
			}
			if !slices.Equal(got[p], want) {
				t.Errorf("%s reads %v on in partition %d, want %v", n, got[p], p, want)
			}
		}
	}
}

// readsOn is what a group reads on of the board's records, by partition, up to the end.
func readsOn(ctx context.Context, t *testing.T, server, group, topic string) [followParts][]string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(server), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var got [followParts][]string
	for left := followParts; left > 0; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			switch text := string(r.Value); text {
			case "somebody":
			case "end":
				left--
			default:
				got[r.Partition] = append(got[r.Partition], text)
			}
		})
	}
	return got
}

// kcatReadsOn is readsOn by librdkafka.
func kcatReadsOn(ctx context.Context, t *testing.T, server, group, topic string) (got [followParts][]string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, lane.Need(t, "kcat")[0], "-b", server, "-G", group, "-q", "-e", "-u", "-f", "%p %s\n",
		"-X", "auto.offset.reset=error", "-X", "isolation.level=read_committed", "-X", "enable.auto.commit=false", topic)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	began := time.Now()
	out, err := cmd.Output()
	t.Log("kcat took", time.Since(began).Round(time.Millisecond))
	if err != nil {
		t.Fatalf("kcat: %v: %s", err, complaints.String())
	}
	for line := range strings.Lines(string(out)) {
		var p int
		var text string
		if _, err := fmt.Sscan(line, &p, &text); err != nil || p < 0 || p >= followParts {
			t.Fatalf("kcat says %q", line)
		}
		if text != "somebody" && text != "end" {
			got[p] = append(got[p], text)
		}
	}
	return got
}
