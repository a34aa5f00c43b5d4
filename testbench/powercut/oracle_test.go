package powercut

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/partition"
)

// event is what a board under test tells before it asks for something and after it was answered: one mark in the log.
type event struct {
	Kind   eventKind
	Topic  catalog.TopicID `json:",omitzero"`
	Name   string          `json:",omitempty"` // of the topic, or the cluster id
	Part   int32           `json:",omitempty"`
	N      int             `json:",omitempty"` // partitions, or records
	First  uint64          `json:",omitempty"` // id of the first record
	At     int64           `json:",omitempty"` // offset
	IDs    []uint64        `json:",omitempty"` // records served, from At on
	Doubt  bool            `json:",omitempty"` // refused, and nobody knows whether it is gone
	Mended bool            `json:",omitempty"` // refused, and the journal has put right what a failed write had spoilt
	Value  int             `json:",omitempty"` // of the setting
	// Of an idempotent producer's batch.
	Producer int64   `json:",omitempty"`
	Sequence int32   `json:",omitempty"`
	Found    *survey `json:",omitempty"`
}

type eventKind string

const (
	evFormatted  eventKind = "formatted"
	evFound      eventKind = "found" // after a start
	evFaults     eventKind = "faults"
	evCreate     eventKind = "create"
	evCreated    eventKind = "created"
	evDelete     eventKind = "delete"
	evDeleted    eventKind = "deleted"
	evAlter      eventKind = "alter"
	evAltered    eventKind = "altered"
	evAppend     eventKind = "append"
	evAcked      eventKind = "acked"
	evRefused    eventKind = "refused"
	evServed     eventKind = "served"
	evMoveStart  eventKind = "move start"
	evStartMoved eventKind = "start moved"
	evTruncate   eventKind = "truncate"
	evTruncated  eventKind = "truncated"
	evCheckpoint eventKind = "checkpointed"
	evCompacted  eventKind = "compacted"
)

// survey is what a board holds after a start.
type survey struct {
	Cluster string
	Topics  []surveyedTopic
	// Strays are topics that have partitions and are not in the catalog.
	Strays []catalog.TopicID
	// Losses are what recovery, or a look at the partitions, found missing.
	Losses []string
}

type surveyedTopic struct {
	ID    catalog.TopicID
	Name  string
	Value int // of the setting the workload changes
	Parts []surveyedPart
}

type surveyedPart struct {
	Offline     bool `json:",omitempty"` // the disk failed when it was opened: it is heard of again
	Start, High int64
	IDs         []uint64 // from Start on
	Offsets     []int64
}

// online is an error where a partition is offline on a disk that does not fail.
func (s *survey) online() error {
	for _, t := range s.Topics {
		for i, p := range t.Parts {
			if p.Offline {
				return fmt.Errorf("%s-%d is offline", t.Name, i)
			}
		}
	}
	return nil
}

func (p surveyedPart) log() []seen {
	log := make([]seen, len(p.IDs))
	for i, id := range p.IDs {
		log[i] = seen{p.Offsets[i], id}
	}
	return log
}

// oracle knows what a board has promised, from its events alone.
type oracle struct {
	cluster string // the cluster id, once the directory was formatted
	m       *model
	more    map[catalog.TopicID]*promises
	gone    map[catalog.TopicID]bool
	tally   Tally
}

// promises are what there is to know of a topic beside its records.
type promises struct {
	maybe   bool // its creation was asked for and not confirmed
	value   int
	tried   []int // values that were asked for since
	batches map[int32]map[int64]producerBatch
}

// producerBatch is an idempotent producer's last acknowledged batch.
type producerBatch struct {
	sequence int32
	first    uint64
	n        int
	base     int64
}

func newOracle() *oracle {
	return &oracle{m: newModel(), more: make(map[catalog.TopicID]*promises), gone: make(map[catalog.TopicID]bool)}
}

