package upstream

import "testing"

// sending is a live lane that follows groups, with one partition of a table.
func sending(p *part) *lane {
	l := &Link{cfg: Config{Groups: []string{"*"}}, table: newTable(1)}
	l.env.Groups = nobody{}
	l.table.all = append(l.table.all, p)
	ln := &lane{Link: l, lane: Live}
	ln.filler.cfg = &l.cfg
	return ln
}

type nobody struct{}

func (nobody) Names() []string              { return nil }
func (nobody) Offsets(string) []GroupOffset { return nil }

// went has a transaction with records from an offset on be committed, and they went to ups.
func (ln *lane) went(d *draft, first int64, ups ...int64) {
	ln.filler.reset()
	for i, up := range ups {
		ln.filler.from = append(ln.filler.from, origin{part: d.part, local: first + int64(i)})
		ln.filler.records = append(ln.filler.records, Record{Offset: up})
	}
	d.cursor.Last, d.cursor.Next = first+int64(len(ups))-1, first+int64(len(ups))
	ln.drafts = []*draft{d}
	ln.passedLocked(len(ups))
	d.part.lane[Live].cursor = d.cursor
}

// A group that had read all has not when something went where nobody knows.
func TestWhatWentSomewhereElseIsUnread(t *testing.T) {
	for name, lose := range map[string]func(ln *lane, d *draft){
		"nobody knows where":  func(ln *lane, d *draft) { ln.went(d, 10, -1, -1) },
		"back":                func(ln *lane, d *draft) { ln.went(d, 10, 3, 4) },
		"by key":              func(ln *lane, d *draft) { d.have = 2; ln.went(d, 10, 7, 8); d.have = 1 },
		"by key, and go back": func(ln *lane, d *draft) { d.have = 2; ln.went(d, 10, 7); d.have = 1; ln.went(d, 11, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			p := &part{lane: [lanes]*position{{cursor: Cursor{Last: -1}}, {}}, to: &target{mine: 1, have: 1}, log: struct{ Partition }{}}
			p.align()
			ln := sending(p)
			all, some := &mark{part: p, at: 10, up: -1}, &mark{part: p, at: 9, up: -1}
			p.marks = []*mark{all, some}
			d := &draft{part: p, mine: 1, have: 1}
			ln.went(d, 8, 5, 6)
			if all.up != 7 || all.final || some.up != 6 || !some.final {
				t.Fatalf("at first %+v, %+v", all, some)
			}
			lose(ln, d)
			if all.up != -1 {
				t.Errorf("who had read all is at %d", all.up)
			}
			if some.up != 6 {
				t.Errorf("what was delivered before is at %d now", some.up)
			}
		})
	}
}
