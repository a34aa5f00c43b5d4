package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
	"millrace/testbench/badlink"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// insider is a station in the process of the test, so that it can be given a disk and a clock. Its doors are the same in
// every life; only its way to the Kafka is through a bad link, and what it has connected to already is not cut with that.
type insider struct {
	station
	way   *badlink.Link
	given broker.Config
	board *broker.Broker // nil between two lives
}

// inside is one with a disk, a clock and settings, that does not run yet.
func inside(t *testing.T, c *kafka.Cluster, name string, given broker.Config, settings ...string) *insider {
	t.Helper()
	b := &insider{way: badlink.New(t, c.Bootstrap()[0]), given: given}
	b.station = station{t: t, name: name, dir: filepath.Join(t.TempDir(), "data"), kafka: c, Process: &process.Process{Kafka: lane.FreeAddress(t), MQTT: lane.FreeAddress(t)}}
	file := strings.Join(settings, "\n") + fmt.Sprintf("\n[[upstream]]\nname = \"hq\"\nbootstrap.servers = [%q]\ntopics = [\"%s.*\"]\n"+
		"reconnect.backoff.ms = 50\nreconnect.backoff.max.ms = 200\n", b.way.Addr, name)
	s, err := config.Parse("millrace.toml", []byte(file), config.Names{Node: "board"}, config.Checks{})
	if err != nil {
		t.Fatal(err)
	}
	s.Broker.LogDirs, s.HTTP.Listener = b.dir, ""
	s.Broker.Listeners, s.MQTT.Listeners = []string{"PLAINTEXT://" + b.Kafka}, []string{"tcp://" + b.MQTT}
	b.given.Settings = s
	t.Cleanup(b.end)
	return b
}

// begin begins a life.
func (b *insider) begin() {
	b.t.Helper()
	var err error
	if b.board, err = broker.Open(b.t.Context(), b.given); err != nil {
		b.t.Fatal(err)
	}
}

// end ends it, where there is one.
func (b *insider) end() {
	b.t.Helper()
	if b.board == nil {
		return
	}
	board := b.board
	b.board = nil
	if err := board.Close(); err != nil {
		b.t.Error(err)
	}
}

// heal lets the board reach its Kafka again.
func (b *insider) heal() {
	b.t.Helper()
	if err := b.way.Heal(); err != nil {
		b.t.Fatal(err)
	}
}

// card is a real disk that is said to be small: it holds so many bytes, and what is in a directory takes of them.
type card struct {
	disk.OS
	dir   string
	bytes int64
}

// Usage implements disk.FS.
func (c card) Usage(string) (disk.Usage, error) {
	taken := int64(0)
	err := filepath.WalkDir(c.dir, func(_ string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && e.Type().IsRegular() {
			if info, err = e.Info(); err == nil {
				taken += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		return err
	})
	return disk.Usage{Total: c.bytes, Free: max(c.bytes-taken, 0)}, err
}

// gaps are what the gap topic tells of a topic of the station's, in order.
func (s *station) gaps(topic string) (list []upstream.Gap) {
	s.t.Helper()
	for _, r := range logOf(s.t, []string{upstream.DefaultGapTopic}, s.kafka.Direct()...) {
		var g upstream.Gap
		if err := json.Unmarshal(r.Value, &g); err != nil {
			s.t.Fatalf("a gap record is %q: %v", r.Value, err)
		}
		if g.Topic == s.topic(topic) {
			list = append(list, g)
		}
	}
	return list
}

// start is the first offset of partition 0 of a topic that the board has.
func (s *station) start(topic string) int64 {
	s.t.Helper()
	var first kadm.ListedOffset
	s.admin(func(ctx context.Context, admin *kadm.Client) error {
		all, err := admin.ListStartOffsets(ctx, s.topic(topic))
		first, _ = all.Lookup(s.topic(topic), 0)
		return errors.Join(err, all.Error())
	})
	return first.Offset
}

// told checks that what is upstream of partition 0 of a topic, with what gap records tell to be lost, is what was written, from
// the first record to the last of n: each offset once, here or there, and what is lost for one cause from the offset from on,
// at least and at most so many.
func (s *station) told(topic, cause string, from, least, most, n int64) {
	s.t.Helper()
	there := map[int64]string{}
	put := func(offset int64, what string) {
		if had := there[offset]; had != "" {
			s.t.Errorf("offset %d is %s and %s", offset, had, what)
		}
		there[offset] = what
	}
	sum := int64(0)
	for _, g := range s.gaps(topic) {
		s.t.Logf("%+v", g)
		if g.Partition != 0 || g.Cause != cause || g.Link != "hq" || g.Count != g.Last-g.First+1 || g.First != from+sum {
			s.t.Errorf("a gap record is %+v, want partition 0 from %d on, %s", g, from+sum, cause)
		}
		sum += g.Count
		for o := g.First; o <= g.Last && o < n; o++ {
			put(o, "lost")
		}
	}
	records := logOf(s.t, []string{s.topic(topic)}, s.kafka.Direct()...)
	for _, r := range records {
		c, err := takeApart(r)
		if err != nil {
			s.t.Fatal(err)
		}
		if c.topic != s.topic(topic) || c.partition != 0 {
			s.t.Errorf("a record comes from %s-%d", c.topic, c.partition)
		}
		put(c.offset, "delivered")
	}
	if sum < least || sum > most {
		s.t.Errorf("%d records are told to be lost, want %d to %d", sum, least, most)
	}
	if sum+int64(len(records)) != n {
		s.t.Errorf("%d records lost and %d delivered, of %d", sum, len(records), n)
	}
	missing := 0
	for o := range n {
		if there[o] == "" {
			missing++
		}
	}
	if missing > 0 {
		s.t.Errorf("%d offsets of %d are neither lost nor delivered", missing, n)
	}
}

// same checks that each record that is upstream with provenance is the one that the board still has at its offset.
func (s *station) same(topic string) {
	s.t.Helper()
	own := map[int64]drill.Record{}
	for _, r := range logOf(s.t, []string{s.topic(topic)}, s.Kafka) {
		own[r.Offset] = r
	}
	for _, r := range logOf(s.t, []string{s.topic(topic)}, s.kafka.Direct()...) {
		c, err := takeApart(r)
		if err != nil {
			s.t.Fatal(err)
		}
		if o, has := own[c.offset]; has && string(o.Value) != string(c.Value) {
			s.t.Errorf("what came from offset %d is another record", c.offset)
		}
	}
}
