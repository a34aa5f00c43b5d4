package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/segment"
)

// recovery brings a store back: slots, directories, two passes over the journal, and only then the cuts.
type recovery struct {
	s      *Store
	report Report

	found map[key]*log
	facts facts
	// complete is set when a slot is valid: the journal then has everything that came after it.
	complete bool
	last     bool     // pass two is at the journal's last frame: its pointed bytes may not be on the disk
	torn     uint64   // index of a last frame whose pointed bytes are missing: it never became a commit; 0 for none
	doomed   []string // directories of deleted topics
	undo     []key    // the partitions it appended to
	aside    *entriesWriter

	pointed   pointed
	gathering []*log // those with a buffer
	held      int    // bytes of the buffers
}

// facts are what pass one learns: what later entries make of earlier ones.
type facts struct {
	deleted map[catalog.TopicID]bool
	created map[catalog.TopicID]string
	logs    map[key]*fact
}

// fact is what the journal says of one partition as a whole.
type fact struct {
	made   bool    // its TopicCreated is in the journal
	start  int64   // where the log starts in the end, -1 where only its first segment says so
	causes causes  // why it starts there
	cuts   []cut   // in order
	bases  []int64 // segments that entries name and no truncation removes; the checkpoint's first
	next   int64   // the highest offset that an entry has a place for, or a truncation since
	// settled are places in the journal at which segments below one were about to be compacted: what entries before say of
	// those holds no more. Only where both slots are lost are any such entries met.
	settled []settled
}

// settled is one of these places. below is the base of the first segment that is not meant.
type settled struct {
	at    place
	below int64
}

func (f *fact) settle(at place, below int64) {
	f.settled = slices.DeleteFunc(f.settled, func(s settled) bool { return s.below <= below })
	f.settled = append(f.settled, settled{at, below})
}

// overtaken says whether an entry is of a segment that may have been compacted since.
func (f *fact) overtaken(at place, e *journal.Entry) bool {
	return slices.ContainsFunc(f.settled, func(s settled) bool { return at.before(s.at) && e.Segment < s.below })
}

// cut is one truncation: the log goes on at byte pos of segment seg, and what entries before this one put at or behind
// that place is cancelled. Places are compared and not offsets: the end of one segment and the beginning of the next are
// the same offset, and only one of them ends the older segment.
type cut struct {
	at       place
	seg, pos int64
}

// covers says whether the cut takes what lies at byte pos of segment seg.
func (c cut) covers(seg, pos int64) bool { return c.seg < seg || c.seg == seg && c.pos <= pos }

// place is an entry's position in the journal.
type place struct {
	frame uint64
	entry int
}

func (p place) before(q place) bool {
	return p.frame < q.frame || p.frame == q.frame && p.entry < q.entry
}

func newRecovery(s *Store) *recovery {
	return &recovery{
		s: s, found: make(map[key]*log), pointed: pointed{fs: s.cfg.FS},
		facts: facts{make(map[catalog.TopicID]bool), make(map[catalog.TopicID]string), make(map[key]*fact)},
	}
}

