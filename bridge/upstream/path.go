package upstream

import "context"

// path is where the records of a partition went, as far as is known.
type path struct {
	local, upstream [16]byte // topic ids
	turn            int64    // the cursor's
	sent            int64    // the last record that was sent, -1 for none
	trail           trail
	// old is what was sent before, with an end that is not known, until the trail is long.
	old *stretch
}

// stretch is a trail that ends before what was sent last: the board was off, or nobody knows where it went.
type stretch struct {
	trail
	// local and up are the last record of which the peer has said where it went. What is after it in the trail was looked for, and
	// may be something else until all is found.
	local, up int64
	end       int64 // the last record that was sent
	producer  int64 // who wrote what is missing
	from      int64 // offset upstream to look on at
	cost      int   // bytes it took
	over      bool  // it is not found
	// fails is how often looking failed, problem why the last time did.
	fails   int
	problem string
}

// whole says that nothing is missing.
func (s *stretch) whole() bool { last, _ := s.last(); return last == s.end }

// at is trail.at over both trails.
func (w *path) at(offset int64) (up int64, sent, known bool) {
	if offset >= w.trail.floor && w.trail.some() {
		return w.trail.at(offset)
	}
	if w.old == nil {
		return 0, false, false
	}
	if offset > w.old.local && !w.old.whole() {
		return 0, false, false
	}
	up, sent, known = w.old.at(offset)
	switch {
	case !known || sent:
		return up, sent, known
	case w.old.whole() && offset >= w.trail.floor: // and nothing was sent since
		return up, false, true
	}
	return 0, false, false
}

// restart forgets where records went up to the cursor. Between the last record and the cursor's end nothing was sent, unless the
// other lane did, of a time without groups.
func (p *part) restart(c *Cursor) {
	floor := c.Next
	if c.Sync.Is {
		floor = c.Last + 1
	}
	p.path = &path{local: c.Local, upstream: c.UpstreamID, turn: c.Turn, sent: c.Last, trail: newTrail(floor)}
	for _, m := range p.marks {
		m.up, m.final, m.asked, m.done = -1, false, false, -1
	}
}

// align makes the path one to the committed cursor, when a connection begins.
func (p *part) align() {
	c, was := &p.lane[Live].cursor, p.path
	if was != nil && (was.local != c.Local || was.upstream != c.UpstreamID || was.turn != c.Turn) {
		was = nil
	}
	if was != nil && was.sent == c.Last {
		return
	}
	marks := p.marks
	if was != nil { // it is the same records, of which some went further
		p.marks = nil
	}
	p.restart(c)
	for _, m := range marks {
		if was != nil && !m.final {
			m.up = -1 // more was sent since
		}
	}
	p.marks = marks
	s := &c.Sync
	if !s.Is || c.Last < 0 {
		return
	}
	old := &stretch{end: c.Last, producer: s.Producer, local: s.Local, up: s.Upstream}
	switch {
	case was != nil && was.trail.some() && was.trail.is(s):
		old.trail = was.trail
	case was != nil && !was.trail.some() && was.old != nil && was.old.producer == s.Producer && !was.old.over:
		*old = *was.old
		if old.whole() {
			old.local, old.up = old.last()
		}
		old.end = c.Last
	default:
		old.trail = pairTrail(s.Local, s.Upstream)
	}
	if old.from == 0 {
		_, up := old.last()
		old.from = up + 1
	}
	p.path.old = old
}

// is says whether the last record is that of a cursor's Sync.
func (t *trail) is(s *Sync) bool {
	local, up := t.last()
	return local == s.Local && up == s.Upstream
}

// sync is the last record of which it is known where it went.
func (w *path) sync(producer int64) Sync {
	switch t, old := &w.trail, w.old; {
	case t.some():
		local, up := t.last()
		return Sync{Is: producer >= 0, Local: local, Upstream: up, Producer: producer}
	case old == nil || old.over:
		return Sync{}
	case old.whole():
		local, up := old.last()
		return Sync{Is: producer >= 0, Local: local, Upstream: up, Producer: producer}
	case old.producer != producer:
		return Sync{} // what is missing would be of two
	default:
		return Sync{Is: producer >= 0, Local: old.local, Upstream: old.up, Producer: producer}
	}
}

// lose has the path begin anew after a record. Where there was none after what a group has read, there may be one now.
func (p *part) lose(sent int64) {
	p.path.trail, p.path.old = newTrail(sent+1), nil
	for _, m := range p.marks {
		if !m.final {
			m.up = -1
		}
	}
}

// syncPoints puts into the cursors of a transaction where records went before. Where that is not followed they say nothing: what
// an earlier cursor said is of records up to that one.
func (ln *lane) syncPoints(ctx context.Context) {
	follows, producer := ln.lane == Live && ln.hasGroups(), int64(-1)
	if follows {
		producer = ln.session.Producer(ctx)
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for _, d := range ln.drafts {
		if follows {
			d.sync(producer)
		} else {
			d.cursor.Sync = Sync{}
		}
	}
}

// sync puts into the cursor where records went before, as long as this lane has sent all of them since, to one partition.
func (d *draft) sync(producer int64) {
	if d.part.path == nil { // it was not there when the connection began
		d.part.align()
	}
	w, c := d.part.path, &d.cursor
	if s := w.sync(producer); s.Is || d.records > 0 { // without records what the last cursor says stays true
		c.Sync = s
	}
	other := w.local != c.Local || w.turn != c.Turn || w.upstream != c.UpstreamID && w.upstream != [16]byte{}
	if d.mine != d.have || other || !c.Sync.after(c.Ranges) {
		c.Sync = Sync{}
	}
}

// passedLocked notes where the records of a transaction went, and what groups have read of them.
func (ln *lane) passedLocked(data int) {
	if ln.lane != Live || !ln.hasGroups() {
		return
	}
	f := &ln.filler
	for i := range data {
		p, local, up := f.from[i].part, f.from[i].local, f.records[i].Offset
		if p.path != nil && (up < 0 || !p.path.trail.add(local, up)) {
			p.lose(local)
		}
	}
	most := ln.trailBytes()
	for _, d := range ln.drafts {
		p, c := d.part, &d.cursor
		w := p.path
		if w != nil && w.upstream == [16]byte{} {
			w.upstream = c.UpstreamID
		}
		if w == nil || w.local != c.Local || w.upstream != c.UpstreamID || w.turn != c.Turn {
			p.restart(c)
			continue
		}
		if w.sent = c.Last; d.mine != d.have {
			p.lose(c.Next - 1)
		}
		for _, m := range p.marks {
			ln.translateLocked(m)
		}
		if w.trail.trim(most) {
			w.old = nil
		}
	}
}
