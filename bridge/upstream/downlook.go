package upstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// inflow is a topic upstream that comes down.
type inflow struct {
	name, local string
	upstreamID  [16]byte
	parts       []*inlet
	// refused is why nothing is taken of it, "" for nothing.
	refused string
}

// inlet is one of its partitions. Between two looks one puller has it; what Status tells is guarded by Down.mu.
type inlet struct {
	of            *inflow
	index         int32
	leader, epoch int32 // as the peer said last
	log           Partition
	// cursor is what is on flash; has is false while there is nothing.
	cursor landing
	has    bool
	// pos is the offset to be asked for next.
	//
	// Invariant: pos >= cursor.Next; what lies between was not for this board.
	pos int64
	// end is the offset up to which the peer has something, as it said last.
	end int64
	// checked says that the cursor is known to be of the log that the leader has. compare has its last record read again.
	// outside has its bounds asked for whoever leads it: the peer does not have the offset.
	checked, compare, outside bool
	// gone are offsets that the peer has let go.
	gone *Range

	verdict Verdict
	reason  string
	retry   time.Time
	strikes int
	most    int // bytes taken at once, 0: as many as there is room for
}

func (in *inlet) id() markID { return markID{in.of.name, in.index} }

// goes says that records may be taken.
func (in *inlet) goes() bool {
	return in.verdict == Go && in.log != nil && in.leader >= 0 && in.checked
}

// look brings the table up to date with the peer and with the board.
func (d *Down) look(ctx context.Context, r Reader) error {
	origins, err := r.Look(ctx, d.cfg.Topics)
	if err != nil {
		return fmt.Errorf("topics upstream: %w", err)
	}
	slices.SortFunc(origins, func(a, b Origin) int { return strings.Compare(a.Name, b.Name) })
	d.mu.Lock()
	d.cluster = r.Cluster()
	missing := d.foundLocked(origins)
	d.mu.Unlock()
	return d.make(ctx, r, missing)
}

// foundLocked takes over what the peer has. It returns what the board lacks.
func (d *Down) foundLocked(origins []Origin) (missing []*inflow) {
	for _, s := range d.order {
		for _, in := range s.parts {
			in.leader = -1 // until the peer says otherwise
		}
	}
	n := 0
	d.left = 0
	for i := range origins {
		o := &origins[i]
		if !d.cfg.comes(o.Name) {
			continue
		}
		if n += len(o.Leaders); n > d.cfg.Partitions {
			d.left += len(o.Leaders)
			n -= len(o.Leaders)
			continue
		}
		s := d.sources[o.Name]
		if s == nil {
			s = &inflow{name: o.Name, local: d.cfg.upstream(o.Name)}
			d.sources[o.Name] = s
			d.order = append(d.order, s)
		}
		d.updateLocked(s, o)
		if s.refused == "" && d.placeLocked(s) {
			missing = append(missing, s)
		}
	}
	return missing
}

// updateLocked takes over what the peer says of a topic.
func (d *Down) updateLocked(s *inflow, o *Origin) {
	anew := s.upstreamID != o.ID
	s.upstreamID, s.refused = o.ID, ""
	switch {
	case o.Err != nil:
		s.refused = "topic upstream: " + o.Err.Error()
	case strings.HasPrefix(s.local, "__"):
		s.refused = "the board keeps topics that begin with __ for itself"
	}
	for i, leader := range o.Leaders {
		if i == len(s.parts) {
			in := &inlet{of: s, index: int32(i), cursor: landing{Last: -1, Epoch: -1}, epoch: -1}
			d.recallLocked(in)
			s.parts = append(s.parts, in)
		}
		in := s.parts[i]
		if in.epoch != o.Epochs[i] || in.epoch < 0 || anew {
			in.checked = false
		}
		in.leader, in.epoch = leader, o.Epochs[i]
	}
	if len(o.Leaders) < len(s.parts) && o.Err == nil { // made anew with fewer
		s.parts = s.parts[:len(o.Leaders)]
	}
	if s.refused != "" {
		for _, in := range s.parts {
			in.verdict, in.reason = Refused, s.refused
		}
	}
}

// placeLocked finds the partitions on the board, and says whether there have to be more. A topic that is gone though records
// were taken into it is not made again: somebody deleted it.
func (d *Down) placeLocked(s *inflow) (missing bool) {
	for _, in := range s.parts {
		in.log = nil
	}
	have := int32(0)
	for _, p := range d.env.Store.Partitions(s.local) {
		have = max(have, p.Index()+1)
		if i := p.Index(); int(i) < len(s.parts) {
			s.parts[i].log = p
		}
	}
	if have == 0 && slices.ContainsFunc(s.parts, func(in *inlet) bool { return in.has }) {
		return false
	}
	return int(have) < len(s.parts)
}

