package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

// Checked is what Check found in the directory of a catalog that no broker has open.
type Checked struct {
	// Image is the catalog as the next Open would have it.
	Image *catalog.Image
	// Lost are sentences about damage that costs commands of the catalog, Spare about damage that costs nothing: what it
	// took exists a second time, or was never confirmed.
	Lost, Spare []string
}

// Check reads every byte of a catalog's directory and changes nothing. A directory that does not exist is
// fs.ErrNotExist; damage is no error.
func Check(fs disk.FS, dir string) (Checked, error) {
	c := Checked{Image: &catalog.Image{}}
	if err := c.vote(fs, dir); err != nil {
		return c, err
	}
	covered, err := c.snapshots(fs, dir)
	if err != nil {
		return c, err
	}
	return c, c.log(fs, filepath.Join(dir, logDir), covered)
}

func (c *Checked) vote(fs disk.FS, dir string) error {
	b, size, err := readFile(fs, filepath.Join(dir, voteName), 2*voteSlot)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // the log has the term
	case err != nil:
		return err
	case size != voteSlot+voteContent:
		c.Spare = append(c.Spare, fmt.Sprintf("the vote file has %d bytes, want %d", size, voteSlot+voteContent))
	}
	b = append(b, make([]byte, 2*voteSlot-len(b))...)
	for slot := range 2 {
		p := b[slot*voteSlot:][:voteSlot]
		if _, ok := decodeVote(p[:voteContent]); !ok {
			c.Spare = append(c.Spare, fmt.Sprintf("slot %d of the vote file is damaged; the other one, or the log, has the term", slot))
		} else if len(bytes.Trim(p[voteContent:], "\x00")) > 0 {
			c.Spare = append(c.Spare, fmt.Sprintf("there is something behind slot %d of the vote file; nobody reads it", slot))
		}
	}
	return nil
}

// snapshots takes over the newest whole one and returns the index it covers.
func (c *Checked) snapshots(fs disk.FS, dir string) (covered uint64, err error) {
	files, err := fs.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	s := snapshotStore{fs: fs, dir: dir}
	for _, f := range slices.Backward(files) {
		if !strings.HasSuffix(f.Name(), snapshotSuffix) {
			continue
		}
		meta, data, err := s.read(f.Name())
		var img *catalog.Image
		if err == nil {
			img, err = catalog.DecodeImage(data)
		}
		switch {
		case errors.Is(err, catalog.ErrCorrupt):
			c.Spare = append(c.Spare, fmt.Sprintf("snapshot %s: %v; the older one and the log say the same", f.Name(), err))
		case err != nil:
			return 0, fmt.Errorf("catalog snapshot %s: %w", f.Name(), err)
		case covered == 0:
			c.Image, covered = img, meta.Index
		}
	}
	return covered, nil
}

// log applies the commands behind covered and looks at those before it too, as far back as the log goes.
func (c *Checked) log(fs disk.FS, path string, covered uint64) error {
	if _, err := fs.Stat(path); errors.Is(err, os.ErrNotExist) {
		if covered > 0 {
			c.Lost = append(c.Lost, new(scanned).short(covered))
		}
		return nil
	}
	r := replay{covered: covered, image: c.Image}
	needed, err := scanLog(fs, path, covered, r.apply)
	if err != nil {
		return err
	}
	c.Image = r.image
	c.Spare = append(c.Spare, r.refused...)
	if len(needed.damage) == 0 && needed.last < covered {
		c.Lost = append(c.Lost, needed.short(covered))
	}
	c.Lost = append(c.Lost, needed.damage...)
	first, err := firstEntry(fs, path)
	if err != nil {
		return err
	}
	all, err := scanLog(fs, path, min(covered, first-1), func(*raft.Log) error { return nil })
	if err != nil {
		return err
	}
	for _, d := range all.damage {
		if !slices.Contains(needed.damage, d) {
			c.Spare = append(c.Spare, d+"; a snapshot has them")
		}
	}
	if torn := max(needed.torn, all.torn); torn > 0 {
		c.Spare = append(c.Spare, fmt.Sprintf("%d bytes behind entry %d are no entry: a write that was not confirmed, or the log's end is damaged",
			torn, max(needed.last, covered)))
	}
	return nil
}

// firstEntry is the index the oldest file of the log begins with, 1 where there is none.
func firstEntry(fs disk.FS, path string) (uint64, error) {
	files, err := fs.ReadDir(path)
	if err != nil {
		return 0, err
	}
	for _, f := range files { // sorted, and names of one width sort as numbers
		if first, err := strconv.ParseUint(f.Name(), 10, 64); err == nil && len(f.Name()) == 20 && first > 0 {
			return first, nil
		}
	}
	return 1, nil
}
