package broker

import (
	"math"
	"time"

	"millrace/bridge/upstream"
	"millrace/platform/metrics"
)

// linkStates are those a link can be in, for metrics.
var linkStates = []upstream.State{
	upstream.StateStarting, upstream.StateConnecting, upstream.StateSending, upstream.StateIdle, upstream.StateWaiting, upstream.StatePaused,
	upstream.StateFenced, upstream.StateRefused, upstream.StateStopped,
}

// linkFigures are what the links upstream tell.
func (b *Broker) linkFigures(m *metrics.Writer) {
	all := b.Links()
	now := b.clock.Now()
	for i := range all {
		for _, state := range linkStates {
			m.Gauge("millrace_upstream_state", "1 for what the link is doing.", one(all[i].State == string(state)), "link", all[i].Name, "state", string(state))
		}
	}
	gauge := func(name, help string, value func(*LinkStatus) float64) {
		for i := range all {
			if v := value(&all[i]); !math.IsNaN(v) {
				m.Gauge(name, help, v, "link", all[i].Name)
			}
		}
	}
	counter := func(name, help string, value func(*LinkStatus) int64) {
		for i := range all {
			m.Counter(name, help, float64(value(&all[i])), "link", all[i].Name)
		}
	}
	gauge("millrace_upstream_paused", "1 while a person has paused the link.", func(s *LinkStatus) float64 { return one(s.Paused) })
	gauge("millrace_upstream_troubled", "1 while a person should look at the link: it does not get through, or something has to be decided.", func(s *LinkStatus) float64 { return one(s.Trouble != "") })
	gauge("millrace_upstream_lag_records", "Offsets that the link has not delivered.", func(s *LinkStatus) float64 { return float64(s.Records) })
	gauge("millrace_upstream_lag_bytes", "About how many bytes they are, by the size of the log.", func(s *LinkStatus) float64 { return float64(s.Bytes) })
	gauge("millrace_upstream_estimate_seconds", "How long they will take, by what the link has carried and may carry; +Inf: it is not known.", func(s *LinkStatus) float64 {
		if s.Estimate == nil {
			return math.Inf(1)
		}
		return *s.Estimate
	})
	gauge("millrace_upstream_rate_bytes_per_second", "How fast transactions go, in bytes of keys, values and headers; 0 before the first.", func(s *LinkStatus) float64 { return s.Rate })
	gauge("millrace_upstream_success_age_seconds", "Time since something was last committed, or since the board was started.", func(s *LinkStatus) float64 {
		if s.LastSuccess == nil {
			return time.Since(b.since).Seconds()
		}
		return max(0, now.Sub(*s.LastSuccess).Seconds())
	})
	for i := range all {
		m.Counter("millrace_upstream_wire_bytes_total", "Bytes of the link's connections, TLS included.", float64(all[i].WireSent), "link", all[i].Name, "direction", "sent")
		m.Counter("millrace_upstream_wire_bytes_total", "", float64(all[i].WireReceived), "link", all[i].Name, "direction", "received")
	}
	day := func(name, help string, value func(*LinkDay) int64) {
		gauge(name, help, func(s *LinkStatus) float64 {
			if s.Day == nil {
				return math.NaN()
			}
			return float64(value(s.Day))
		})
	}
	day("millrace_upstream_day_used_bytes", "Bytes on the wire of this day of the budget.", func(d *LinkDay) int64 { return d.Used })
	day("millrace_upstream_day_budget_bytes", "rate.bytes.per.day of the link; it is not there without one.", func(d *LinkDay) int64 { return d.Budget })
	for i := range all {
		for _, of := range []struct {
			are string
			n   int
		}{{"carried", all[i].Partitions}, {"behind", all[i].Behind}, {"stopped", all[i].Stopped}, {"refused", all[i].Refused}, {"left-out", all[i].LeftOut}} {
			m.Gauge("millrace_upstream_partitions", "Partitions the link carries, and of these how many are behind, have stopped until somebody decides, or are refused by the other end; left-out: those there was no room for.",
				float64(of.n), "link", all[i].Name, "are", of.are)
		}
	}
	for i := range all {
		g := all[i].Groups
		if g == nil {
			continue
		}
		for _, of := range []struct {
			are string
			n   int
		}{{"followed", g.Followed}, {"left-out", g.LeftOut}} {
			m.Gauge("millrace_upstream_groups", "Consumer groups whose offsets are committed at the other end; left-out: those, or partitions of them, there was no room for. Not there without groups.",
				float64(of.n), "link", all[i].Name, "are", of.are)
		}
		m.Gauge("millrace_upstream_group_offsets", "Partitions of these groups.", float64(g.Offsets), "link", all[i].Name)
		m.Gauge("millrace_upstream_group_offsets_waiting", "Of these, how many cannot be translated now; status says why.", float64(g.Waiting), "link", all[i].Name)
		m.Counter("millrace_upstream_group_commits_total", "Offsets of groups that were committed at the other end.", float64(g.Commits), "link", all[i].Name)
	}
	counter("millrace_upstream_records_total", "Records that were committed at the other end.", func(s *LinkStatus) int64 { return s.Sent })
	counter("millrace_upstream_record_bytes_total", "Bytes of their keys, values and headers.", func(s *LinkStatus) int64 { return s.SentBytes })
	counter("millrace_upstream_transactions_total", "Transactions that were committed.", func(s *LinkStatus) int64 { return s.Transactions })
	counter("millrace_upstream_transactions_looked_up_total", "Transactions of which it had to be looked up whether they were committed.", func(s *LinkStatus) int64 { return s.Unknown })
	counter("millrace_upstream_connects_total", "Times the link has taken over and read its cursors.", func(s *LinkStatus) int64 { return s.Connects })
	counter("millrace_upstream_gaps_total", "Gap records that were committed: each tells of records that were gone before they could be sent.", func(s *LinkStatus) int64 { return s.Gaps })
	counter("millrace_upstream_lost_records_total", "Offsets in them.", func(s *LinkStatus) int64 { return s.Lost })
	counter("millrace_upstream_heartbeats_total", "Heartbeats that were committed at the other end.", func(s *LinkStatus) int64 { return s.Heartbeats })
	counter("millrace_upstream_looped_records_total", "Records that were left out because they had come from there.", func(s *LinkStatus) int64 { return s.Looped })
}
