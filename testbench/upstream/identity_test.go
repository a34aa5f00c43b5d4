package upstream

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// What follows has a board meet what it did not leave behind: its own copy, an older disk, topics of the same name. Nothing is
// skipped, overwritten or sent twice, and what has stopped says why, until a person decides.

// station is a board with one link, "hq", for topics that begin with its name.
type station struct {
	*process.Process
	t     *testing.T
	name  string
	dir   string
	kafka *kafka.Cluster
}

// stationIn starts one in a directory.
func stationIn(t *testing.T, c *kafka.Cluster, name, dir string, settings ...string) *station {
	t.Helper()
	return stationAt(t, c, c.Bootstrap()[0], name, dir, settings...)
}

// stationAt is one that is told another address to begin with.
func stationAt(t *testing.T, c *kafka.Cluster, address, name, dir string, settings ...string) *station {
	t.Helper()
	s := &station{t: t, name: name, dir: dir, kafka: c}
	s.Process = process.StartIn(t, dir, fmt.Sprintf("[[upstream]]\nname = \"hq\"\nbootstrap.servers = [%q]\ntopics = [\"%s.*\"]\n"+
		"reconnect.backoff.ms = 50\nreconnect.backoff.max.ms = 200\n%s\n", address, name, strings.Join(settings, "\n")))
	return s
}

// topic is one of the station's.
func (s *station) topic(name string) string { return s.name + "." + name }

// write writes n records to partition 0 of a topic.
func (s *station) write(topic string, n int, text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka), kgo.AllowAutoTopicCreation())
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	for i := range n {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: s.topic(topic), Value: fmt.Appendf(nil, "%s %d", text, i)}).FirstErr(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// texts are what write has written: so many of each text.
func texts(parts ...any) (list []string) {
	for i := 0; i < len(parts); i += 2 {
		for n := range parts[i].(int) {
			list = append(list, fmt.Sprintf("%s %d", parts[i+1], n))
		}
	}
	return list
}

// arrived checks what is upstream.
func (s *station) arrived(topic string, want []string) {
	s.t.Helper()
	var got []string
	for _, r := range logOf(s.t, []string{s.topic(topic)}, s.kafka.Direct()...) {
		got = append(got, string(r.Value))
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("%s has upstream\n\t%q, want\n\t%q", s.topic(topic), got, want)
	}
}

// is waits until the link is as it should be.
func (s *station) is(what string, wrong func(*broker.LinkStatus) bool) broker.LinkStatus {
	s.t.Helper()
	var is broker.LinkStatus
	lane.Until(s.t, what, func(ctx context.Context) error {
		all, err := linksOf(ctx, s.dir)
		if is = all["hq"]; err == nil && wrong(&is) {
			err = fmt.Errorf("%+v", is)
		}
		return err
	})
	return is
}

// delivered waits until all is.
func (s *station) delivered() {
	s.t.Helper()
	s.is("all is delivered", func(is *broker.LinkStatus) bool {
		return is.State != string(upstream.StateIdle) || is.Records != 0 || is.Trouble != ""
	})
}

// stopped waits until partition 0 of a topic is stopped with a reason that holds why, and checks that the log tells it too.
func (s *station) stopped(topic, why string) {
	s.t.Helper()
	s.is(topic+" is stopped: "+why, func(is *broker.LinkStatus) bool {
		return is.Stopped != 1 || len(is.List) != 1 || is.List[0].Topic != s.topic(topic) || !strings.Contains(is.List[0].Reason, why) ||
			!strings.Contains(is.Trouble, "1 partitions have stopped")
	})
	s.said(why)
}

// said checks that a line of the log has something in it.
func (s *station) said(what string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lane.Patience)
	defer cancel()
	if logs, err := broker.Ask(ctx, s.dir, "logs"); err != nil || !strings.Contains(string(logs), what) {
		s.t.Errorf("the log does not say %q: %v\n%s", what, err, logs)
	}
}

// resolve decides about partition 0 of a topic.
func (s *station) resolve(topic, how string) {
	s.t.Helper()
	process.Run(s.t, "upstream", "resolve", "hq", s.topic(topic), "0", how, "--data", s.dir)
}

