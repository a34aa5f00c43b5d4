package partition

import (
	"errors"
	"fmt"
	"path/filepath"

	"millrace/broker/disk"
	"millrace/broker/journal"
)

var (
	pointQuarantine    = disk.NewPoint("quarantine.file")
	pointQuarantineDir = disk.NewPoint("quarantine.directory")
)

// quarantine keeps an entry of a topic nobody knows, for whoever finds out what it was. The file's name is the index of
// the first frame, so that a recovery that is cut short and repeated writes the same file.
func (r *recovery) quarantine(frame uint64, e *journal.Entry) error {
	dir := filepath.Join(r.s.cfg.Dir, "quarantine")
	if r.aside == nil {
		if err := r.s.cfg.FS.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		var err error
		if r.aside, err = createEntries(r.s.cfg.FS, filepath.Join(dir, fmt.Sprintf("%016x%s", frame, EntriesSuffix)), entriesHead{}); err != nil {
			return err
		}
	}
	r.report.Quarantined++
	if r.report.Quarantined <= maxLost {
		r.lost("frame %d: %s of topic id %x partition %d, offset %d, is of no known topic and is kept in %s",
			frame, e.Kind, e.Topic, e.Partition, e.Base, r.aside.file.Name())
	}
	return r.aside.add(frame, e)
}

// closeQuarantine makes what was set aside durable: the checkpoint to come lets the journal forget it.
func (r *recovery) closeQuarantine() error {
	if r.aside == nil {
		return nil
	}
	if err := r.aside.finish(pointQuarantine); err != nil {
		return err
	}
	fs, dir := r.s.cfg.FS, r.s.cfg.Dir
	return errors.Join(fs.SyncDir(filepath.Join(dir, "quarantine"), pointQuarantineDir), fs.SyncDir(dir, pointQuarantineDir))
}
