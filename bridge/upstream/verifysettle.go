package upstream

import "slices"

// settle finds out what those are that are in no window: it goes through all that is known of the log, from where each lane is
// to the end, and then from the beginning. What it finds there is ahead of its lane, behind it, or there twice.
func (c *comparison) settle() error {
	if len(c.strangers) == 0 {
		return nil
	}
	found := make([]finding, len(c.strangers))
	for _, s := range c.strands {
		for l := range lanes {
			if err := c.settleTrack(s, l, found); err != nil {
				return err
			}
		}
	}
	for i, f := range found {
		switch {
		case f.is:
		case f.again != nil:
			if f.again.wanted(f.offset) {
				f.again.doubled.add(f.offset)
			}
		default:
			if c.foreign++; len(c.others) < othersMax {
				c.others = append(c.others, c.strangers[i])
			}
		}
	}
	c.strangers = c.strangers[:0]
	clear(c.pending)
	return nil
}

// finding is what a stranger is: one of a strand, or one that is there again, with its offset.
type finding struct {
	is     bool
	again  *strand
	offset int64
}

// settleTrack finds those of the strangers that belong to a lane of a strand.
func (c *comparison) settleTrack(s *strand, l Lane, found []finding) error {
	waiting := map[content][]int{}
	left := 0
	for i := range c.strangers {
		if a := &c.strangers[i]; a.lane == l && !found[i].is {
			waiting[a.content] = append(waiting[a.content], i)
			left++
		}
	}
	if left == 0 {
		return nil
	}
	t, err := c.track(s, l)
	if err != nil {
		return err
	}
	got := map[int]*print{}
	again := int64(-1)
	pass := func(p *print) bool {
		list := waiting[p.content]
		if len(list) == 0 {
			return true
		}
		one, taken := *p, s.seen.has(p.offset)
		waiting[p.content] = slices.DeleteFunc(list, func(i int) bool {
			switch {
			case !c.strangers[i].of(p):
				return false
			case taken:
				found[i].again, found[i].offset = s, p.offset
				again = p.offset
				return false
			}
			got[i], taken = &one, true
			left--
			return true
		})
		return left > 0
	}
	here := max(t.most+1, s.low)
	if err := c.walk(s, here, s.high, pass); err != nil {
		return err
	}
	if left > 0 {
		if err := c.walk(s, s.low, here, pass); err != nil {
			return err
		}
	}
	most, last := int64(-1), again
	for i := range c.strangers {
		p := got[i]
		if p == nil {
			continue
		}
		found[i].is = true
		// What came just before it and just after it in this lane, of those that were no strangers.
		was, n := t.most, slices.IndexFunc(t.turns, func(o turn) bool { return o.behind > i })
		if n >= 0 {
			was = t.turns[n].was
			if o := &t.turns[n]; o.offset < p.offset && !o.told {
				o.told = true
				s.order(o.offset, p.offset)
			}
		}
		s.order(p.offset, max(was, most))
		most = max(most, p.offset)
		last = p.offset
		if err := c.arrived(s, p); err != nil {
			return err
		}
	}
	t.most, t.turns = max(t.most, most), nil
	if last < 0 {
		return nil
	}
	return c.seek(s, t, last+1)
}
