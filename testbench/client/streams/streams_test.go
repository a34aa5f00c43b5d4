// Package streams runs a Kafka Streams application at a whole broker, and ends both in the middle of their work.
package streams

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

//go:embed WordCount.java
var wordCount string

const (
	group       = "count"
	repartition = "count-word-repartition"
	// resetter is the class of kafka-streams-application-reset.
	resetter = "org.apache.kafka.tools.StreamsResetter"
	// progress is how many lines are counted between two events.
	progress = 1000
)

var vocabulary = strings.Fields("a river runs past the old mill and its wheel turns all day long in wind rain snow or sun as water falls from race to pond")

// world is a board, who writes lines to it, and who counts their words.
type world struct {
	t     *testing.T
	board *process.Process
	admin *kadm.Client
	state string
	app   *app

	writer  *kgo.Client
	rng     *rand.Rand
	day     time.Time        // of all lines
	want    map[string]int64 // words that were acknowledged; of the writing goroutine until it was waited for
	writing sync.WaitGroup
	enough  context.CancelFunc
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kafka.Jars(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{
		t: t, state: t.TempDir(), rng: rand.New(rand.NewPCG(seed, 1)), day: time.Now(), want: map[string]int64{},
		board: process.Start(t, "[broker]\n\"group.initial.rebalance.delay.ms\" = 0\n"),
	}
	var err error
	if w.writer, err = kgo.NewClient(
		kgo.SeedBrokers(w.board.Kafka), kgo.DefaultProduceTopic("lines"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.writer.Close)
	w.admin = kadm.NewClient(w.writer)
	for topic, partitions := range map[string]int32{"lines": 3, "words": 2, "days": 1} {
		if _, err := w.admin.CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// write writes lines until wrote is called.
func (w *world) write() {
	ctx, enough := context.WithCancel(w.t.Context())
	w.enough = enough
	w.writing.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			batch := make([]*kgo.Record, 100)
			for i := range batch {
				words := make([]string, 1+w.rng.IntN(8))
				for j := range words {
					// Some words are frequent and some rare.
					words[j] = vocabulary[min(w.rng.IntN(len(vocabulary)), w.rng.IntN(len(vocabulary)))]
					w.want[words[j]]++
				}
				batch[i] = &kgo.Record{Value: []byte(strings.Join(words, " ")), Timestamp: w.day}
			}
			// What was begun is ended: so every line is there, once.
			if err := w.writer.ProduceSync(w.t.Context(), batch...).FirstErr(); err != nil {
				w.t.Errorf("write lines: %v", err)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
}

func (w *world) wrote() {
	w.enough()
	w.writing.Wait()
}

// app is one life of the word count.
type app struct {
	cmd *exec.Cmd
	in  io.Closer
	out bytes.Buffer
}

func (w *world) start() {
	w.t.Helper()
	a := &app{cmd: kafka.Program(w.t, "WordCount.java", wordCount, w.board.Kafka, w.state)}
	a.cmd.Stdout, a.cmd.Stderr = &a.out, &a.out
	in, err := a.cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	a.in = in
	if err := a.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.app = a
	w.t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			_ = a.cmd.Process.Kill()
			_ = a.cmd.Wait()
		}
		if w.t.Failed() {
			w.t.Logf("an application said:\n%s", a.out.Bytes())
		}
	})
}

// stop has the application close itself, with success.
func (w *world) stop() {
	w.t.Helper()
	if err := w.app.in.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.app.cmd.Wait(); err != nil {
		w.t.Errorf("the application: %v", err)
	}
}

// soon is any moment of the next: there, something is in the middle of its work.
func soon() { <-time.After(rand.N(300 * time.Millisecond)) }

// kill ends the application as kill -9 does.
func (w *world) kill() {
	w.t.Helper()
	soon()
	if err := w.app.cmd.Process.Kill(); err != nil {
		w.t.Error(err)
	}
	_ = w.app.cmd.Wait() // says that it was killed
}

// committed is how far the application has committed a topic, all partitions together, and the topic's end.
func (w *world) committed(ctx context.Context, topic string) (at, end int64, err error) {
	ends, err := w.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, 0, err
	}
	ends.Each(func(o kadm.ListedOffset) { end += o.Offset })
	offsets, err := w.admin.FetchOffsets(ctx, group)
	if err != nil {
		return 0, 0, err
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic {
			at += max(0, o.At)
		}
	})
	return at, end, nil
}

// goesOn waits until more lines are counted than now, by progress.
func (w *world) goesOn() {
	w.t.Helper()
	begin := int64(-1)
	lane.Until(w.t, "the application goes on", func(ctx context.Context) error {
		at, _, err := w.committed(ctx, "lines")
		if begin < 0 && err == nil {
			begin = at
		}
		if err == nil && at < begin+progress {
			err = fmt.Errorf("%d lines are counted, %d before", at, begin)
		}
		return err
	})
}

