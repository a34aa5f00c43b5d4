package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// tend looks at the groups of the board, and commits upstream what has changed, when it is time for either.
func (ln *lane) tend(ctx context.Context) {
	if !ln.hasGroups() {
		return
	}
	now := time.Now()
	if now.Sub(ln.groups.looked) >= min(groupLookEvery, ln.cfg.GroupsInterval) {
		ln.look()
	}
	if now.Sub(ln.groups.synced) < ln.cfg.GroupsInterval || !ln.mayAsk() {
		return
	}
	err := ln.syncGroups(ctx, now)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.groups.synced = time.Now()
	text := ""
	if err != nil {
		text = err.Error()
		if ln.groups.problem == "" && !errors.Is(err, context.Canceled) {
			ln.log.Warn("offsets of groups are not committed upstream now", "error", err)
		}
	}
	ln.groups.problem = text
}

// tendLocked is how long until there is something to tend, which a wait for nothing else may not outlast.
func (ln *lane) tendLocked(wait time.Duration) time.Duration {
	if ln.lane != Live || !ln.hasGroups() {
		return wait
	}
	in := max(time.Until(ln.groups.looked.Add(min(groupLookEvery, ln.cfg.GroupsInterval))), time.Millisecond)
	if wait < 0 || in < wait {
		return in
	}
	return wait
}

// mayAsk says whether the contract lets something of any class through now.
func (ln *lane) mayAsk() bool {
	ready := make([]bool, ln.env.Scheduler.Classes())
	for i := range ready {
		ready[i] = true
	}
	class, _, _ := ln.env.Scheduler.Next(ln.env.Clock.Now(), Live, ready)
	return class >= 0
}

// syncGroups commits upstream what has changed. Where nothing has, nothing is asked.
func (ln *lane) syncGroups(ctx context.Context, now time.Time) error {
	if err := ln.ask(ctx, now); err != nil {
		return err
	}
	ln.search(ctx)
	return ln.tell(ctx, now)
}

// gather makes requests of the marks of groups that may be asked about now.
func (ln *lane) gather(now time.Time, want func(*mark) bool) (list []GroupOffsets, marks [][]*mark) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for _, g := range ln.groups.list {
		if now.Before(g.retry) {
			continue
		}
		some := false
		for _, m := range g.marks {
			if want(m) && m.part.unfollowed(m.id) == "" {
				some = true
				break
			}
		}
		if !some {
			continue
		}
		var of []*mark
		out := GroupOffsets{Group: g.name}
		for p, m := range g.marks {
			if p.unfollowed(m.id) == "" {
				of = append(of, m)
			}
		}
		slices.SortFunc(of, func(a, b *mark) int {
			return cmp.Or(strings.Compare(a.part.topic, b.part.topic), cmp.Compare(a.part.index, b.part.index))
		})
		for _, m := range of {
			out.List = append(out.List, GroupOffset{Topic: m.part.to.name, ID: m.part.to.id, Partition: m.part.index, Offset: -1})
		}
		list, marks = append(list, out), append(marks, of)
	}
	return list, marks
}

// ask learns what groups have upstream, of which something has changed here or is to be renewed.
func (ln *lane) ask(ctx context.Context, now time.Time) error {
	ln.mu.Lock()
	for _, g := range ln.groups.list {
		switch {
		case g.renewed.IsZero():
			g.renewed = now
		case now.Sub(g.renewed) >= renewEvery:
			g.renewed = now
			for _, m := range g.marks {
				m.asked, m.renew = false, true
			}
		}
	}
	ln.mu.Unlock()
	list, marks := ln.gather(now, func(m *mark) bool { return !m.asked || m.up > m.done })
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if err := ln.session.Offsets(ctx, list); err != nil {
		return err
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for i := range list {
		g := &list[i]
		if g.Err != nil {
			ln.failedLocked(marks[i][0].group, g.Err)
			continue
		}
		for j, m := range marks[i] {
			o := &g.List[j]
			m.done, m.asked = o.Offset, true
			if m.up >= 0 || o.Offset < 0 || m.part.unfollowed(m.id) != "" {
				continue
			}
			switch o.Metadata { // of an earlier life
			case m.note(&ln.cfg, -1):
				m.up, m.final = o.Offset, true
			case m.note(&ln.cfg, m.part.path.sent):
				m.up = o.Offset
			}
		}
	}
	return nil
}

// tell commits what groups have read, where they have less upstream or nothing.
func (ln *lane) tell(ctx context.Context, now time.Time) error {
	want := func(m *mark) bool { return m.asked && (m.up > m.done || m.renew && m.up == m.done && m.up >= 0) }
	list, marks := ln.gather(now, want)
	for i := range list {
		g := &list[i]
		of, out := marks[i][:0], g.List[:0]
		for j, m := range marks[i] {
			if want(m) {
				o := g.List[j]
				o.Offset, o.Metadata = m.up, m.notes(&ln.cfg)
				of, out = append(of, m), append(out, o)
			}
		}
		marks[i], g.List = of, out
	}
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	err := ln.session.Commit(ctx, list)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for i := range list {
		g := &list[i]
		first := g.Err
		for j, m := range marks[i] {
			m.renew = false
			switch o := &g.List[j]; {
			case err != nil:
				m.asked = false // nobody knows
			case g.Err == nil && o.Err == nil:
				m.done = o.Offset
				ln.groups.commits++
			case first == nil:
				first = fmt.Errorf("%s-%d: %w", o.Topic, o.Partition, o.Err)
			}
		}
		if err == nil {
			ln.failedLocked(marks[i][0].group, first)
		}
	}
	return err
}

// failedLocked notes how a group fared. One that fails is left alone for a while.
func (ln *lane) failedLocked(g *followed, err error) {
	if err == nil {
		g.problem, g.strikes, g.retry = "", 0, time.Time{}
		return
	}
	if text := err.Error(); g.problem != text {
		g.problem = text
		ln.log.Warn("the offsets of a group are not committed upstream", "group", g.name, "error", err)
	}
	g.retry = time.Now().Add(min(ln.cfg.GroupsInterval<<min(g.strikes, 10), groupRetryMost))
	g.strikes++
}
