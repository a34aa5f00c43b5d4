package broker

import (
	"fmt"
	"time"

	"millrace/bridge/upstream"
)

// LinkStatus is a link to an upstream Kafka at a glance. Sizes are in bytes.
type LinkStatus struct {
	Name      string   `json:"name"`
	Direction string   `json:"direction"`
	Servers   []string `json:"servers"`
	// State is one of upstream.State; a link that could not be made is "refused".
	State  string    `json:"state"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	// Paused says that a person has paused it, and that it stays so over restarts.
	Paused bool `json:"paused"`
	// Trouble is what a person should know, "" where nothing is wrong.
	Trouble string `json:"trouble,omitempty"`
	// Notes are what a person may want to know that holds no record up.
	Notes []string `json:"notes,omitempty"`

	// Records counts offsets that are behind, Bytes is by the log's size.
	Records int64 `json:"behind_records"`
	Bytes   int64 `json:"behind_bytes"`
	// Estimate is how long they will take, in seconds, as far as it is known; null where it is not. Told says it in words.
	Estimate *float64 `json:"estimate_seconds"`
	Told     string   `json:"estimate"`
	Rate     float64  `json:"bytes_per_second"` // of transactions, 0 before the first
	// Classes are the same of each [[upstream.class]], in their order; what is in none comes last, where it is behind.
	Classes []LinkClass `json:"classes,omitempty"`

	Partitions int `json:"partitions"`
	Behind     int `json:"partitions_behind"`
	Stopped    int `json:"partitions_stopped"`
	Refused    int `json:"partitions_refused"`
	LeftOut    int `json:"partitions_left_out"`

	LastSuccess *time.Time `json:"last_success"` // in this life of the board

	// WireSent and WireReceived are bytes of all connections of this life, TLS included.
	WireSent     int64    `json:"wire_sent"`
	WireReceived int64    `json:"wire_received"`
	Day          *LinkDay `json:"day"` // null without rate.bytes.per.day

	// Counters of this life.
	Sent         int64 `json:"records"`
	SentBytes    int64 `json:"record_bytes"`
	Transactions int64 `json:"transactions"`
	Unknown      int64 `json:"transactions_looked_up"`
	Connects     int64 `json:"connects"`
	Gaps         int64 `json:"gaps"`
	Lost         int64 `json:"lost_records"`
	Looped       int64 `json:"looped_records"`
	Heartbeats   int64 `json:"heartbeats"`

	Groups *LinkGroups `json:"groups"` // null where none are followed

	List []LinkPartition `json:"list"`
	More int             `json:"more"` // partitions that the list has no room for
}

// LinkClass is what is behind of a class.
type LinkClass struct {
	Topics   []string `json:"topics"` // patterns, in a class of its own; none: what is in no class
	Records  int64    `json:"behind_records"`
	Bytes    int64    `json:"behind_bytes"`
	Estimate *float64 `json:"estimate_seconds"`
	Told     string   `json:"estimate"`
}

// LinkDay is how the bytes of a day stand.
type LinkDay struct {
	Budget int64      `json:"budget"`
	Used   int64      `json:"used"`
	Renews *time.Time `json:"renews"` // null where the time is not known
}

// LinkGroups is how the link follows consumer groups of the board.
type LinkGroups struct {
	Followed int    `json:"followed"`
	Offsets  int    `json:"offsets"`
	LeftOut  int    `json:"left_out"` // groups and offsets that there is no room for
	Waiting  int    `json:"waiting"`  // offsets that cannot be translated now
	Commits  int64  `json:"commits"`
	Problem  string `json:"problem,omitempty"`
}

// LinkPartition is one that is not simply delivered.
type LinkPartition struct {
	Topic     string     `json:"topic"`
	Partition int32      `json:"partition"`
	Verdict   string     `json:"verdict"`
	Reason    string     `json:"reason,omitempty"`
	Next      int64      `json:"next"`
	Records   int64      `json:"behind_records"`
	Ranges    [][2]int64 `json:"backfill,omitempty"` // first offset, and the one after the last
}

// Links tell how the links are, in the order of the configuration.
func (b *Broker) Links() []LinkStatus {
	all := *b.links.all.Load()
	list := make([]LinkStatus, len(all))
	for i, k := range all {
		list[i] = k.status()
	}
	return list
}

func (k *link) status() LinkStatus {
	u := &k.settings
	s := LinkStatus{Name: u.Name, Direction: u.Direction, Servers: u.Servers, Paused: k.held.Load(), List: []LinkPartition{}}
	if k.link == nil {
		s.State, s.Reason = string(upstream.StateRefused), k.err.Error()
		s.Trouble = s.Reason
		return s
	}
	is := k.link.Status()
	if s.Paused && is.State != upstream.StateSending && is.State != upstream.StateFenced { // it sees so soon
		is.State, is.Reason = upstream.StatePaused, ""
	}
	if is.State == upstream.StateWaiting || is.State == upstream.StateConnecting {
		if why := k.line.held(k.budget.Last()); why != "" {
			is.State, is.Reason = upstream.StateWaiting, why
		} else if is.State == upstream.StateWaiting && is.Reason == "" {
			is.Reason = "what is behind is of classes that may not send now"
		}
	}
	s.State, s.Reason, s.Since = string(is.State), is.Reason, is.Since
	s.Records, s.Bytes, s.Rate = is.Records, is.Bytes, is.Rate
	s.Partitions, s.Behind, s.Stopped, s.Refused, s.LeftOut, s.More = is.Partitions, is.Behind, is.Stopped, is.Refused, is.Left, is.More
	if !is.LastSuccess.IsZero() {
		s.LastSuccess = &is.LastSuccess
	}
	c := &is.Sent
	s.Sent, s.SentBytes, s.Transactions, s.Unknown, s.Connects = c.Records, c.Bytes, c.Transactions, c.Unknown, c.Connects
	s.Gaps, s.Lost, s.Looped, s.Heartbeats, s.Notes = c.Gaps, c.Lost, c.Looped, c.Heartbeats, is.Notes
	for _, p := range is.List {
		row := LinkPartition{Topic: p.Topic, Partition: p.Partition, Verdict: p.Verdict.String(), Reason: p.Reason, Next: p.Next, Records: p.Records}
		for _, r := range p.Ranges {
			row.Ranges = append(row.Ranges, [2]int64{r.First, r.End})
		}
		s.List = append(s.List, row)
	}
	if len(u.Groups) > 0 {
		g := &is.Groups
		s.Groups = &LinkGroups{Followed: g.Followed, Offsets: g.Offsets, LeftOut: g.Left, Waiting: g.Waiting, Commits: g.Commits, Problem: g.Problem}
	}
	s.Trouble = trouble(&is)
	e := k.estimate(&is)
	if s.Told = e.String(); e.Known {
		seconds := e.In.Seconds()
		s.Estimate = &seconds
	}
	s.Classes = k.classes(&is)
	s.WireSent, s.WireReceived = k.meter.Sent(), k.meter.Received()
	if k.budget != nil {
		day := k.budget.Last()
		s.Day = &LinkDay{Budget: day.Limit, Used: day.Used}
		if !day.Renews.IsZero() {
			s.Day.Renews = &day.Renews
		}
	}
	return s
}

// glance is how a link is, in a line.
func (s *LinkStatus) glance() string {
	if s.Told == "" {
		return s.State
	}
	return s.State + ", " + s.Told
}

// trouble is what a person should know of a link: that it does not get through, or that somebody has to decide.
func trouble(s *upstream.Status) string {
	switch {
	case s.State == upstream.StateFenced:
		return "another process has this board's identity; `millrace upstream resume` takes it back"
	case s.State == upstream.StateRefused, s.State == upstream.StateConnecting && s.Reason != "":
		return s.Reason
	case s.Stopped > 0:
		return fmt.Sprintf("%d partitions have stopped; `millrace upstream status` says why, `millrace upstream resolve` decides", s.Stopped)
	case s.Refused > 0:
		return fmt.Sprintf("%d partitions are refused by the other end", s.Refused)
	case s.Left > 0:
		return fmt.Sprintf("%d partitions are left out, for there are too many", s.Left)
	}
	return ""
}