func decode(mark []byte) (e event, err error) {
	if err := json.Unmarshal(mark, &e); err != nil {
		return e, fmt.Errorf("mark %q: %w", mark, err)
	}
	return e, nil
}

// faulty recognizes the event after which the disk may fail.
func faulty(mark []byte) bool {
	return strings.Contains(string(mark), fmt.Sprintf(`"Kind":%q`, evFaults))
}

// hear takes one event. Its error is a promise that the running board broke.
func (o *oracle) hear(e event) error {
	switch e.Kind {
	case evFormatted:
		o.cluster = e.Name
		return nil
	case evFound:
		if err := o.check(e.Found); err != nil {
			return err
		}
		o.settle(e.Found)
		return nil
	case evFaults:
		o.tally.Faults++
		return nil
	case evCheckpoint:
		o.tally.Checkpoints++
		return nil
	case evCompacted:
		o.tally.Compactions += e.N
		return nil
	case evCreate:
		t := &topic{id: e.Topic, name: e.Name, config: configOf(e.Name)}
		for i := range int32(e.N) {
			t.parts = append(t.parts, t.part(i))
		}
		o.m.add(t)
		o.more[t.id] = &promises{maybe: true, batches: make(map[int32]map[int64]producerBatch)}
		return nil
	}
	t, more := o.m.topics[e.Topic], o.more[e.Topic]
	if t == nil {
		return fmt.Errorf("event %s of a topic nobody made", e.Kind)
	}
	switch e.Kind {
	case evCreated:
		more.maybe = false
		o.tally.Creates++
		return nil
	case evDelete:
		t.deleting = true
		return nil
	case evDeleted:
		o.m.remove(t)
		o.m.topics[t.id] = nil
		delete(o.m.topics, t.id)
		o.gone[t.id] = true
		o.tally.Deletes++
		return nil
	case evAlter:
		more.tried = append(more.tried, e.Value)
		return nil
	case evAltered:
		more.value, more.tried = e.Value, nil
		return nil
	}
	return o.hearPart(e, t.parts[e.Part], more)
}

func (o *oracle) hearPart(e event, p *part, more *promises) error {
	switch e.Kind {
	case evAppend:
		for i := range e.N {
			p.pending[e.First+uint64(i)] = true
		}
		delete(more.batches[e.Part], e.Producer) // once the next one is there, a snapshot need not know it
	case evAcked:
		for i := range e.N {
			if err := p.promise(e.At+int64(i), e.First+uint64(i)); err != nil {
				return err
			}
		}
		maps.DeleteFunc(p.pending, func(id uint64, _ bool) bool { return id < e.First })
		o.tally.Acked += e.N
		if e.Producer != 0 {
			if more.batches[e.Part] == nil {
				more.batches[e.Part] = make(map[int64]producerBatch)
			}
			more.batches[e.Part][e.Producer] = producerBatch{e.Sequence, e.First, e.N, e.At}
		}
	case evRefused:
		o.tally.Refused += e.N
		for i := range e.N {
			if !e.Doubt {
				delete(p.pending, e.First+uint64(i))
			}
		}
	case evServed:
		o.tally.Served += len(e.IDs)
		for i, id := range e.IDs {
			offset := e.At + int64(i)
			if have, ok := p.log[offset]; ok && have != id || !ok && !p.pending[id] {
				return fmt.Errorf("%s: record %d was served at offset %d, promised is %d", p, id, offset, have)
			}
			if err := p.promise(offset, id); err != nil {
				return err
			}
		}
	case evMoveStart:
		p.startMax = max(p.startMax, e.At)
	case evStartMoved:
		p.start = max(p.start, e.At)
		o.tally.Starts++
	case evTruncate:
		p.cutTo = min(p.cutTo, e.At)
	case evTruncated:
		p.truncated(e.At)
		for id, b := range more.batches[e.Part] {
			if b.base+int64(b.n) > e.At {
				delete(more.batches[e.Part], id)
			}
		}
		o.tally.Truncations++
	default:
		return fmt.Errorf("event %q", e.Kind)
	}
	return nil
}

