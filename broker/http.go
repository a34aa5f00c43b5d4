package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/VictoriaMetrics/metrics"
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
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { b.writeMetrics(w) })
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
	_, err := io.WriteString(w, "ok\n")
	if err != nil {
		b.log.Debug("health answer not taken", "err", err)
	}
}

// writeMetrics writes the figures of this moment in the Prometheus text format.
func (b *Broker) writeMetrics(w io.Writer) {
	j := b.journal.Stats()
	for _, c := range []struct {
		name  string
		value int64
	}{
		{"millrace_journal_commits_total", j.Commits},
		{"millrace_journal_groups_total", j.Groups},
		{"millrace_journal_inline_bytes_total", j.InlineBytes},
		{"millrace_journal_pointed_bytes_total", j.PointedBytes},
		{"millrace_journal_frame_bytes_total", j.FrameBytes},
		{"millrace_journal_zero_bytes_total", j.ZeroBytes},
		{"millrace_journal_syncs_total", j.Syncs},
		{"millrace_journal_failures_total", j.Failures},
	} {
		metrics.WriteCounterUint64(w, c.name, uint64(c.value))
	}
	metrics.WriteCounterFloat64(w, "millrace_journal_sync_seconds_total", j.SyncTime.Seconds())
	metrics.WriteGaugeUint64(w, "millrace_journal_queued_bytes", uint64(j.Queued))
	metrics.WriteGaugeUint64(w, "millrace_journal_segments", uint64(j.Segments))
	metrics.WriteGaugeUint64(w, "millrace_disk_free_bytes", uint64(max(b.space.Free(), 0)))
	metrics.WriteGaugeUint64(w, "millrace_disk_reserve_bytes", uint64(b.space.Reserve()))
	metrics.WriteGaugeUint64(w, "millrace_kafka_connections", uint64(b.kafka.Connections()))
	metrics.WriteGaugeUint64(w, "millrace_mqtt_connections", uint64(b.mqtt.Connections()))
	metrics.WriteGaugeUint64(w, "millrace_purgatory_size", uint64(b.waits.Len()))
	metrics.WriteCounterUint64(w, "millrace_pulse_wakes_total", uint64(b.pulse.Wakes()))
	for _, g := range b.memory.budget.Gauges() {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("millrace_budget_used_bytes{share=%q}", g.Name), uint64(g.Used))
		metrics.WriteGaugeUint64(w, fmt.Sprintf("millrace_budget_size_bytes{share=%q}", g.Name), uint64(g.Size))
	}
	for p := range b.store.All() {
		labels := fmt.Sprintf("{topic=%q,partition=\"%d\"}", p.Topic(), p.Index())
		// kafka_exporter's names, so that its dashboards fit.
		metrics.WriteGaugeUint64(w, "kafka_topic_partition_current_offset"+labels, uint64(p.High()))
		metrics.WriteGaugeUint64(w, "kafka_topic_partition_oldest_offset"+labels, uint64(p.Start()))
	}
	metrics.WriteProcessMetrics(w)
}