// copyOf is a copy of a directory of a board that does not run.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAClonedBoardIsFencedAndSaysSo(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	b := stationIn(t, c, "cloned", filepath.Join(t.TempDir(), "data"))
	b.write("a", 10, "before")
	b.delivered()
	b.Stop()
	image := copyOf(t, b.dir)
	b.Start()
	b.delivered()
	clone := stationIn(t, c, "cloned", image)
	clone.delivered()
	clone.write("a", 5, "of the clone")
	clone.delivered()
	b.write("a", 5, "of the board")
	b.is("the board is fenced, and says so", func(is *broker.LinkStatus) bool {
		return is.State != string(upstream.StateFenced) || !strings.Contains(is.Reason, "another process with this board's identity") ||
			!strings.Contains(is.Trouble, "`millrace upstream resume`")
	})
	b.said("another process with this board's identity")
	clone.write("a", 5, "later")
	clone.delivered() // who has sent last goes on
	clone.arrived("a", texts(10, "before", 5, "of the clone", 5, "later"))

	// Made to go on, the board sees that what was delivered is not what it has.
	clone.Stop()
	b.write("a", 7, "of the board")
	process.Run(t, "upstream", "resume", "hq", "--data", b.dir)
	b.stopped("a", "is not the one that was delivered")
	b.write("b", 3, "others go on")
	lane.Until(t, "others go on", func(context.Context) error {
		all, err := linksOf(t.Context(), b.dir)
		if is := all["hq"]; err == nil && is.Behind > 1 {
			err = fmt.Errorf("%+v", is)
		}
		return err
	})
	b.arrived("a", texts(10, "before", 5, "of the clone", 5, "later"))
}

func TestAnOlderDirectoryStopsItsPartition(t *testing.T) {
	t.Parallel()
	b := stationIn(t, kafka.Shared(t), "restored", filepath.Join(t.TempDir(), "data"))
	b.write("a", 10, "first")
	b.write("b", 2, "first")
	b.delivered()
	b.Stop()
	older := copyOf(t, b.dir)
	b.Start()
	b.write("a", 10, "second")
	b.delivered()
	b.Kill()
	if err := os.RemoveAll(b.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(older, b.dir); err != nil {
		t.Fatal(err)
	}
	b.Start()
	b.stopped("a", "ends at offset 10, before 20")
	b.write("a", 5, "another life")
	b.write("b", 3, "goes on")
	lane.Until(t, "the other topic goes on", func(ctx context.Context) error {
		if got := len(logOf(t, []string{b.topic("b")}, b.kafka.Direct()...)); got != 5 {
			return fmt.Errorf("%d records", got)
		}
		return nil
	})
	b.Kill()
	b.Start() // it remembers
	b.stopped("a", "ends at offset 15, before 20")
	b.arrived("a", texts(10, "first", 10, "second"))
	b.resolve("a", "--accept")
	b.write("a", 3, "new")
	b.delivered()
	b.arrived("a", texts(10, "first", 10, "second", 3, "new"))
}

func TestATopicMadeAnewStopsItsPartition(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	anew := func(t *testing.T, client *kgo.Client, topic string) {
		t.Helper()
		admin := kadm.NewClient(client)
		if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
		lane.Until(t, "a topic of the same name is made", func(ctx context.Context) error {
			_, err := admin.CreateTopic(ctx, 1, 1, nil, topic)
			return err
		})
	}
	t.Run("on the board", func(t *testing.T) {
		t.Parallel()
		b := stationIn(t, c, "anewhere", filepath.Join(t.TempDir(), "data"))
		b.write("a", 10, "first")
		b.delivered()
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Kafka))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		anew(t, client, b.topic("a"))
		b.write("a", 5, "anew")
		b.stopped("a", "the local topic was made anew")
		b.Kill()
		b.Start()
		b.stopped("a", "the local topic was made anew")
		b.arrived("a", texts(10, "first"))
		b.resolve("a", "--to-earliest")
		b.delivered()
		b.arrived("a", texts(10, "first", 5, "anew"))
	})
	t.Run("upstream, while the link runs", func(t *testing.T) {
		t.Parallel()
		b := stationIn(t, c, "anewunder", filepath.Join(t.TempDir(), "data"))
		b.write("a", 10, "first")
		b.delivered()
		anew(t, c.Client(t), b.topic("a"))
		b.write("a", 5, "second")
		b.stopped("a", "the upstream topic "+b.topic("a")+" was made anew")
		b.arrived("a", nil)
		b.resolve("a", "--accept")
		b.delivered()
		b.arrived("a", texts(5, "second"))
	})
	t.Run("upstream", func(t *testing.T) {
		t.Parallel()
		b := stationIn(t, c, "anewthere", filepath.Join(t.TempDir(), "data"))
		b.write("a", 10, "first")
		b.delivered()
		b.Kill()
		anew(t, c.Client(t), b.topic("a"))
		b.Start()
		b.write("a", 5, "second")
		b.stopped("a", "the upstream topic "+b.topic("a")+" was made anew")
		b.arrived("a", nil)
		b.resolve("a", "--accept")
		b.delivered()
		b.arrived("a", texts(5, "second"))
	})
}