func (r *recovery) run() error {
	s := r.s
	if err := s.cfg.FS.MkdirAll(s.topics, 0o755); err != nil {
		return err
	}
	// A directory made or removed by the last life may not be durable: the next checkpoint sees to it.
	s.newTopics.Store(true)
	var bad []string
	s.slots, bad = openSlots(s.cfg.FS, s.cfg.Dir, s.cfg.Slots)
	for _, b := range bad {
		r.lost("%s", b)
	}
	r.complete = s.slots.ok
	r.report.Slots = s.slots.valid
	opened, err := s.cfg.OpenJournal(s.slots.last.Mark)
	if err != nil {
		return err // and not opened: an interface around a nil pointer is not nil
	}
	s.journal = opened
	if err := r.scan(); err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	for k, l := range r.found {
		if p := l.finish(); p != nil {
			s.partitions[k] = p
		}
	}
	if err := errors.Join(r.closeQuarantine(), r.keep()); err != nil {
		return err
	}
	if err := s.journal.Start(); err != nil {
		return err
	}
	if err := r.cancelTorn(); err != nil {
		return err
	}
	r.orphans()
	s.loadCleaned()
	r.report.Partitions = len(s.partitions)
	s.touched.Store(r.report.Entries > 0 || r.report.Gaps > 0) // what was mended is written down
	s.nextCheckpoint.Store(s.nowMS() + s.cfg.CheckpointIntervalMS)
	if !s.slots.ok {
		// The first life of the directory, or one whose slots are both lost: with a slot, and the directory's own entries
		// durable, everything after is as usual.
		if err := s.Checkpoint(); err != nil {
			return err
		}
	}
	s.bringBack(s.nowMS()) // most disks that fail once do not fail twice
	for k, o := range s.offline {
		r.report.Offline = append(r.report.Offline, fmt.Sprintf("%s-%d: %v", o.topic.Name, k.index, o.err))
	}
	return nil
}

// scan lists the directories, removes what is left of deletions, and gives each log its slot entry.
func (r *recovery) scan() error {
	entries, err := r.s.cfg.FS.ReadDir(r.s.topics)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(r.s.topics, e.Name())
		name, index, ok := splitDir(e.Name())
		switch {
		case !e.IsDir() || strings.HasSuffix(e.Name(), straySuffix):
			continue
		case strings.HasSuffix(e.Name(), deleteSuffix):
			r.doomed = append(r.doomed, path)
			continue
		case !ok:
			r.lost("directory %s is not a partition's; it is left alone", e.Name())
			continue
		}
		id, err := segment.ReadMetadata(r.s.cfg.FS, path)
		t, cfg := Topic{ID: id, Name: name}, *r.s.cfg.Defaults
		var failed error // of this partition's files
		if err != nil {
			if t, cfg, ok = r.s.cfg.Named(name); !ok {
				if !errors.Is(err, fs.ErrNotExist) || r.holdsLog(path) {
					r.lost("directory %s has no readable partition.metadata and the catalog does not know the name; it is left alone: %v", e.Name(), err)
				}
				continue
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, segment.ErrCheckpoint) {
				failed = segment.WriteMetadata(r.s.cfg.FS, path, t.ID)
			} else {
				failed = err
			}
		} else if known, c, ok := r.s.cfg.Known(id); ok && known.Name == name {
			cfg = c
		} else if known, c, named := r.s.cfg.Named(name); !ok && named && misspelled(t.ID, known.ID) {
			r.s.log.Warn("partition.metadata is one character off the topic id that the catalog has, and is written anew",
				"directory", path, "have", t.ID, "want", known.ID)
			t, cfg = known, c
			failed = segment.WriteMetadata(r.s.cfg.FS, path, t.ID)
		}
		k := key{t.ID, index}
		if r.found[k] != nil {
			r.lost("directory %s has the topic id of another; it is left alone", e.Name())
			continue
		}
		r.found[k] = r.newLog(t, index, cfg)
		r.found[k].giveUp(failed)
	}
	for i := range r.s.slots.last.Partitions {
		e := &r.s.slots.last.Partitions[i]
		k := key{e.Topic, e.Partition}
		l := r.found[k]
		if l == nil {
			t, cfg, ok := r.s.cfg.Known(e.Topic)
			if !ok {
				continue
			}
			l = r.newLog(t, e.Partition, cfg)
			l.missing = true
			r.found[k] = l
		}
		l.slot, l.saved = e, e
	}
	return r.findKept()
}

func (r *recovery) newLog(t Topic, index int32, cfg catalog.TopicConfig) *log {
	l := &log{r: r, p: r.s.blank(t, index, cfg), complete: r.complete}
	l.p.recovering.Store(true)
	return l
}

