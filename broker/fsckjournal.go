package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/partition"
)

func (c *fsck) frames() error {
	dir := filepath.Join(c.Dir, "journal")
	r, err := journal.Scan(c.fs, dir, c.later)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Frames = r.Frames
	fronted, err := journal.Marked(c.fs, dir)
	if err != nil {
		return err
	}
	if fronted {
		c.found(Finding{Path: dir, Text: "the newest frames may be in FRAM only, which fsck does not read; the next start takes them from there"})
	}
	if r.TornBytes > 0 {
		c.found(Finding{Path: dir, Text: fmt.Sprintf("%d bytes after the last frame: a commit that was never acknowledged", r.TornBytes)})
	}
	if r.DamagedBytes > 0 {
		c.found(Finding{Damage: !fronted, Path: dir, Text: fmt.Sprintf("%d bytes between valid frames are unreadable", r.DamagedBytes)})
	}
	for _, g := range r.Gaps {
		if c.checked && r.ID == c.slot.Mark.ID {
			// Of the files a checkpoint lets go, a cut leaves any.
			g.From = max(g.From, c.slot.Mark.Index+1)
		}
		if g.From > g.To {
			continue
		}
		c.found(Finding{Damage: !fronted, Path: dir, Text: fmt.Sprintf("frames %d to %d are missing", g.From, g.To)})
	}
	if first := c.slot.Mark.Index + 1; r.Frames > 0 && c.checked && r.ID == c.slot.Mark.ID && r.First > first {
		c.found(Finding{Damage: true, Path: dir, Text: fmt.Sprintf("frames %d to %d after the checkpoint are missing", first, r.First-1)})
	}
	return nil
}

// offline looks at what is kept of partitions that could not be opened.
func (c *fsck) offline() error {
	dir := filepath.Join(c.Dir, partition.OfflineDir)
	names, err := c.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		if !strings.HasSuffix(name.Name(), partition.EntriesSuffix) {
			continue
		}
		path, n := filepath.Join(dir, name.Name()), 0
		damaged, err := partition.ReadEntries(c.fs, path, func(_ uint64, e *journal.Entry) error {
			n++
			c.change(e)
			return nil
		})
		switch {
		case errors.Is(err, partition.ErrEntries):
			c.found(Finding{Damage: true, Path: path, Text: err.Error()})
		case err != nil:
			return err
		case damaged > 0:
			c.found(Finding{Damage: true, Path: path, Text: fmt.Sprintf("%d of %d entries of a partition that is offline are damaged", damaged, damaged+n)})
		default:
			c.found(Finding{Path: path, Text: fmt.Sprintf("%d entries wait for a partition that is offline; the broker tries it again by itself", n)})
		}
	}
	return err
}

// later takes from what the checkpoint vouches for what the journal has cut or dropped since.
func (c *fsck) later(f journal.FrameInfo) error {
	if f.Index <= c.slot.Mark.Index {
		return nil
	}
	for i := range f.Entries {
		c.change(&f.Entries[i])
	}
	return nil
}

func (c *fsck) change(e *journal.Entry) {
	for n := range c.slot.Partitions {
		p := &c.slot.Partitions[n]
		switch {
		case p.Topic != catalog.TopicID(e.Topic) || p.Partition != e.Partition:
		case e.Kind == journal.StartMoved:
			p.Start = max(p.Start, e.Base)
		case e.Kind == journal.Truncate && (e.Segment < p.Segment || e.Segment == p.Segment && e.Position < p.Position):
			p.Segment, p.Position, p.Next, p.Start = e.Segment, e.Position, e.Base, min(p.Start, e.Base)
		}
	}
}
