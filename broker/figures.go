package broker

import (
	"io"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/hw/storage"
	"millrace/platform/metrics"
)

// start is what the last start did, for who asks later.
type start struct {
	took, recovery                     time.Duration
	entries, bytes, gaps, torn, asides int64
}

// recovered keeps the counts of a report.
func (s *start) recovered(r partition.Report, took time.Duration) {
	s.recovery = took
	s.entries, s.bytes = r.Entries, r.Journal.Bytes
	s.gaps, s.torn, s.asides = r.Gaps, r.Journal.TornBytes, r.Quarantined
}

// scrape serves the figures of this moment.
func (b *Broker) scrape(w http.ResponseWriter, _ *http.Request) {
	if !b.control.serving() { // what is told of is still being made, or is gone
		http.Error(w, "the board does not serve yet, or no more", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := b.writeMetrics(w); err != nil {
		b.log.Debug("a scrape was not taken", "err", err)
	}
}

// writeMetrics writes the figures of this moment. No lock is held while w waits for its reader, and nothing of it is kept.
func (b *Broker) writeMetrics(w io.Writer) error {
	m := metrics.NewWriter(w)
	for _, figures := range []func(*metrics.Writer){
		b.boardFigures, b.journalFigures, b.flashFigures, b.memoryFigures, b.waitingFigures, b.doorFigures, b.mqttFigures,
		b.sensorFigures, b.linkFigures, b.healthFigures, b.clockFigures, b.topicFigures, b.groupFigures, (*metrics.Writer).Process,
	} {
		figures(m)
	}
	return m.Flush()
}

// one is a truth as a gauge has it.
func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (b *Broker) boardFigures(m *metrics.Writer) {
	version := b.config.Version
	if version == "" {
		version = "unknown"
	}
	m.Gauge("millrace_build_info", "The program that runs; always 1.", 1, "version", version, "goarch", runtime.GOARCH, "goversion", runtime.Version())
	m.Gauge("millrace_uptime_seconds", "Time since the board was started, by the monotonic clock.", float64(b.pulse.Now())/1e3)
	m.Gauge("millrace_start_seconds", "How long the last start took, until the doors were open.", b.start.took.Seconds())
	m.Gauge("millrace_recovery_seconds", "How long the last start took to recover journal and partitions.", b.start.recovery.Seconds())
	m.Gauge("millrace_recovery_entries", "Journal entries that the last start replayed.", float64(b.start.entries))
	m.Gauge("millrace_recovery_read_bytes", "Bytes of the journal that the last start read.", float64(b.start.bytes))
	m.Gauge("millrace_recovery_torn_bytes", "Bytes of a commit that the last stop cut short; nobody was told that it was done.", float64(b.start.torn))
	m.Gauge("millrace_recovery_gaps", "Gaps that damage left, as the last start found them. Each is in the log.", float64(b.start.gaps))
	m.Gauge("millrace_recovery_quarantined_entries", "Journal entries of topics nobody knows, that the last start put aside.", float64(b.start.asides))
	m.Counter("millrace_pulse_wakes_total", "Times the board's one timer woke.", float64(b.pulse.Wakes()))
}

var syncBounds = func() (bounds [len(journal.SyncBounds)]float64) {
	for i, d := range journal.SyncBounds {
		bounds[i] = d.Seconds()
	}
	return bounds
}()

func (b *Broker) journalFigures(m *metrics.Writer) {
	j := b.journal.Stats()
	m.Counter("millrace_journal_commits_total", "Commits that were acknowledged.", float64(j.Commits))
	m.Counter("millrace_journal_groups_total", "Appends that were acknowledged; many share a commit.", float64(j.Groups))
	m.Counter("millrace_journal_inline_bytes_total", "Bytes of batches that were written into the journal.", float64(j.InlineBytes))
	m.Counter("millrace_journal_pointed_bytes_total", "Bytes of batches that the journal only points at.", float64(j.PointedBytes))
	m.Counter("millrace_journal_frame_bytes_total", "Bytes of the journal's frames.", float64(j.FrameBytes))
	m.Counter("millrace_journal_zero_bytes_total", "Zeros written ahead in the journal.", float64(j.ZeroBytes))
	m.Histogram("millrace_journal_sync_seconds", "How long syncs of the journal took.", syncBounds[:], j.SyncTimes[:], j.SyncTime.Seconds())
	m.Counter("millrace_journal_failures_total", "Commits that failed.", float64(j.Failures))
	m.Counter("millrace_journal_front_commits_total", "Commits that were acknowledged from FRAM.", float64(j.Fronted))
	m.Counter("millrace_journal_front_drains_total", "Times the FRAM was emptied into the journal.", float64(j.Drains))
	m.Counter("millrace_journal_front_failures_total", "Failures of the FRAM.", float64(j.FrontFailed))
	m.Gauge("millrace_journal_front_bytes", "Bytes in the FRAM that are not in the journal.", float64(j.FrontBytes))
	m.Gauge("millrace_journal_queued_bytes", "Bytes that wait for a commit.", float64(j.Queued))
	m.Gauge("millrace_journal_segments", "Files of the journal.", float64(j.Segments))
}

func (b *Broker) flashFigures(m *metrics.Writer) {
	f := b.flash.figures()
	m.Gauge("millrace_journal_commit_interval_seconds", "How long a commit waits for company.", f.interval.Seconds())
	m.Counter("millrace_flash_written_bytes_total", "Bytes written since the start, as the measure counts them: device, by whoever; broker, by journal and segments.", float64(f.written), "measure", f.measure)
	m.Gauge("millrace_flash_written_bytes_per_day", "What a day comes to at the rate of the last minutes.", float64(f.perDay), "measure", f.measure)
	m.Gauge("millrace_flash_day_written_bytes", "Bytes written since this day of the budget began.", float64(f.spent), "measure", f.measure)
	m.Gauge("millrace_flash_budget_bytes_per_day", "write.budget of [flash]; 0: none.", float64(f.budget))
	clients := b.store.Written()
	m.Counter("millrace_client_written_bytes_total", "Bytes of batches that became durable in topics that are not the board's own.", float64(clients))
	if n, ok := processWritten(); ok {
		m.Counter("millrace_process_written_bytes_total", "Bytes that this process has had written to any disk, as the kernel counts them.", float64(n))
	}
	if clients > 0 {
		m.Gauge("millrace_flash_write_amplification_ratio", "Bytes written for each byte of clients' batches, since the start.", float64(f.written)/float64(clients), "measure", f.measure)
	}
	m.Gauge("millrace_disk_free_bytes", "Free space of the data directory's filesystem.", float64(b.space.Free()))
	m.Gauge("millrace_disk_reserve_bytes", "Free space below which clients' writes are refused.", float64(b.space.Reserve()))
	records, bytes := b.cleaner.Sacrificed()
	m.Counter("millrace_upstream_sacrificed_records_total", "Records that a link still needed and that were given up because the disk was full, by their offsets.", float64(records))
	m.Counter("millrace_upstream_sacrificed_bytes_total", "About how many bytes they were.", float64(bytes))
	o := b.lifetime.outlook(b.space.Reserve(), b.mayGrow())
	if !math.IsNaN(o.diskEnd) {
		m.Gauge("millrace_disk_days_left", "Days until clients' writes are refused, at the rate of the last day; +Inf: never, because retention holds the topics or nothing grows.", o.diskEnd)
	}
	if o.device == nil {
		return
	}
	d := o.device
	m.Gauge("millrace_flash_info", "The device under the data directory; always 1.", 1,
		"device", d.Name, "kind", string(d.Kind), "model", d.Model, "manufacturer", d.Manufacturer, "date", d.Date)
	m.Gauge("millrace_flash_size_bytes", "Size of the device; 0: unknown.", float64(d.Size))
	m.Counter("millrace_flash_device_written_bytes_total", "Bytes written to the whole device by whoever, over all starts this board remembers.", float64(o.written))
	for _, of := range []struct {
		estimate string
		step     int
	}{{"a", o.wear.StepA}, {"b", o.wear.StepB}} {
		if used, ok := storage.Used(of.step); ok {
			m.Gauge("millrace_flash_life_used_ratio", "How much of its life the device says is used at most, in steps of a tenth; above 1: more than its maker gave it.", used, "estimate", of.estimate)
		}
	}
	if o.wear.PreEOL > 0 {
		m.Gauge("millrace_flash_pre_eol", "The device's reserve of blocks: 1 normal, 2 80 % of it is used, 3 90 %.", float64(o.wear.PreEOL))
	}
	if !math.IsNaN(o.flashEnd) {
		m.Gauge("millrace_flash_days_left", "Days until the device's life is over, at the rate of the last day.", o.flashEnd)
	}
}

// mayGrow is how many bytes all partitions may still grow before retention holds them, -1 when one of them has no bound: one
// that is past it has none while a link needs what is there.
func (b *Broker) mayGrow() (n int64) {
	for p := range b.store.All() {
		c := p.Config()
		if c.CleanupCompact && catalog.InternalName(p.Topic()) {
			continue // it has as many keys as there are sessions and offsets
		}
		if c.RetentionBytes < 0 || !c.CleanupDelete {
			return -1
		}
		left := c.RetentionBytes + c.SegmentBytes - p.Size() // a whole segment goes at a time
		if _, class := p.Needed(); left < 0 && class != partition.Delivered {
			return -1
		}
		n += max(0, left)
	}
	return n
}

// processWritten is what the kernel has counted, where it counts (CONFIG_TASK_IO_ACCOUNTING).
func processWritten() (int64, bool) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(text), "\nwrite_bytes: ")
	if !ok {
		return 0, false
	}
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(line, 10, 64)
	return n, err == nil
}

