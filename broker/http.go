package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"millrace/broker/api"
	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/rest"
	"millrace/broker/server"
	"millrace/platform/config"
	"millrace/platform/metrics"
)

// openHTTP opens the HTTP door where the configuration names an address: records, and beside them what programs ask for
// that watch a board.
func (b *Broker) openHTTP() error {
	s := b.config.Settings
	if s.HTTP.Listener == "" {
		return nil
	}
	rules, err := auth.ParseRules(s.Broker.MappingRules)
	if err != nil {
		return fmt.Errorf("ssl.principal.mapping.rules in [broker]: %w", err)
	}
	var secured func() *tls.Config
	if s.HTTPS() {
		if err := b.openCertificates(); err != nil {
			return err
		}
		secured = func() *tls.Config { return b.certificates.config(auth.SSL) }
	}
	address := listenAddress(s.HTTP.Listener)
	if config.Loopback(address) != nil && !s.Broker.Insecure && !(s.HTTPS() && s.HTTPAsks()) {
		return listening("HTTP", address, "--http", "listener in [http]", server.ErrNotLoopback)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return listening("HTTP", address, "--http", "listener in [http]", err)
	}
	listener = b.watched(listener, "HTTP")
	b.addresses.HTTP = append(b.addresses.HTTP, listener.Addr().String())
	b.http = rest.New(rest.Config{
		Board: restBoard{b}, NodeID: b.meta.NodeID, Code: api.CodeOf,
		Login: s.HTTPLogin(), Users: b.users(), Damper: b.damper, NowMS: b.pulse.Now, Principal: rules.Principal, Authorizer: b.authorizer(),
		Memory: b.memory.http, Connections: b.memory.connections, MaxConnections: s.HTTP.MaxConnections,
		MaxWaiting: int(max(1, b.memory.waiting.Size()/2/rest.WaitCost)), // the other half is the Kafka door's
		Logger:     b.log.With("component", "http"),
	})
	figures := b.figures
	if config.Loopback(address) != nil {
		figures = b.http.Guard(auth.Describe, auth.Resource{Type: auth.Cluster, Name: auth.ClusterName}, figures)
	}
	for path, serve := range map[string]http.HandlerFunc{"/metrics": figures, "/healthz": b.health, "/readyz": b.ready} {
		b.http.Handle(path, map[string]http.HandlerFunc{http.MethodGet: serve})
	}
	b.owns(b.http.Close)
	b.serving.Go(func() {
		if err := b.http.Serve(listener, secured); err != nil {
			b.log.Error("the HTTP listener has ended", "address", listener.Addr(), "err", err)
		}
	})
	if config.Loopback(address) == nil {
		return nil
	}
	switch {
	case !s.HTTPAsks():
		b.log.Error("INSECURE: whoever reaches this listener is served without being asked who they are, because insecure.allow.anyone.on.the.network is true",
			"listener", s.HTTP.Listener, "address", listener.Addr())
	case !s.HTTPS():
		b.log.Error("INSECURE: this listener does not encrypt: passwords, and what clients write and read, can be seen on the network, because insecure.allow.anyone.on.the.network is true",
			"listener", s.HTTP.Listener, "address", listener.Addr())
	}
	return nil
}

// restBoard is the broker as the HTTP door sees it.
type restBoard struct{ b *Broker }

// Image implements rest.Board.
func (r restBoard) Image() *catalog.Image { return r.b.Image() }

// Get implements rest.Board.
func (r restBoard) Get(id catalog.TopicID, index int32) *partition.Partition {
	return r.b.store.Get(id, index)
}

// Offline implements rest.Board.
func (r restBoard) Offline(id catalog.TopicID, index int32) error {
	return r.b.store.Offline(id, index)
}

// Ensure implements rest.Board.
func (r restBoard) Ensure(ctx context.Context, topic string) error {
	_, err := r.b.Ensure(ctx, topic)
	return err
}

// Watch implements rest.Board.
func (r restBoard) Watch(op purgatory.Op, id catalog.TopicID, index int32, waitMS int64) (func() bool, error) {
	ticket, err := r.b.waits.Watch(op, []api.Key{{Topic: id, Partition: index}}, waitMS)
	return func() bool { return r.b.waits.Cancel(ticket) }, err
}

// figures serves the figures of this moment.
func (b *Broker) figures(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := b.writeMetrics(w); err != nil {
		b.log.Debug("a scrape was not taken", "err", err)
	}
}

// health says whether the data path goes on: what stands still, and the watchdogs bite for, is 503. A full disk is a
// normal state.
func (b *Broker) health(w http.ResponseWriter, _ *http.Request) { b.answer(w, b.vitals.Check()) }

// ready says whether records are taken now: a disk that cannot be asked, or that is down to its reserve, takes none.
func (b *Broker) ready(w http.ResponseWriter, _ *http.Request) { b.answer(w, b.takes()) }

// takes is nil while records are taken.
func (b *Broker) takes() error {
	err := b.vitals.Check()
	switch {
	case err != nil:
	case b.space.Blind():
		err = errors.New("the data directory's filesystem does not answer")
	case b.space.Low(0):
		err = fmt.Errorf("the disk is down to its reserve: %d bytes are free, reserve.bytes in [flash] is %d; what clients write is refused", b.space.Free(), b.space.Reserve())
	}
	return err
}

