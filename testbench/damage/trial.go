package damage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
	"millrace/testbench/fixture"
)

// trial is one damaged directory and the broker on it.
type trial struct {
	o      *original
	injury injury
	dir    string
	seen   *journalist
	// kafka has a Kafka client read as well, again has the broker stopped and started once more.
	kafka, again bool

	lost  int  // offsets
	found bool // by fsck
}

// run goes through everything a board goes through after damage. The error names the broken promise.
func (t *trial) run() (err error) {
	if err := fixture.CopyTree(t.dir, t.o.dir); err != nil {
		return err
	}
	if err := t.injury.inflict(t.dir, t.o.files[t.injury.path]); err != nil {
		return err
	}
	if err := t.fsck(); err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	t.seen = &journalist{}
	b, err := t.open()
	if err != nil {
		return fmt.Errorf("does not start: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	served, err := t.read(b)
	if err != nil {
		return err
	}
	if err := t.catalog(b); err != nil {
		return err
	}
	if t.kafka {
		if err := t.consume(b, served); err != nil {
			return fmt.Errorf("a Kafka client: %w", err)
		}
	}
	if err := t.produceAgain(b); err != nil {
		return err
	}
	if err := t.append(b); err != nil {
		return err
	}
	if !t.again {
		return nil
	}
	if err := b.Close(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if b, err = t.open(); err != nil {
		return fmt.Errorf("does not start a second time: %w", err)
	}
	return t.same(b, served)
}

func (t *trial) open() (*broker.Broker, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return broker.Open(ctx, broker.Config{Settings: fixture.Settings(t.dir), Logger: slog.New(t.seen)})
}

// fsck must find the damage and change nothing.
func (t *trial) fsck() error {
	before, err := digest(t.dir)
	if err != nil {
		return err
	}
	report, err := broker.Fsck(disk.OS{}, t.dir, nil)
	if err != nil {
		return err
	}
	after, err := digest(t.dir)
	if err != nil {
		return err
	}
	if before != after {
		return errors.New("the directory was changed")
	}
	t.found = !slices.Equal(t.o.told(report, t.dir), t.o.findings)
	if !t.found && t.mustShow() {
		return errors.New("nothing was found")
	}
	return nil
}

// digest is a hash over the names and contents of a tree.
func digest(dir string) (sum [sha256.Size]byte, err error) {
	files, err := fixture.Files(dir)
	if err != nil {
		return sum, err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%q %d\n", name, len(files[name]))
		h.Write(files[name])
	}
	h.Sum(sum[:0])
	return sum, nil
}

// mustShow says whether the damage leaves a trace that something in the directory contradicts.
func (t *trial) mustShow() bool {
	i := t.injury
	if i.zeros {
		return false
	}
	switch i.kind {
	case walFile, raftLog:
		if i.kind == walFile && i.from >= t.o.frames[i.path] {
			return false
		}
		// Cut exactly between two writes, the end looks like one that was never longer, and a file that begins later like
		// one whose front the checkpoint has let go.
		return i.how == "flip" || i.how == "cut out" && i.from > 0
	case log:
		if i.how == "flip" {
			// The first 16 bytes of a batch are outside its checksum, and not always contradicted by its neighbours.
			return !slices.ContainsFunc(t.o.places[i.path], func(p place) bool { return i.from >= p.from && i.from < p.from+16 })
		}
		// What a live journal has as well may end anywhere between two batches, and less than a batch's header behind
		// that is what a power cut leaves.
		return i.how == "cut out" && i.size-i.to >= record.HeaderSize || t.o.clean
	case index:
		// With an entry less it is only coarser. After a power cut an index may be ahead of its log anyway.
		return i.how == "flip" && !t.o.power
	case timeIndex:
		return i.how == "flip" && i.from%12 < 8 && !t.o.power // another offset may be of the same time
	case topicIndex:
		return i.how == "flip" && !t.o.power // what is not there has to be read
	case metadata:
		// A blank less is still the same topic id.
		was, wasErr := segment.ReadMetadata(disk.OS{}, filepath.Join(t.o.dir, filepath.Dir(i.path)))
		is, err := segment.ReadMetadata(disk.OS{}, filepath.Join(t.dir, filepath.Dir(i.path)))
		return err != nil || wasErr != nil || is != was
	case epochs:
		return false // numbers without a checksum; nothing that is served depends on them
	}
	return true
}

// read reads every partition and compares with what was acknowledged.
func (t *trial) read(b *broker.Broker) (map[string][]fixture.Batch, error) {
	touched := t.o.touched(t.injury)
	served := make(map[string][]fixture.Batch)
	for _, want := range t.o.manifest.Partitions {
		p := find(b, want)
		if p == nil {
			return nil, fmt.Errorf("%s is gone", want)
		}
		list, err := fixture.Read(p)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
		served[want.String()] = list
		if err := t.compare(want, p, list, touched); err != nil {
			return nil, err
		}
	}
	return served, nil
}

func find(b *broker.Broker, want *fixture.Partition) *partition.Partition {
	parts, ok := b.Topic(want.Topic)
	if !ok || int(want.Index) >= len(parts) {
		return nil
	}
	return parts[want.Index]
}

// compare holds what is served against what was acknowledged.
func (t *trial) compare(want *fixture.Partition, p *partition.Partition, list []fixture.Batch, touched []place) error {
	there := make(map[int64]bool)
	for _, have := range list {
		k := slices.IndexFunc(want.Batches, func(b fixture.Batch) bool { return b.Base == have.Base })
		switch {
		case k >= 0 && bytes.Equal(want.Batches[k].Bytes, have.Bytes):
			for o := have.Base; o < have.Next; o++ {
				there[o] = true
			}
		case k < 0 && have.Base < want.Start:
			// Damage may have taken the note that the start was moved; what lies below it is checked where it is written.
		case !isFiller(have.Bytes):
			return fmt.Errorf("%s: a wrong batch is served at offset %d to %d", want, have.Base, have.Next-1)
		}
	}
	var lost []int64
	for _, b := range want.Batches {
		for o := max(b.Base, want.Start); o < b.Next; o++ {
			if there[o] {
				continue
			}
			if !mayLose(touched, want.String(), o) {
				return fmt.Errorf("%s: offset %d is lost, and the damage did not touch it; start %d, end %d, acknowledged %d to %d; %s",
					want, o, p.Start(), p.High(), want.Start, want.End-1, t.seen)
			}
			lost = append(lost, o)
		}
	}
	t.lost += len(lost)
	if len(lost) > 0 && !t.traceless() && !t.seen.named(want.String(), lost[0], lost[len(lost)-1]) {
		return fmt.Errorf("%s: offsets %d to %d are lost and nobody says so: %s", want, lost[0], lost[len(lost)-1], t.seen)
	}
	if p.Start() > want.Start && p.Start() != p.High() && !mayLose(touched, want.String(), want.Start) {
		return fmt.Errorf("%s: the start moved from %d to %d", want, want.Start, p.Start())
	}
	return nil
}

// traceless says whether what the damage took was the only copy, so that nothing is left to tell whose records they
// were: frames at the end of a journal whose segments a power cut has emptied. The journal says how much it lost.
func (t *trial) traceless() bool {
	if !t.o.power || t.injury.kind != walFile {
		return false
	}
	return t.injury.how == "cut off" || t.seen.says("journal frames") || t.seen.says("the journal ends in bytes")
}

// isFiller says whether a batch stands in for lost records: a control batch that every client steps over.
func isFiller(raw []byte) bool {
	b := record.Batch(raw)
	if !b.Control() {
		return false
	}
	for r, err := range b.Records(1 << 20) {
		return err == nil && (len(r.Key) < 4 || binary.BigEndian.Uint16(r.Key[2:]) == 0x7fff)
	}
	return true
}

// catalog asks for what was known about topics: all of it, where the catalog's own files are whole.
func (t *trial) catalog(b *broker.Broker) error {
	img := b.Image()
	for _, id := range t.o.manifest.Deleted {
		for topic := range img.Topics() {
			// The deletion was the catalog's newest command, and the damage took it: then the topic is back, empty.
			forgotten := t.injury.kind == raftLog && topic.Name != "again"
			if parts, ok := b.Topic(topic.Name); topic.ID.String() == id && (!forgotten || !ok || parts[0].End() > 0) {
				return fmt.Errorf("the deleted topic %s is back", topic.Name)
			}
		}
	}
	hurt := t.injury.kind == raftLog || t.injury.kind == catalogSnap
	for _, want := range t.o.manifest.Topics {
		topic := img.Topic(want.Name)
		switch {
		case topic == nil:
			return fmt.Errorf("topic %s is not in the catalog", want.Name)
		case topic.ID.String() != want.ID:
			return fmt.Errorf("topic %s has another id", want.Name)
		case len(topic.Partitions) != want.Partitions:
			return fmt.Errorf("topic %s has %d partitions, had %d", want.Name, len(topic.Partitions), want.Partitions)
		case hurt:
			continue
		}
		for key, value := range want.Config {
			if topic.Config[key] != value {
				return fmt.Errorf("topic %s: %s is %q, was %q", want.Name, key, topic.Config[key], value)
			}
		}
	}
	for _, p := range t.o.manifest.Partitions {
		for _, known := range p.Producers {
			if known.ID >= img.ProducerIDNext() {
				return fmt.Errorf("producer id %d is in use by %s and would be given out again: the next is %d", known.ID, p, img.ProducerIDNext())
			}
		}
	}
	if id := b.Meta().ClusterID; id != t.o.manifest.ClusterID {
		return fmt.Errorf("this is cluster %s now", id)
	}
	return nil
}

// produceAgain sends the last batch of each idempotent producer once more, as after a lost answer: it must be answered
// with its old offset and not be stored twice, unless damage took the batch itself.
func (t *trial) produceAgain(b *broker.Broker) error {
	touched := t.o.touched(t.injury)
	for _, want := range t.o.manifest.Partitions {
		p := find(b, want)
		for _, known := range want.Producers {
			if mayLose(touched, want.String(), known.Base) {
				continue
			}
			r := fixture.Append(p, known.Batch())
			if r.Err != nil {
				return fmt.Errorf("%s: the last batch of producer %d again: %w", want, known.ID, r.Err)
			}
			if r.Base != known.Base {
				return fmt.Errorf("%s: the last batch of producer %d lies at offset %d and was stored again at %d: %s",
					want, known.ID, known.Base, r.Base, t.seen)
			}
		}
	}
	return nil
}

// append puts one more batch into every partition and reads it back.
func (t *trial) append(b *broker.Broker) error {
	for _, want := range t.o.manifest.Partitions {
		p := find(b, want)
		builder := record.NewBuilder(record.None)
		builder.Add(time.Now().UnixMilli(), []byte("after"), []byte("the damage"), nil)
		batch, err := builder.Build()
		if err != nil {
			return err
		}
		end := p.End()
		r := fixture.Append(p, batch)
		if r.Err != nil {
			return fmt.Errorf("append to %s: %w", p, r.Err)
		}
		if r.Base != end || p.High() != end+1 {
			return fmt.Errorf("append to %s at offset %d, log ended at %d, ends at %d now", p, r.Base, end, p.High())
		}
		span, err := p.Read(r.Base, 1)
		if err != nil {
			return fmt.Errorf("read what was appended to %s: %w", p, err)
		}
		raw, err := span.Append(nil)
		span.Release()
		if err != nil || !bytes.Equal(raw, batch) {
			return fmt.Errorf("what was appended to %s at %d reads as %d bytes of something else: %w", p, r.Base, len(raw), err)
		}
	}
	return nil
}

// same asks whether a second start serves what the first one did, and what was appended since.
func (t *trial) same(b *broker.Broker, served map[string][]fixture.Batch) error {
	for _, want := range t.o.manifest.Partitions {
		p := find(b, want)
		if p == nil {
			return fmt.Errorf("%s is gone after a second start", want)
		}
		list, err := fixture.Read(p)
		if err != nil {
			return fmt.Errorf("read %s after a second start: %w", p, err)
		}
		before := served[want.String()]
		if len(list) != len(before)+1 {
			return fmt.Errorf("%s: a second start serves %d batches, the first one served %d and one was added: %s", want, len(list), len(before), t.seen)
		}
		for i := range before {
			if !bytes.Equal(list[i].Bytes, before[i].Bytes) {
				return fmt.Errorf("%s: a second start serves another batch at offset %d", want, before[i].Base)
			}
		}
	}
	return nil
}

// journalist keeps what the broker says about losses.
type journalist struct {
	mu    sync.Mutex
	lines []string
}

// Enabled is true for what is worth a look.
func (j *journalist) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle keeps the line.
func (j *journalist) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&line, " %s=%v", a.Key, a.Value)
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (j *journalist) WithAttrs([]slog.Attr) slog.Handler { return j }

// WithGroup implements slog.Handler.
func (j *journalist) WithGroup(string) slog.Handler { return j }

func (j *journalist) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return "the log says: " + strings.Join(j.lines, " | ")
}

// says reports whether a line contains text.
func (j *journalist) says(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.lines, func(line string) bool { return strings.Contains(line, text) })
}

// named says whether a line names the partition and an offset at or around which records are lost.
func (j *journalist) named(partition string, first, last int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range j.lines {
		if !strings.Contains(line, partition) {
			continue
		}
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r < '0' || r > '9' }) {
			if n, err := strconv.ParseInt(word, 10, 64); err == nil && n >= first && n <= last+1 {
				return true
			}
		}
	}
	return false
}

// remove takes the trial's directory away.
func (t *trial) remove() error { return os.RemoveAll(t.dir) }