// make makes topics of the board that are missing, and adds partitions.
func (d *Down) make(ctx context.Context, r Reader, missing []*inflow) error {
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, len(missing))
	for i, s := range missing {
		names[i] = s.name
	}
	settings, err := r.Settings(ctx, names)
	if err != nil {
		return fmt.Errorf("settings upstream: %w", err)
	}
	for _, s := range missing {
		err := d.env.Store.Make(ctx, s.local, int32(len(s.parts)), settings[s.name])
		d.mu.Lock()
		again := d.placeLocked(s)
		for _, in := range s.parts {
			if in.log == nil && (err != nil || again) {
				d.holdLocked(in, Refused, fmt.Sprintf("topic %s of the board: %v", s.local, or(err, errNoTopic)))
			}
		}
		d.mu.Unlock()
	}
	return nil
}

// judge says of each partition whether it may be taken. Of those whose leader is another than when records were last taken, and
// of those that are new, it asks where they begin and end.
func (d *Down) judge(ctx context.Context, r Reader) error {
	d.mu.Lock()
	var list []*inlet
	var bounds []Bound
	now := time.Now()
	for _, s := range d.order {
		for _, in := range s.parts {
			if s.refused != "" || d.waitsLocked(in, now) || !d.sameLocked(in) || in.leader < 0 {
				continue
			}
			same := in.has && in.epoch >= 0 && in.epoch == in.cursor.Epoch && !in.outside
			if in.checked = in.checked || same; !in.checked {
				list = append(list, in)
				bounds = append(bounds, Bound{Topic: s.name, Partition: in.index, Leader: in.leader, Epoch: in.cursor.Epoch})
			}
		}
	}
	d.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	if err := r.Bounds(ctx, bounds); err != nil {
		return fmt.Errorf("bounds upstream: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, in := range list {
		d.boundLocked(in, &bounds[i])
	}
	return nil
}

// waitsLocked says that a partition was refused not long ago; else it may try again.
func (d *Down) waitsLocked(in *inlet, now time.Time) bool {
	return (in.verdict == Refused || in.verdict == Unreadable) && now.Before(in.retry)
}

// sameLocked says that both topics are those that the cursor is of.
func (d *Down) sameLocked(in *inlet) bool {
	v, reason := Go, ""
	var none [16]byte
	c := &in.cursor
	switch {
	case !in.has:
	case c.UpstreamID != in.of.upstreamID && c.UpstreamID != none && in.of.upstreamID != none:
		v, reason = UpstreamAnew, "the upstream topic "+in.of.name+" was made anew since records were taken from it"
	case in.log == nil:
		v, reason = LocalAnew, "the topic "+in.of.local+" of the board, into which records were taken, is not there"
	case c.Local != in.log.ID():
		v, reason = LocalAnew, "the topic "+in.of.local+" of the board was made anew since records were taken into it"
	}
	if v == Go && in.verdict.Stopped() && in.verdict != LocalAnew && in.verdict != UpstreamAnew && in.checked {
		return false // as it was
	}
	d.verdictLocked(in, v, reason)
	return v == Go && in.log != nil
}

func (d *Down) verdictLocked(in *inlet, v Verdict, reason string) {
	if v.Stopped() && v != in.verdict {
		d.log.Error("partition is stopped", "topic", in.of.name, "partition", in.index, "reason", reason)
	}
	in.verdict, in.reason = v, reason
}

// boundLocked judges a partition by where it begins and ends.
func (d *Down) boundLocked(in *inlet, b *Bound) {
	c := &in.cursor
	in.checked, in.compare, in.outside, in.gone, in.end = true, false, false, nil, b.End
	switch {
	case b.Err != nil:
		d.holdLocked(in, Refused, b.Err.Error())
	case !in.has:
		in.pos = b.Start
		c.Next = b.Start
	case b.End < c.Next, c.Epoch >= 0 && b.Same >= 0 && b.Same < c.Next:
		d.verdictLocked(in, UpstreamShort, fmt.Sprintf("of partition %s-%d upstream %d offsets are as they were, and records were taken up to %d: it was truncated",
			in.of.name, in.index, min(b.End, max(b.Same, 0)), c.Next))
	case b.Start > c.Next:
		in.gone, in.pos = &Range{c.Next, b.Start}, b.Start
	default:
		in.pos, in.compare = c.Next, c.Last >= b.Start
	}
}

// holdLocked holds a partition back for a while.
func (d *Down) holdLocked(in *inlet, v Verdict, reason string) {
	if in.verdict != v || in.reason != reason {
		d.log.Error("partition is held back", "topic", in.of.name, "partition", in.index, "reason", reason)
	}
	in.verdict, in.reason, in.checked = v, reason, false
	in.retry = time.Now().Add(min(holdFirst<<min(in.strikes, 6), holdMax))
	in.strikes++
}
