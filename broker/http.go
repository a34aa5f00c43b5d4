package broker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"millrace/broker/partition"
	"millrace/platform/metrics"
)

// openHTTP serves /metrics, /healthz and /readyz where the configuration names an address.
func (b *Broker) openHTTP() error {
	address := b.config.Settings.HTTP.Listener
	if address == "" {
		return nil
	}
	listener, err := listenLoopback(address)
	if err != nil {
		return listening("HTTP", address, "--http", "listener in [http]", err)
	}
	b.addresses.HTTP = append(b.addresses.HTTP, listener.Addr().String())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if err := b.writeMetrics(w); err != nil {
			b.log.Debug("a scrape was not taken", "err", err)
		}
	})
	mux.HandleFunc("GET /healthz", b.health)
	mux.HandleFunc("GET /readyz", b.health)
	s := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	b.owns(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return s.Shutdown(ctx)
	})
	b.serving.Go(func() {
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("the HTTP listener has ended", "address", listener.Addr(), "err", err)
		}
	})
	return nil
}

// health says whether the data path takes records now: a full disk is a normal state, a disk that cannot be asked is not.
func (b *Broker) health(w http.ResponseWriter, _ *http.Request) {
	if b.space.Blind() {
		http.Error(w, "the data directory's filesystem does not answer", http.StatusServiceUnavailable)
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