func (b *Broker) answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if _, err := io.WriteString(w, "ok\n"); err != nil {
		b.log.Debug("health answer not taken", "err", err)
	}
}

// writeMetrics writes the figures of this moment.
func (b *Broker) writeMetrics(w io.Writer) error {
	m := metrics.NewWriter(w)
	j := b.journal.Stats()
	m.Counter("millrace_journal_commits_total", float64(j.Commits))
	m.Counter("millrace_journal_groups_total", float64(j.Groups))
	m.Counter("millrace_journal_inline_bytes_total", float64(j.InlineBytes))
	m.Counter("millrace_journal_pointed_bytes_total", float64(j.PointedBytes))
	m.Counter("millrace_journal_frame_bytes_total", float64(j.FrameBytes))
	m.Counter("millrace_journal_zero_bytes_total", float64(j.ZeroBytes))
	m.Counter("millrace_journal_syncs_total", float64(j.Syncs))
	m.Counter("millrace_journal_sync_seconds_total", j.SyncTime.Seconds())
	m.Counter("millrace_journal_failures_total", float64(j.Failures))
	m.Counter("millrace_journal_front_commits_total", float64(j.Fronted))
	m.Counter("millrace_journal_front_drains_total", float64(j.Drains))
	m.Counter("millrace_journal_front_failures_total", float64(j.FrontFailed))
	m.Gauge("millrace_journal_front_bytes", float64(j.FrontBytes))
	m.Gauge("millrace_journal_queued_bytes", float64(j.Queued))
	m.Gauge("millrace_journal_segments", float64(j.Segments))
	f := b.flash.figures()
	m.Gauge("millrace_journal_commit_interval_seconds", f.interval.Seconds())
	m.Counter("millrace_flash_written_bytes_total", float64(f.written), "measure", f.measure)
	m.Gauge("millrace_flash_written_bytes_per_day", float64(f.perDay), "measure", f.measure)
	m.Gauge("millrace_flash_day_written_bytes", float64(f.spent), "measure", f.measure)
	m.Gauge("millrace_flash_budget_bytes_per_day", float64(f.budget))
	m.Gauge("millrace_disk_free_bytes", float64(b.space.Free()))
	m.Gauge("millrace_disk_reserve_bytes", float64(b.space.Reserve()))
	m.Gauge("millrace_kafka_connections", float64(b.kafka.Connections()))
	m.Gauge("millrace_mqtt_connections", float64(b.mqtt.Connections()))
	m.Counter("millrace_mqtt_records_lost_total", float64(b.mqtt.Lost()))
	t := b.mqtt.Traffic()
	m.Counter("millrace_mqtt_packets_total", float64(t.Received), "direction", "received")
	m.Counter("millrace_mqtt_packets_total", float64(t.Sent), "direction", "sent")
	m.Counter("millrace_mqtt_bytes_total", float64(t.BytesReceived), "direction", "received")
	m.Counter("millrace_mqtt_bytes_total", float64(t.BytesSent), "direction", "sent")
	m.Counter("millrace_mqtt_publishes_total", float64(t.PublishReceived), "direction", "received")
	m.Counter("millrace_mqtt_publishes_total", float64(t.PublishSent), "direction", "sent")
	m.Counter("millrace_mqtt_publishes_dropped_total", float64(t.PublishDropped))
	if b.http != nil {
		m.Gauge("millrace_http_connections", float64(b.http.Connections()))
		m.Counter("millrace_http_connections_refused_total", float64(b.http.Refused()))
	}
	m.Gauge("millrace_last_end", 1, "how", b.end.How)
	looks := b.vitals.canary.Figures()
	for _, of := range []struct {
		name string
		n    int64
	}{{"flown", looks.Flown}, {"ridden", looks.Ridden}, {"full", looks.Full}, {"failed", looks.Failed}} {
		m.Counter("millrace_canary_looks_total", float64(of.n), "result", of.name)
	}
	m.Gauge("millrace_canary_seconds", float64(looks.LastMS)/1e3)
	m.Gauge("millrace_purgatory_size", float64(b.waits.Len()))
	groups, _ := b.groups.Groups()
	m.Gauge("millrace_groups", float64(groups))
	m.Counter("millrace_pulse_wakes_total", float64(b.pulse.Wakes()))
	gauges := b.memory.budget.Gauges()
	for _, g := range gauges {
		m.Gauge("millrace_budget_size_bytes", float64(g.Size), "share", g.Name)
	}
	for _, g := range gauges {
		m.Gauge("millrace_budget_used_bytes", float64(g.Used), "share", g.Name)
	}
	// kafka_exporter's names, so that its dashboards fit.
	for _, of := range []struct {
		name  string
		value func(*partition.Partition) int64
	}{
		{"kafka_topic_partition_current_offset", (*partition.Partition).High},
		{"kafka_topic_partition_oldest_offset", (*partition.Partition).Start},
	} {
		for p := range b.store.All() {
			m.Gauge(of.name, float64(of.value(p)), "topic", p.Topic(), "partition", strconv.Itoa(int(p.Index())))
		}
	}
	m.Process()
	return m.Err()
}