func (b *Broker) memoryFigures(m *metrics.Writer) {
	gauges := b.memory.budget.Gauges()
	for _, g := range gauges {
		m.Gauge("millrace_budget_size_bytes", "The most a share of memory.limit may have.", float64(g.Size), "share", g.Name)
	}
	for _, g := range gauges {
		m.Gauge("millrace_budget_used_bytes", "What is taken of it now.", float64(g.Used), "share", g.Name)
	}
	for _, g := range gauges {
		m.Gauge("millrace_budget_peak_bytes", "The most that was taken of it at once since the start.", float64(g.Peak), "share", g.Name)
	}
	for _, g := range gauges {
		m.Counter("millrace_budget_refusals_total", "Times it had no room and somebody was refused.", float64(g.Refused), "share", g.Name)
	}
}

func (b *Broker) waitingFigures(m *metrics.Writer) {
	w := b.waits.Figures()
	m.Gauge("millrace_purgatory_size", "Requests that wait for records or replicas.", float64(w.Ops))
	m.Gauge("millrace_purgatory_capacity", "The most that may wait.", float64(w.MaxOps))
	m.Gauge("millrace_purgatory_held_bytes", "Bytes they hold.", float64(w.Cost))
	m.Gauge("millrace_purgatory_held_max_bytes", "The most they may hold.", float64(w.MaxCost))
	m.Counter("millrace_purgatory_expired_total", "Requests whose time was up before what they waited for came.", float64(w.Expired))
	connections, connectionsMax := b.poller.Len()
	groups, groupsMax := b.groups.Timers()
	wheels := []struct {
		name    string
		n, most int
	}{{"purgatory", w.Ops, w.MaxOps}, {"connections", connections, connectionsMax}, {"groups", groups, groupsMax}}
	for _, of := range wheels {
		m.Gauge("millrace_wheel_entries", "Deadlines in a timing wheel.", float64(of.n), "wheel", of.name)
	}
	for _, of := range wheels {
		m.Gauge("millrace_wheel_capacity", "The most it has room for.", float64(of.most), "wheel", of.name)
	}
}