// caughtUp waits until all lines are counted. What is committed of the lines is written to the topic between, and what is
// committed of that is written to the results: Streams commits in this order, so it is asked in this order.
func (w *world) caughtUp() {
	w.t.Helper()
	for _, topic := range []string{"lines", repartition} {
		lane.Until(w.t, "all of "+topic+" is read", func(ctx context.Context) error {
			at, end, err := w.committed(ctx, topic)
			if err == nil && (end == 0 || at != end) {
				err = fmt.Errorf("%d records of %d", at, end)
			}
			return err
		})
	}
}

// results are the counts in the order they were written, by word.
func (w *world) results(topic string) map[string][]int64 {
	w.t.Helper()
	ends, err := w.admin.ListEndOffsets(w.t.Context(), topic)
	if err != nil || ends.Error() != nil {
		w.t.Fatal(err, ends.Error())
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	reader, err := kgo.NewClient(kgo.SeedBrokers(w.board.Kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), lane.Patience)
	defer cancel()
	counts := map[string][]int64{}
	for left > 0 {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			w.t.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			if len(r.Value) != 8 {
				w.t.Fatalf("%s: %q is %x", topic, r.Key, r.Value)
			}
			counts[string(r.Key)] = append(counts[string(r.Key)], int64(binary.BigEndian.Uint64(r.Value)))
		})
	}
	return counts
}

// check compares the last count of every word with what was written: exactly, or where a crash may have had lines counted
// twice, that none is missing. It returns how many words are counted too often.
func (w *world) check(exact bool) (excess int64) {
	w.t.Helper()
	for _, topic := range []string{"words", "days"} {
		counts := w.results(topic)
		for word, want := range w.want {
			list := counts[word]
			if len(list) == 0 {
				w.t.Errorf("%s: %q is not there", topic, word)
				continue
			}
			last := list[len(list)-1]
			if last < want || exact && last != want {
				w.t.Errorf("%s: %q is counted %d times, want %d", topic, word, last, want)
			}
			excess += last - want
		}
		for word := range counts {
			if w.want[word] == 0 {
				w.t.Errorf("%s: %q was never written", topic, word)
			}
		}
	}
	return excess
}

// TestWordCount has words counted at least once while the application is closed and started, killed and started, and while
// the broker is killed and started. Closed, it is exact, and each count of a word is higher than the one before; killed, no
// word is missing. At last it is reset and counts again from the first line, which is exact again: so no line is missing.
func TestWordCount(t *testing.T) {
	w := newWorld(t)

	w.write()
	w.start()
	w.goesOn()
	w.stop()
	w.start()
	w.goesOn()
	w.wrote()
	w.caughtUp()
	w.check(true)
	for _, topic := range []string{"words", "days"} {
		for word, list := range w.results(topic) {
			for i := range list[1:] {
				if list[i+1] <= list[i] {
					t.Errorf("%s: %q is counted %d, then %d", topic, word, list[i], list[i+1])
				}
			}
		}
	}
	w.internalTopics()

	w.write()
	w.goesOn()
	w.kill()
	w.start()
	w.goesOn()
	w.wrote()
	w.caughtUp()
	t.Logf("the application was killed: %d words are counted twice", w.check(false))

	w.write()
	w.goesOn()
	soon()
	w.board.Kill()
	w.board.Start()
	w.goesOn()
	w.wrote()
	w.caughtUp()
	t.Logf("the broker was killed, too: %d words are counted twice", w.check(false))
	w.stop()

	reset := kafka.Command(t, resetter, "--bootstrap-server", w.board.Kafka, "--application-id", group, "--input-topics", "lines", "--force")
	if out, err := reset.CombinedOutput(); err != nil {
		t.Fatalf("reset: %v\n%s", err, out)
	}
	w.start()
	w.caughtUp()
	w.check(true)
	w.stop()
}

// internalTopics looks at what Streams made: its topics with their policies, and that it deletes what it has read of the
// topic between.
func (w *world) internalTopics() {
	w.t.Helper()
	for topic, want := range map[string]string{repartition: "delete", "count-all-changelog": "compact", "count-daily-changelog": "compact,delete"} {
		all, err := w.admin.DescribeTopicConfigs(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range all[0].Configs {
			if c.Key == "cleanup.policy" && c.MaybeValue() != want {
				w.t.Errorf("%s has cleanup.policy=%s, want %s", topic, c.MaybeValue(), want)
			}
		}
	}
	lane.Until(w.t, "records that are read are deleted", func(ctx context.Context) error {
		starts, err := w.admin.ListStartOffsets(ctx, repartition)
		start := int64(0)
		starts.Each(func(o kadm.ListedOffset) { start += o.Offset })
		if err == nil && start == 0 {
			err = errors.New("all of them are there")
		}
		return err
	})
}