// check compares a board after a start with what was promised before it.
func (o *oracle) check(s *survey) error {
	if o.cluster != "" && s.Cluster != o.cluster {
		return fmt.Errorf("the directory is of cluster %s, it was formatted for %s", s.Cluster, o.cluster)
	}
	found := make(map[catalog.TopicID]bool)
	for _, st := range s.Topics {
		found[st.ID] = true
		t := o.m.topics[st.ID]
		switch {
		case o.gone[st.ID]:
			return fmt.Errorf("topic %s is back though its deletion was confirmed", st.Name)
		case t == nil || t.name != st.Name || len(t.parts) != len(st.Parts):
			return fmt.Errorf("the catalog has a topic %s of %d partitions that nobody made", st.Name, len(st.Parts))
		}
		if more := o.more[st.ID]; st.Value != more.value && !slices.Contains(more.tried, st.Value) {
			return fmt.Errorf("topic %s: LOST setting %d, it is %d", st.Name, more.value, st.Value)
		}
		for i, p := range t.parts {
			if st.Parts[i].Offline {
				continue
			}
			if err := p.check(st.Parts[i].Start, st.Parts[i].High, st.Parts[i].log()); err != nil {
				return err
			}
		}
	}
	for _, t := range o.m.order {
		if !found[t.id] && !t.deleting && !o.more[t.id].maybe {
			return fmt.Errorf("topic %s is gone: LOST", t.name)
		}
	}
	for _, id := range s.Strays {
		if t := o.m.topics[id]; t == nil || !t.deleting && !o.more[id].maybe {
			return fmt.Errorf("partitions of topic %s are there, and the catalog does not know it", id)
		}
	}
	for _, loss := range s.Losses {
		if !strings.HasSuffix(loss, partition.ErrSlot.Error()) { // the cut came while it was written: the other one holds
			return fmt.Errorf("recovery tells of damage where there was none: %q", s.Losses)
		}
	}
	return nil
}

// settle takes what was found, and served, as promised from now on.
func (o *oracle) settle(s *survey) {
	found := make(map[catalog.TopicID]bool)
	for _, st := range s.Topics {
		found[st.ID] = true
		t, more := o.m.topics[st.ID], o.more[st.ID]
		t.deleting, more.maybe = false, false
		more.value, more.tried = st.Value, nil
		for i, p := range t.parts {
			if st.Parts[i].Offline {
				o.tally.Offline++
				continue
			}
			o.tally.Survived += len(p.pending)
			cut := p.cutTo
			p.settle(st.Parts[i].Start, st.Parts[i].High, st.Parts[i].log())
			maps.DeleteFunc(more.batches[p.index], func(_ int64, b producerBatch) bool {
				return b.base+int64(b.n) > min(cut, p.end) || b.base < p.start
			})
		}
	}
	for _, t := range slices.Clone(o.m.order) {
		if !found[t.id] {
			o.m.remove(t)
			delete(o.m.topics, t.id)
			o.gone[t.id] = true
		}
	}
}

// clone is an oracle for another future of the same board.
func (o *oracle) clone() *oracle {
	c := &oracle{cluster: o.cluster, m: newModel(), more: make(map[catalog.TopicID]*promises), gone: maps.Clone(o.gone)}
	for _, t := range o.m.order {
		nt := &topic{id: t.id, name: t.name, config: t.config, deleting: t.deleting}
		for _, p := range t.parts {
			np := *p
			np.topic, np.log, np.pending = nt, maps.Clone(p.log), maps.Clone(p.pending)
			nt.parts = append(nt.parts, &np)
		}
		c.m.add(nt)
		more := *o.more[t.id]
		more.tried, more.batches = slices.Clone(more.tried), make(map[int32]map[int64]producerBatch)
		for i, b := range o.more[t.id].batches {
			more.batches[i] = maps.Clone(b)
		}
		c.more[t.id] = &more
	}
	return c
}