func (b *Broker) doorFigures(m *metrics.Writer) {
	m.Gauge("millrace_kafka_connections", "Connections of Kafka clients.", float64(b.kafka.Connections()))
	m.Counter("millrace_kafka_connections_refused_total", "Connections of Kafka clients there was no room for.", float64(b.kafka.Refused()))
	if b.http != nil {
		m.Gauge("millrace_http_connections", "HTTP connections.", float64(b.http.Connections()))
		m.Counter("millrace_http_connections_refused_total", "HTTP connections there was no room for.", float64(b.http.Refused()))
	}
}

func (b *Broker) mqttFigures(m *metrics.Writer) {
	t, n := b.mqtt.Traffic(), b.mqtt.Census()
	m.Gauge("millrace_mqtt_connections", "Connections of MQTT clients.", float64(b.mqtt.Connections()))
	m.Gauge("millrace_mqtt_sessions", "MQTT sessions, with a connection or without.", float64(n.Connected), "connected", "true")
	m.Gauge("millrace_mqtt_sessions", "", float64(n.Sessions-n.Connected), "connected", "false")
	m.Gauge("millrace_mqtt_sessions_resting", "Of those without a connection, how many are only a string in memory.", float64(n.Resting))
	m.Gauge("millrace_mqtt_subscriptions", "Subscriptions of all sessions, shared ones apart.", float64(n.Subscriptions), "shared", "false")
	m.Gauge("millrace_mqtt_subscriptions", "", float64(n.Shared), "shared", "true")
	m.Gauge("millrace_mqtt_shared_groups", "Shared subscriptions that differ.", float64(n.Groups))
	m.Gauge("millrace_mqtt_retained_messages", "Retained messages.", float64(n.Retained))
	m.Gauge("millrace_mqtt_inflight_messages", "QoS 1 and 2 messages sent to clients that these have not acknowledged or completed; resting sessions are not asked.", float64(n.Inflight))
	m.Counter("millrace_mqtt_packets_total", "Control packets.", float64(t.Received), "direction", "received")
	m.Counter("millrace_mqtt_packets_total", "", float64(t.Sent), "direction", "sent")
	m.Counter("millrace_mqtt_bytes_total", "Bytes of control packets.", float64(t.BytesReceived), "direction", "received")
	m.Counter("millrace_mqtt_bytes_total", "", float64(t.BytesSent), "direction", "sent")
	for qos := range t.PublishReceived {
		m.Counter("millrace_mqtt_publishes_total", "Messages.", float64(t.PublishReceived[qos]), "direction", "received", "qos", strconv.Itoa(qos))
	}
	for qos := range t.PublishSent {
		m.Counter("millrace_mqtt_publishes_total", "", float64(t.PublishSent[qos]), "direction", "sent", "qos", strconv.Itoa(qos))
	}
	m.Counter("millrace_mqtt_publishes_dropped_total", "QoS 0 messages of clients that the log did not take.", float64(t.PublishDropped))
	m.Counter("millrace_mqtt_records_lost_total", "Records that were gone before a session had got them.", float64(b.mqtt.Lost()))
}