// misspelled reports whether two ids differ in a single character. Ids are random: it is damage, never chance.
func misspelled(a, b catalog.TopicID) bool {
	x, y := a.String(), b.String()
	differ := 0
	for i := range x {
		if x[i] != y[i] {
			differ++
		}
	}
	return differ == 1
}

// holdsLog says whether the directory has a log with anything in it.
func (r *recovery) holdsLog(dir string) bool {
	entries, err := r.s.cfg.FS.ReadDir(dir)
	if err != nil {
		return true // better reported than overlooked
	}
	for _, e := range entries {
		if _, ok := segment.ParseName(e.Name(), segment.LogSuffix); ok {
			if info, err := e.Info(); err != nil || info.Size() > 0 {
				return true
			}
		}
	}
	return false
}

// removeDoomed removes the directories of deleted topics, once their names are durable: the life before may have been
// killed between the rename and its sync.
func (r *recovery) removeDoomed() {
	if len(r.doomed) == 0 {
		return
	}
	err := r.s.syncTopics()
	for _, dir := range r.doomed {
		if err == nil {
			err = removeTree(r.s.cfg.FS, dir)
		}
		if err != nil {
			r.s.log.Warn("files of deleted topics are left", "directory", dir, "err", err)
			return
		}
		r.report.Deleted++
	}
}

// replay is the two passes.
func (r *recovery) replay() error {
	if err := r.replayKept(r.collectEntry); err != nil {
		return err
	}
	report, err := r.s.journal.Replay(r.collect)
	r.report.Journal = report
	if err != nil {
		return fmt.Errorf("replay, first pass: %w", err)
	}
	if report.TornBytes > 0 {
		r.s.log.Warn("the journal ends in bytes that are no whole frame: a commit that was not acknowledged, or its end is damaged",
			"bytes", report.TornBytes)
	}
	for _, g := range report.Gaps {
		r.lost("journal frames %d to %d are damaged", g.From, g.To)
	}
	for k, l := range r.found {
		if !r.facts.deleted[k.topic] {
			continue
		}
		delete(r.found, k)
		if !l.missing {
			// Under its own name until now: the rename was not durable.
			to := r.s.unusedName(l.p.dir, deleteSuffix)
			if err := r.s.cfg.FS.Rename(l.p.dir, to); err != nil {
				return err
			}
			r.s.newTopics.Store(true)
			r.doomed = append(r.doomed, to)
		}
	}
	r.removeDoomed()
	for _, l := range r.found {
		if !l.failed {
			l.giveUp(l.begin())
		}
	}
	// What an earlier life kept may never have been on the disk, as the journal's last frame.
	r.last = true
	if err := r.replayKept(r.applyEntry); err != nil {
		return err
	}
	if _, err := r.s.journal.Replay(r.apply); err != nil {
		return fmt.Errorf("replay, second pass: %w", err)
	}
	r.flush()
	return r.pointed.close()
}

