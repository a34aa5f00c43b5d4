package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"millrace/broker/boot"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/quorum"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// Finding is one thing Fsck noticed.
type Finding struct {
	// Damage: acknowledged bytes are not what was written. Otherwise the next start puts it right by itself.
	Damage bool   `json:"damage"`
	Path   string `json:"path"`
	Text   string `json:"text"`
	// Repair says what --repair would do; empty where only the broker, or nobody, can do something.
	Repair string `json:"repair,omitempty"`

	repair func(disk.FS) error
}

// FsckReport is what Fsck found in a data directory.
type FsckReport struct {
	Dir        string    `json:"directory"`
	Partitions int       `json:"partitions"`
	Segments   int       `json:"segments"`
	Batches    int64     `json:"batches"`
	Bytes      int64     `json:"bytes"`
	Frames     int64     `json:"frames"`
	Findings   []Finding `json:"findings"`
}

// findingsMax bounds a report.
const findingsMax = 10_000

// Damaged reports whether a finding is damage.
func (r *FsckReport) Damaged() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Damage })
}

// Repair does what the findings say under Repair and keeps the ones that are left. It refuses, as Fsck does, where a
// broker has opened the directory since.
func (r *FsckReport) Repair(fsys disk.FS) error {
	release, err := unused(r.Dir)
	if err != nil {
		return err
	}
	defer release()
	var failed []error
	r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool {
		if f.repair == nil {
			return false
		}
		err := f.repair(fsys)
		if err != nil {
			failed = append(failed, err)
		}
		return err == nil
	})
	return errors.Join(failed...)
}

// Fsck checks every byte of a data directory that no broker has open: meta.properties, the catalog, both checkpoint
// slots, every journal frame, every batch of every segment, every index entry. It changes nothing. progress, which may be nil, is
// told each partition. Damage is in the report; an error means that the check itself did not work.
func Fsck(fsys disk.FS, dir string, progress func(string)) (*FsckReport, error) {
	c := &fsck{FsckReport: FsckReport{Dir: dir, Findings: []Finding{}}, fs: readOnly{fsys}, progress: progress}
	release, err := unused(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := c.meta(); err != nil {
		return nil, err
	}
	if err := c.catalog(); err != nil {
		return nil, err
	}
	c.slots()
	c.boots()
	c.life()
	c.wear()
	c.links()
	c.identity()
	if err := c.offline(); err != nil {
		return nil, err
	}
	if err := c.frames(); err != nil {
		return nil, err
	}
	if err := c.topics(); err != nil {
		return nil, err
	}
	return &c.FsckReport, nil
}

// unused takes the lock of the directory, where there is one, without making it.
func unused(dir string) (release func(), err error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by a running millrace: stop it first", dir), f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written
}

type fsck struct {
	FsckReport
	fs       disk.FS
	progress func(string)
	image    *catalog.Image // nil where there is none
	slot     partition.Slot // the newest valid one
	checked  bool           // there is one
}

func (c *fsck) found(f Finding) {
	f.Text = strings.TrimPrefix(f.Text, f.Path+": ")
	if len(c.Findings) < findingsMax {
		c.Findings = append(c.Findings, f)
	}
}

// life looks at the file that explains how the last life ended.
func (c *fsck) life() {
	name := filepath.Join(c.Dir, endName)
	if _, err := readLife(c.fs, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: name, Text: err.Error() + "; the next start will not know how the last life ended, and writes it anew"})
	}
}

// wear looks at the file that says what was written to the device.
func (c *fsck) wear() {
	name := filepath.Join(c.Dir, wearFile)
	if _, err := readChecked(c.fs, name, wearFileMax); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: name, Text: err.Error() + "; the next start counts what is written to the device anew"})
	}
}

func (c *fsck) meta() error {
	name := filepath.Join(c.Dir, metaName)
	m, err := ReadMeta(c.fs, c.Dir)
	if errors.Is(err, ErrNotFormatted) || errors.Is(err, ErrNewerFormat) {
		return err
	}
	if err != nil {
		c.found(Finding{Damage: true, Path: name, Text: err.Error()})
		return nil
	}
	for _, one := range []string{metaName, metaCopy} {
		if _, err := readMetaFile(c.fs, filepath.Join(c.Dir, one)); err != nil {
			c.found(Finding{
				Path: filepath.Join(c.Dir, one), Text: "unreadable, the other copy is good: " + err.Error(), Repair: "write it from the other copy",
				repair: func(fsys disk.FS) error { return WriteMeta(fsys, c.Dir, m) },
			})
		}
	}
	return nil
}