func (b *Broker) sensorFigures(m *metrics.Writer) {
	if b.feed == nil {
		return
	}
	s := b.feed.Stats()
	for _, of := range []struct {
		result string
		n      int64
	}{{"stored", s.Stored}, {"steady", s.Steady}, {"refused", s.Refused}, {"skipped", s.Skipped}, {"failed", s.Failed}} {
		m.Counter("millrace_sensor_readings_total", "Readings of sensors, by what became of them: stored; steady, within the deadband; refused by the log; skipped, because too many waited for it; failed, the sensor did not answer.", float64(of.n), "result", of.result)
	}
}

func (b *Broker) healthFigures(m *metrics.Writer) {
	m.Gauge("millrace_healthy", "1 while the data path goes on and the watchdogs are fed.", one(b.vitals.Check() == nil))
	m.Gauge("millrace_last_end", "How the last life of the board ended; always 1.", 1, "how", b.end.How)
	m.Gauge("millrace_ready", "1 while clients' records are taken.", one(b.takes() == nil))
	looks := b.vitals.canary.Figures()
	for _, of := range []struct {
		name string
		n    int64
	}{{"flown", looks.Flown}, {"ridden", looks.Ridden}, {"full", looks.Full}, {"failed", looks.Failed}} {
		m.Counter("millrace_canary_looks_total", "Looks at the data path, by what they found: flown, with a record of its own; ridden, clients' records were proof; full; failed.", float64(of.n), "result", of.name)
	}
	m.Gauge("millrace_canary_seconds", "How long the canary's last own record took to be read back.", float64(looks.LastMS)/1e3)
}
