package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/disk"
	"millrace/broker/group"
	"millrace/platform/config"
)

// eMMC makes a sysfs in which the filesystem of dir is on an eMMC; wrote has it tell so many sectors.
func eMMC(t *testing.T, dir string) (sys string, wrote func(sectors int64)) {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	sys = t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(sys, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"type": "MMC", "name": "DG4008", "manfid": "0x000045", "date": "05/2019", "life_time": "0x02 0x01", "pre_eol_info": "0x01",
	} {
		write("devices/mmc0:0001/"+name, text+"\n")
	}
	write("devices/mmc0:0001/block/mmcblk0/size", "15269888\n")
	wrote = func(sectors int64) {
		write("devices/mmc0:0001/block/mmcblk0/stat", fmt.Sprintf("1 2 3 4 5 6 %d 8 9 10 11\n", sectors))
	}
	wrote(1000)
	write("dev/block/none", "")
	for link, target := range map[string]string{
		"devices/mmc0:0001/block/mmcblk0/device":                                             "../..",
		fmt.Sprintf("dev/block/%d:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev))): "../../devices/mmc0:0001/block/mmcblk0",
	} {
		if err := os.Symlink(target, filepath.Join(sys, link)); err != nil {
			t.Fatal(err)
		}
	}
	return sys, wrote
}

// busy is a board that has something of everything to tell: a sensor, an eMMC that wears, a consumer group, MQTT clients and a
// link to another cluster.
func busy(t *testing.T) *Broker {
	t.Helper()
	dir := t.TempDir()
	sys, wrote := eMMC(t, dir)
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias, s.Broker.GroupInitialDelay = dir, "test", 0
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, "127.0.0.1:0"
	s.Flash.Endurance, s.Flash.WriteBudget = 30<<40, 2<<30
	s.Upstreams = linked(t, dir, aLink("hq", "'climate'")+"rate.bytes.per.day = '1MiB'\ngroups = ['*']\n").Upstreams
	upstreams := upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1)))
	var jump atomic.Int64
	b, err := Open(t.Context(), Config{
		remote:   func(*config.Upstream) upstream.Remote { return upstreams.Client() },
		Settings: s, Sim: true, Version: "v1-\"2\"", sys: sys, Now: func() time.Time { return time.Now().Add(time.Duration(jump.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	jump.Store(int64(2 * time.Hour)) // before there is anybody whose time that would be
	wrote(200_000)
	b.flash.step(b.pulse.Now())
	b.lifetime.step(b.pulse.Now())

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	made(t, b, "climate", 2, nil)
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka[0]), kgo.ConsumerGroup("con\"sumer"), kgo.ConsumeTopics("climate"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for i := range 10 {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: "climate", Partition: int32(i % 2), Value: []byte("21.5")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < 10; {
		f := client.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		n += f.NumRecords()
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: "climate", Partition: 1, Value: []byte("22")}).FirstErr(); err != nil {
		t.Fatal(err)
	}

	gone := dialMQTTAs(t, b, &packet.Connect{
		Version: packet.V5, ClientID: "gone",
		Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry), SessionExpiry: 3600},
	})
	gone.send(&packet.Disconnect{})
	if end := gone.next(); end != nil {
		t.Fatalf("%+v", end)
	}
	reader, writer := dialMQTT(t, b, packet.V5, "reader"), dialMQTT(t, b, packet.V5, "writer")
	reader.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "a/#", QoS: 1}, {Filter: "$share/g/b/#", QoS: 1}}})
	if ack, ok := reader.next().(*packet.Suback); !ok {
		t.Fatalf("%+v", ack)
	}
	writer.send(&packet.Publish{Topic: "a/1", QoS: 1, ID: 1, Retain: true, Payload: []byte("1")})
	if ack, ok := writer.next().(*packet.Ack); !ok || ack.Reason.Failed() {
		t.Fatalf("%+v", ack)
	}
	if p, ok := reader.next().(*packet.Publish); !ok || p.QoS != 1 { // and does not acknowledge it
		t.Fatalf("%+v", p)
	}
	return b
}