// collect is pass one.
func (r *recovery) collect(f journal.Frame) error {
	if f.Last && !r.pointersHold(f) {
		// It holds good for what moves no bytes: those entries cannot be taken back, so they count, here and in every
		// later recovery. Nobody was told either way.
		r.torn = f.Index
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if r.kept(f.Index, e) || f.Index == r.torn && (e.Kind == journal.Append || e.Kind == journal.Pointer) {
			continue
		}
		if err := r.collectEntry(place{f.Index, i}, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) collectEntry(at place, e *journal.Entry) error {
	k := key{e.Topic, e.Partition}
	switch e.Kind {
	case journal.TopicDeleted:
		r.facts.deleted[e.Topic] = true
	case journal.TopicCreated:
		r.facts.created[e.Topic] = string(e.Bytes)
		r.fact(k).made = true
	case journal.StartMoved:
		fact := r.fact(k)
		fact.moveStart(e)
		if e.Segment > 0 {
			fact.settle(at, e.Segment)
		}
	case journal.Truncate:
		fact := r.fact(k)
		fact.cutStart(e.Base)
		fact.next = e.Base
		fact.bases = slices.DeleteFunc(fact.bases, func(base int64) bool { return base > e.Segment })
		fact.cuts = append(fact.cuts, cut{at, e.Segment, e.Position})
	case journal.Append, journal.Pointer:
		fact := r.fact(k)
		if n := len(fact.bases); n == 0 || fact.bases[n-1] != e.Segment {
			fact.bases = append(fact.bases, e.Segment)
		}
		fact.next = max(fact.next, e.Base)
	}
	return nil
}

// fact is what is known of one partition, beginning with what the checkpoint says.
func (r *recovery) fact(k key) *fact {
	f := r.facts.logs[k]
	if f == nil {
		f = &fact{start: -1}
		if l := r.found[k]; l != nil {
			if f.causes = l.readCauses(); l.slot != nil {
				f.start, f.bases = l.slot.Start, []int64{l.slot.Segment}
			}
		}
		r.facts.logs[k] = f
	}
	return f
}

// apply is pass two.
func (r *recovery) apply(f journal.Frame) error {
	r.last = f.Last
	for i := range f.Entries {
		e := &f.Entries[i]
		if r.kept(f.Index, e) || r.facts.deleted[e.Topic] || e.Kind == journal.TopicDeleted {
			continue
		}
		if f.Index == r.torn && (e.Kind == journal.Append || e.Kind == journal.Pointer) {
			r.undo = append(r.undo, key{e.Topic, e.Partition})
			continue
		}
		if err := r.applyEntry(place{f.Index, i}, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) applyEntry(at place, e *journal.Entry) error {
	switch l := r.log(e); {
	case l == nil:
		return r.quarantine(at.frame, e)
	case l.failed: // keep takes it
	default:
		if err := l.apply(at, e); errors.Is(err, errOrder) {
			r.lost("frame %d: %v", at.frame, err)
		} else {
			l.giveUp(err)
		}
	}
	return nil
}

// log is the log of an entry, made when the journal or the catalog knows its name, nil when nobody does.
func (r *recovery) log(e *journal.Entry) *log {
	k := key{e.Topic, e.Partition}
	if l := r.found[k]; l != nil {
		return l
	}
	t, cfg, ok := r.s.cfg.Known(e.Topic)
	if name, made := r.facts.created[e.Topic]; !ok && made {
		t, cfg, ok = Topic{ID: e.Topic, Name: name}, *r.s.cfg.Defaults, true
	}
	if !ok || e.Partition < 0 || catalog.ValidTopicName(t.Name) != nil {
		return nil
	}
	l := r.newLog(t, e.Partition, cfg)
	l.missing = true
	r.found[k] = l
	l.giveUp(l.begin())
	return l
}

// cancelTorn makes it durable that the last frame, whose pointed bytes were missing, is no commit: the places it names
// are written anew from now on, and the next recovery must not compare them with it. The truncation names where the log
// really goes on, which may be an older segment than the one the frame was to begin.
func (r *recovery) cancelTorn() error {
	seen := make(map[key]bool)
	var group []journal.Entry
	for _, k := range r.undo {
		p := r.s.partitions[k]
		if p == nil || seen[k] {
			continue
		}
		seen[k] = true
		group = append(group, journal.Entry{
			Kind: journal.Truncate, Topic: k.topic, Partition: k.index,
			Segment: p.durablePiece.Base(), Position: p.durablePos, Base: p.durable,
		})
	}
	if len(group) == 0 {
		return nil
	}
	result := make(chan error, 1)
	r.s.journal.Stage(group, func(err error) { result <- err })
	if err := <-result; err != nil {
		return fmt.Errorf("cancel the torn last commit: %w", err)
	}
	return nil
}