func (c *fsck) catalog() error {
	dir := filepath.Join(c.Dir, "quorum")
	r, err := quorum.Check(c.fs, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	c.image = r.Image
	for _, text := range r.Lost {
		c.found(Finding{Damage: true, Path: dir, Text: text})
	}
	for _, text := range r.Spare {
		c.found(Finding{Path: dir, Text: text})
	}
	return nil
}

func (c *fsck) slots() {
	bad, absent := 0, 0
	for n := range 2 {
		slot, err := partition.ReadSlot(c.fs, c.Dir, n)
		switch {
		case err == nil:
			if !c.checked || slot.Sequence > c.slot.Sequence {
				c.slot, c.checked = slot, true
			}
		case errors.Is(err, fs.ErrNotExist):
			absent++
		default:
			// A cut inside the writing of a slot leaves this too: the other one then holds.
			bad++
			c.found(Finding{Path: partition.SlotPath(c.Dir, n), Text: err.Error() + "; the other slot is used"})
		}
	}
	if _, err := c.fs.Stat(partition.BesidePath(c.Dir)); err == nil {
		c.slot, c.checked = partition.Slot{}, false
		c.found(Finding{Path: partition.BesidePath(c.Dir), Text: "the newest checkpoint slot is in FRAM, which fsck does not read"})
		return
	}
	// With one slot only, and that cut short, there never was a checkpoint, and the journal has everything.
	if !c.checked && bad > 0 && absent == 0 {
		c.found(Finding{Damage: true, Path: c.Dir, Text: "no checkpoint slot is valid; the next start walks all active segments"})
	}
}

// boots looks at the boot table. A cut inside the writing of a file of it leaves one that is not whole, and the other holds.
func (c *fsck) boots() {
	bad, whole := boot.Check(c.fs, c.Dir)
	for _, err := range bad {
		text := err.Error() + "; the other file is used"
		if !whole {
			text = err.Error() + "; what the time was when records were stamped is not known any more"
		}
		c.found(Finding{Damage: !whole, Path: c.Dir, Text: text})
	}
}

func (c *fsck) topics() error {
	root := filepath.Join(c.Dir, "topics")
	dirs, err := c.fs.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		if !d.IsDir() || strings.HasSuffix(d.Name(), segment.DeletedSuffix) {
			continue
		}
		if c.progress != nil {
			c.progress(d.Name())
		}
		if err := c.partition(filepath.Join(root, d.Name())); err != nil {
			return fmt.Errorf("%s: %w", d.Name(), err)
		}
		c.Partitions++
	}
	return nil
}

func (c *fsck) partition(dir string) error {
	names, err := c.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	var bases []int64
	swaps := make(map[int64]int64) // what waits to take the place of others, and where that ends
	for _, n := range names {
		if strings.HasSuffix(n.Name(), segment.CleanedSuffix) {
			c.found(Finding{Path: filepath.Join(dir, n.Name()), Text: "a compaction was not finished; the next start removes it"})
		}
		if name, swap := strings.CutSuffix(n.Name(), segment.SwapSuffix); swap {
			c.found(Finding{Path: filepath.Join(dir, n.Name()), Text: "compacted, and not yet in the place of what it was made from; the next start does that"})
			if base, ok := segment.ParseName(name, segment.LogSuffix); ok {
				if swaps[base], err = c.reach(dir, base); err != nil {
					return err
				}
			}
		}
		if base, ok := segment.ParseName(n.Name(), segment.LogSuffix); ok {
			bases = append(bases, base)
		}
		if strings.HasSuffix(n.Name(), ".snapshot") {
			if err := c.snapshot(filepath.Join(dir, n.Name())); err != nil {
				return err
			}
		}
	}
	if _, err := segment.ReadEpochs(c.fs, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: filepath.Join(dir, segment.EpochsName), Text: err.Error() + "; they are read from the log anew"})
	}
	if _, err := segment.ReadCauses(c.fs, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: filepath.Join(dir, segment.CausesName), Text: err.Error() + "; why the oldest records went is not known any more"})
	}
	flushed := c.flushed(dir)
	for base, end := range swaps { // what it was made from may be gone already, but for the first
		bases = slices.DeleteFunc(bases, func(b int64) bool { return b > base && b < end })
	}
	end := int64(-1) // of the segment before
	for i, base := range bases {
		vouched := base <= flushed.Segment && flushed.Position > 0 && base > flushed.Start
		if end >= 0 && end < base && vouched {
			c.found(Finding{Damage: true, Path: dir, Text: fmt.Sprintf("offsets %d to %d are missing before segment %d", end, base-1, base)})
		}
		if end > base && vouched {
			c.found(Finding{Damage: true, Path: dir, Text: fmt.Sprintf("offsets %d to %d are in segment %d and in the one before", base, end-1, base)})
		}
		next := int64(-1)
		if i+1 < len(bases) {
			next = bases[i+1]
		}
		open := segment.Open
		if _, ok := swaps[base]; ok {
			open = segment.OpenSwap
		}
		if end, err = c.segment(open, dir, base, next, flushed); err != nil {
			return err
		}
	}
	return nil
}

