package damage

import (
	"fmt"
	"path/filepath"
	"strings"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
	"millrace/broker/segment"
	"millrace/testbench/fixture"
)

// original is an undamaged data directory and what is known about every byte of it.
type original struct {
	name     string
	dir      string
	manifest *fixture.Manifest
	files    map[string][]byte
	places   map[string][]place // where records lie: by file, which is a log or a journal's
	frames   map[string]int64   // where a journal file's last frame ends: behind it lies what nobody reads any more
	clean    bool               // stopped by Close
	power    bool               // stopped by a power cut: the journal is the only copy of the newest records
	findings []string           // of fsck without any damage
}

// told is what fsck found, without the names of directories.
func (o *original) told(r *broker.FsckReport, dir string) (list []string) {
	for _, f := range r.Findings {
		list = append(list, strings.ReplaceAll(f.Path+": "+f.Text, dir, ""))
	}
	return list
}

// place is a batch, or a journal entry, and the bytes it takes: damage there may cost those records and no other.
type place struct {
	from, to   int64 // bytes
	partition  string
	base, next int64 // offsets; equal for an entry without records
	pointed    bool  // a batch that a frame of the journal points at
}

// survey learns where everything lies.
func survey(name, dir string, m *fixture.Manifest) (*original, error) {
	o := &original{name: name, dir: dir, manifest: m, places: make(map[string][]place), frames: make(map[string]int64)}
	var err error
	if o.files, err = fixture.Files(dir); err != nil {
		return nil, err
	}
	topics := make(map[catalog.TopicID]string)
	for path, raw := range o.files {
		k := kindOf(path)
		if strings.HasPrefix(string(k), "unknown") {
			return nil, fmt.Errorf("%s: %s", name, k)
		}
		partition := filepath.Base(filepath.Dir(path))
		switch k {
		case log:
			if err := o.log(path, partition, raw); err != nil {
				return nil, err
			}
		case metadata:
			id, err := segment.ReadMetadata(disk.OS{}, filepath.Join(dir, filepath.Dir(path)))
			if err != nil {
				return nil, err
			}
			topics[id] = partition[:strings.LastIndexByte(partition, '-')]
		}
	}
	_, err = journal.Scan(disk.OS{}, filepath.Join(dir, "journal"), func(f journal.FrameInfo) error {
		path := filepath.Join("journal", f.File)
		o.frames[path] = f.Offset + int64(f.Size)
		for _, e := range f.Entries {
			topic, ok := topics[e.Topic]
			if !ok {
				continue // a deleted one
			}
			p := place{
				from: f.Offset - 8, to: f.Offset + int64(f.Size), // the wal's length stands before the frame
				partition: fmt.Sprintf("%s-%d", topic, e.Partition), base: e.Base, next: e.Base,
			}
			if e.Kind == journal.Append || e.Kind == journal.Pointer {
				p.next = o.endOf(p.partition, e.Base, int64(e.Length))
			}
			o.places[path] = append(o.places[path], p)
			if e.Kind == journal.Pointer {
				in := o.places[filepath.Join("topics", p.partition, fmt.Sprintf("%020d%s", e.Segment, segment.LogSuffix))]
				for k := range in {
					in[k].pointed = in[k].pointed || in[k].base >= e.Base
				}
			}
		}
		return nil
	})
	return o, err
}

// log notes the batches of a log.
func (o *original) log(path, partition string, raw []byte) error {
	at := int64(0)
	for rest := raw; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		end := at + int64(len(b))
		o.places[path] = append(o.places[path], place{from: at, to: end, partition: partition, base: b.BaseOffset(), next: b.NextOffset()})
		at, rest = end, after
	}
	return nil
}

// endOf is the offset after the batches that begin with base and take so many bytes.
func (o *original) endOf(partition string, base, length int64) int64 {
	for _, p := range o.manifest.Partitions {
		if p.String() != partition {
			continue
		}
		for _, b := range p.Batches {
			if b.Base >= base && length > 0 {
				length -= int64(len(b.Bytes))
				base = b.Next
			}
		}
	}
	return base
}

// touched are the records that lie where the damage is, which is all that may be lost: none where the file holds no
// records. Recovery brings back most of them all the same, since a live journal and its segments hold them twice.
func (o *original) touched(i injury) (list []place) {
	i.from, i.to = i.alike(o.files[i.path])
	for _, p := range o.places[i.path] {
		// Base offsets are outside a batch's checksum: one that follows missing batches looks like one with a wrong number.
		// And where bytes are missing everything behind them lies elsewhere than the journal says: what it holds itself is
		// written again, what it only points at is not found.
		follows := i.kind == log && i.how == "cut out" && (p.from == i.to || p.from > i.to && p.pointed)
		if p.from < i.to && p.to > i.from || follows {
			list = append(list, p)
		}
	}
	return list
}

// mayLose says whether the loss of one offset of a partition is within the bound.
func mayLose(touched []place, partition string, offset int64) bool {
	for _, p := range touched {
		if p.partition == partition && offset >= p.base && offset < p.next {
			return true
		}
	}
	return false
}
