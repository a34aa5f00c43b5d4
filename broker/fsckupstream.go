package broker

import (
	"errors"
	"io/fs"
	"path/filepath"

	"millrace/bridge/upstream/contract"
)

// links looks at the files of links to other clusters.
func (c *fsck) links() {
	name := filepath.Join(c.Dir, linksDir, heldFile)
	if _, err := readChecked(c.fs, name, heldMax); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: name, Text: err.Error() + "; the next start does not know which links were paused: none is"})
	}
	entries, err := c.fs.ReadDir(filepath.Join(c.Dir, linksDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.found(Finding{Path: filepath.Join(c.Dir, linksDir), Text: err.Error()})
	}
	for _, e := range entries {
		name := filepath.Join(c.Dir, linksDir, e.Name())
		if filepath.Ext(name) == deliveredFile {
			if _, err := readChecked(c.fs, name, deliveredMax); err != nil {
				c.found(Finding{Path: name, Text: err.Error() + "; the next start holds what was delivered until the link has a connection"})
			}
		}
		if filepath.Ext(name) == cursorsFile {
			if _, err := readChecked(c.fs, name, deliveredMax); err != nil {
				c.found(Finding{Path: name, Text: err.Error() + "; the next start reads all cursors over the link, and does not know which partitions were stopped"})
			}
		}
		if filepath.Ext(name) != dayFile {
			continue
		}
		if err := contract.CheckBudget(c.fs, name); err != nil {
			c.found(Finding{Path: name, Text: err.Error()})
		}
	}
}