// flushed says up to where the checkpoint vouches for the segments of a partition: below it, bytes that do not check
// are damage; above it the journal has them.
func (c *fsck) flushed(dir string) (at partition.SlotEntry) {
	id, err := segment.ReadMetadata(c.fs, dir)
	if err != nil {
		c.found(Finding{Path: filepath.Join(dir, "partition.metadata"), Text: err.Error()})
		return at
	}
	name, _, ok := splitPartition(filepath.Base(dir))
	if ok && c.image != nil && c.image.TopicByID(id) == nil {
		if t := c.image.Topic(name); t != nil {
			c.found(Finding{
				Path: filepath.Join(dir, segment.MetadataName),
				Text: fmt.Sprintf("topic id %s, the catalog knows %s as %s", catalog.TopicID(id), name, t.ID),
			})
			id = t.ID
		}
	}
	for _, e := range c.slot.Partitions {
		if e.Topic == catalog.TopicID(id) && strings.HasSuffix(dir, fmt.Sprintf("-%d", e.Partition)) {
			return e
		}
	}
	return at
}

func (c *fsck) snapshot(path string) error {
	raw, err := readWhole(c.fs, path)
	if err != nil {
		return err
	}
	if _, err := segment.ParseSnapshot(raw); err != nil {
		c.found(Finding{
			Path: path, Text: err.Error() + "; producer state is rebuilt from the log", Repair: "remove it",
			repair: func(fsys disk.FS) error { return fsys.Remove(path) },
		})
	}
	return nil
}

// reach is the offset after the last batch of a segment that waits for its place.
func (c *fsck) reach(dir string, base int64) (end int64, err error) {
	s, err := segment.OpenSwap(c.fs, dir, base, segment.Config{})
	if err != nil {
		return 0, err
	}
	_, err = s.Scan(0, func(b record.Batch, _ int64) error {
		end = b.NextOffset()
		return nil
	})
	return end, errors.Join(err, s.Close())
}

// opener opens a segment by the name it has.
type opener func(disk.FS, string, int64, segment.Config) (*segment.Segment, error)

// segment checks one segment and tells the offset after its last batch. next is the base of the one behind it, or -1.
func (c *fsck) segment(open opener, dir string, base, next int64, flushed partition.SlotEntry) (end int64, err error) {
	s, err := open(c.fs, dir, base, segment.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c.Segments++
	c.Bytes += s.Size()
	end = base
	below := next >= 0 && next <= flushed.Start // retention has let it go, and what is left of it is nobody's
	// The same where it was the last: a recovery that was cut has left a new file of that name.
	if base == flushed.Segment && s.Size() < flushed.Position && !below && flushed.Next > flushed.Start {
		c.found(Finding{Damage: true, Path: s.Path(), Text: fmt.Sprintf("%d bytes, the checkpoint saw %d", s.Size(), flushed.Position)})
	}
	index, err := c.index(dir, base)
	if err != nil {
		return 0, err
	}
	times, err := c.times(dir, base)
	if err != nil {
		return 0, err
	}
	topics, err := c.topicIndex(dir, base)
	if err != nil {
		return 0, err
	}
	for from := int64(0); from < s.Size(); {
		valid, err := s.Scan(from, func(b record.Batch, position int64) error {
			c.Batches++
			index.pass(b, position)
			times.pass(b)
			topics.pass(b, position)
			end = b.NextOffset()
			return nil
		})
		if err != nil {
			return 0, err
		}
		if valid == s.Size() {
			break
		}
		d, err := s.Resync(valid, s.Size())
		if err != nil {
			return 0, err
		}
		vouched := base < flushed.Segment || base == flushed.Segment && valid < flushed.Position
		text := d.Error()
		after := d.NextOffset
		if after < 0 {
			after = next
		}
		switch {
		case after >= 0 && after <= flushed.Start: // replay does not write there
			vouched = false
			text += "; below the start: nobody reads it any more"
		case !vouched:
			text += "; after the checkpoint: the journal has what was acknowledged"
		}
		c.found(Finding{Damage: vouched, Path: s.Path(), Text: text})
		if d.NextOffset < 0 {
			break
		}
		from = d.Next
	}
	for path, wrong := range map[string]int{index.path: index.wrong(), times.path: times.wrong(), topics.path: topics.wrong()} {
		if wrong > 0 {
			c.found(Finding{
				Path: path, Text: fmt.Sprintf("%d index entries do not fit the log", wrong), Repair: "remove it; it is rebuilt from the log",
				repair: func(fsys disk.FS) error { return fsys.Remove(path) },
			})
		}
	}
	return end, nil
}

// splitPartition takes a directory's name apart: topic and partition.
func splitPartition(name string) (topic string, index int64, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return "", 0, false
	}
	index, err := strconv.ParseInt(name[i+1:], 10, 32)
	return name[:i], index, err == nil
}