// scrape asks a board's HTTP door.
func scrape(t *testing.T, b *Broker) (map[string]*family, string) {
	t.Helper()
	r, err := http.Get("http://" + b.Addresses().HTTP[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	if err != nil || r.Body.Close() != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", r.Status, err)
	}
	all, err := scraped(string(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return all, string(text)
}

func TestABusyBoardTellsWhatItDoes(t *testing.T) {
	b := busy(t)
	_, text := scrape(t, b)
	for _, line := range []string{
		`kafka_brokers 1`,
		`kafka_broker_info{id="1",address="` + b.Addresses().Kafka[0] + `"} 1`,
		`kafka_topic_partitions{topic="climate"} 2`,
		`kafka_topic_partition_current_offset{topic="climate",partition="1"} 6`,
		`kafka_topic_partition_oldest_offset{topic="climate",partition="1"} 0`,
		`kafka_topic_partition_leader{topic="climate",partition="1"} 1`,
		`kafka_topic_partition_leader_is_preferred{topic="climate",partition="1"} 1`,
		`kafka_topic_partition_replicas{topic="climate",partition="1"} 1`,
		`kafka_topic_partition_in_sync_replica{topic="climate",partition="1"} 1`,
		`kafka_topic_partition_under_replicated_partition{topic="climate",partition="1"} 0`,
		`kafka_consumergroup_members{consumergroup="con\"sumer"} 1`,
		`kafka_consumergroup_current_offset{consumergroup="con\"sumer",topic="climate",partition="1"} 5`,
		`kafka_consumergroup_current_offset_sum{consumergroup="con\"sumer",topic="climate"} 10`,
		`kafka_consumergroup_lag{consumergroup="con\"sumer",topic="climate",partition="0"} 0`,
		`kafka_consumergroup_lag{consumergroup="con\"sumer",topic="climate",partition="1"} 1`,
		`kafka_consumergroup_lag_sum{consumergroup="con\"sumer",topic="climate"} 1`,
		`millrace_groups 1`, `millrace_groups_partitions_left_out 0`, `millrace_partitions_offline 0`,
		`millrace_mqtt_connections 2`, `millrace_mqtt_sessions{connected="true"} 2`, `millrace_mqtt_sessions{connected="false"} 1`,
		`millrace_mqtt_subscriptions{shared="false"} 1`, `millrace_mqtt_subscriptions{shared="true"} 1`, `millrace_mqtt_shared_groups 1`,
		`millrace_mqtt_retained_messages 1`, `millrace_mqtt_inflight_messages 1`,
		`millrace_mqtt_publishes_total{direction="received",qos="1"} 1`, `millrace_mqtt_publishes_total{direction="sent",qos="1"} 1`,
		`millrace_mqtt_publishes_total{direction="sent",qos="0"} 0`,
		`millrace_flash_info{device="mmcblk0",kind="eMMC",model="DG4008",manufacturer="0x000045",date="05/2019"} 1`,
		`millrace_flash_life_used_ratio{estimate="a"} 0.2`, `millrace_flash_life_used_ratio{estimate="b"} 0.1`, `millrace_flash_pre_eol 1`,
		`millrace_flash_device_written_bytes_total 102400000`, `millrace_flash_written_bytes_total{measure="device"} 101888000`,
		`millrace_healthy 1`, `millrace_ready 1`, `millrace_purgatory_capacity 4096`,
		`millrace_sensor_readings_total{result="refused"} 0`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	all, _ := scraped(text)
	only := func(name string) float64 {
		f := all[name]
		if f == nil || len(f.series) != 1 {
			t.Fatalf("%s: %+v", name, f)
		}
		for _, v := range f.series {
			return v
		}
		panic("one")
	}
	// 101,888,000 bytes in two hours are 1.22 GB a day, and four fifths of 30 TiB are left.
	if days := only("millrace_flash_days_left"); days < 21_500 || days > 21_600 {
		t.Errorf("the flash lasts %v days", days)
	}
	if days := only("millrace_disk_days_left"); days <= 0 {
		t.Errorf("the disk lasts %v days", days)
	}
	clients := only("millrace_client_written_bytes_total")
	if have := 101_888_000 / clients; clients < 11*60 || clients > 20_000 || only("millrace_flash_write_amplification_ratio") != have {
		t.Errorf("clients wrote %v bytes", clients)
	}
	if n := all["millrace_journal_sync_seconds"].series["_count"]; n < 11 {
		t.Errorf("%v syncs", n)
	}
}

// committed has a group without members commit offset 7 of the first n partitions of a topic.
func committed(t testing.TB, b *Broker, id, topic string, n int) {
	t.Helper()
	e := group.Commit{Group: id, Generation: -1}
	for p := range n {
		e.Offsets = append(e.Offsets, group.Committed{Place: group.Place{Topic: topic, Partition: int32(p)}, Offset: 7})
	}
	for {
		done := make(chan error, 1)
		b.groups.Commit(e, func(err error) { done <- err })
		switch err := <-done; {
		case err == nil:
			return
		case !errors.Is(err, group.ErrLoading):
			t.Fatal(err)
		}
		runtime.Gosched() // it is being read
	}
}

func TestGroupsAreToldOfUpToALimit(t *testing.T) {
	b := board(t, t.TempDir(), func(s *config.Config) { s.HTTP.Listener = "127.0.0.1:0" })
	made(t, b, "t", 1, nil)
	if _, err := b.Ensure(t.Context(), group.TopicName); err != nil {
		t.Fatal(err)
	}
	committed(t, b, "a", "t", groupSeriesMax-3)
	committed(t, b, "b", "t", 4)
	committed(t, b, "c", "t", 3)
	all, text := scrape(t, b)
	if n := len(all["kafka_consumergroup_current_offset"].series); n != groupSeriesMax {
		t.Errorf("%d series, want %d", n, groupSeriesMax)
	}
	for _, line := range []string{
		`millrace_groups_partitions_left_out 4`, `millrace_groups 3`,
		`kafka_consumergroup_members{consumergroup="b"} 0`,
		fmt.Sprintf(`kafka_consumergroup_current_offset_sum{consumergroup="a",topic="t"} %d`, 7*(groupSeriesMax-3)),
		`kafka_consumergroup_current_offset_sum{consumergroup="c",topic="t"} 21`,
		`kafka_consumergroup_lag{consumergroup="a",topic="t",partition="0"} 0`, // nothing is below nothing
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if strings.Contains(text, `{consumergroup="b",`) || strings.Contains(text, `kafka_consumergroup_lag{consumergroup="c",topic="t",partition="1"}`) {
		t.Error("b is told of though it did not fit, or a partition that is not there has a lag")
	}
}

func TestAWearLedgerOutlivesTheProgram(t *testing.T) {
	dir := t.TempDir()
	sys, wrote := eMMC(t, dir)
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	written := func(boot string, sectors int64) int64 {
		t.Helper()
		b, err := Open(t.Context(), Config{Settings: s, sys: sys, Boot: boot})
		if err != nil {
			t.Fatal(err)
		}
		wrote(sectors)
		b.lifetime.step(b.pulse.Now())
		n := b.lifetime.outlook(0, -1).written
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := written("1", 100_000); n != 100_000*512 {
		t.Errorf("%d bytes", n)
	}
	if n := written("1", 150_000); n != 150_000*512 {
		t.Errorf("%d bytes after the program was started again", n)
	}
	wrote(10)
	if n := written("2", 60_000); n != (150_000+60_000)*512 {
		t.Errorf("%d bytes after the system was", n)
	}
	file := filepath.Join(dir, wearFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Fsck(disk.OS{}, dir, nil); err != nil || len(r.Findings) > 0 {
		t.Errorf("fsck: %+v, %v", r, err)
	}
	for _, bad := range [][]byte{bytes.Replace(text, []byte(`"counter":3`), []byte(`"counter":4`), 1), bytes.Repeat([]byte("x"), wearFileMax+1), {}, text[:len(text)/2]} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Fsck(disk.OS{}, dir, nil); err != nil || len(r.Findings) != 1 || r.Findings[0].Path != file {
			t.Errorf("fsck of %.100q: %+v, %v", bad, r, err)
		}
	}
	if n := written("2", 70_000); n != 70_000*512 {
		t.Errorf("%d bytes after the file was damaged", n)
	}
}

// BenchmarkScrape is a scrape of 500 partitions and 200 groups that have read 5 of them.
func BenchmarkScrape(b *testing.B) {
	on := board(b, b.TempDir(), nil)
	for i := range 100 {
		made(b, on, fmt.Sprintf("topic-%d", i), 5, nil)
	}
	if _, err := on.Ensure(b.Context(), group.TopicName); err != nil {
		b.Fatal(err)
	}
	for i := range 200 {
		committed(b, on, fmt.Sprintf("group-%d", i), fmt.Sprintf("topic-%d", i%100), 5)
	}
	var size counted
	b.ReportAllocs()
	for b.Loop() {
		size = 0
		if err := on.writeMetrics(&size); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "bytes")
}

// counted is a reader that only counts.
type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}
