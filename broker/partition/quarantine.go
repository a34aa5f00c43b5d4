package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
)

var (
	pointQuarantine    = disk.NewPoint("quarantine.file")
	pointQuarantineDir = disk.NewPoint("quarantine.directory")
)

// quarantine is the file that keeps journal entries of topics nobody knows, for whoever finds out what they were. The
// name is the index of the first frame, so that a recovery that is cut short and repeated writes the same file.
type quarantine struct {
	fs   disk.FS
	dir  string
	file disk.File
	size int64
}

// quarantine keeps e. Layout: length and CRC32C of what follows, four bytes each; frame index, kind, topic id,
// partition, segment, position, base, then the bytes of an inline append or a topic's name.
func (r *recovery) quarantine(frame uint64, e *journal.Entry) error {
	if r.aside == nil {
		q := &quarantine{fs: r.s.cfg.FS, dir: filepath.Join(r.s.cfg.Dir, "quarantine")}
		if err := q.fs.MkdirAll(q.dir, 0o755); err != nil {
			return err
		}
		name := filepath.Join(q.dir, fmt.Sprintf("%016x.entries", frame))
		f, err := q.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		q.file, r.aside = f, q
	}
	if r.report.Quarantined <= maxLost {
		r.lost("frame %d: %s of topic id %x partition %d, offset %d, is of no known topic and is kept in %s",
			frame, e.Kind, e.Topic, e.Partition, e.Base, r.aside.file.Name())
	}
	be := binary.BigEndian
	p := make([]byte, 8, 8+64+len(e.Bytes))
	p = be.AppendUint64(p, frame)
	p = append(p, byte(e.Kind))
	p = append(p, e.Topic[:]...)
	p = be.AppendUint32(p, uint32(e.Partition))
	for _, v := range [...]int64{e.Segment, e.Position, e.Base} {
		p = be.AppendUint64(p, uint64(v))
	}
	p = append(p, e.Bytes...)
	be.PutUint32(p, uint32(len(p)-8))
	be.PutUint32(p[4:], record.Castagnoli(p[8:]))
	if _, err := r.aside.file.WriteAt(p, r.aside.size); err != nil {
		return err
	}
	r.aside.size += int64(len(p))
	return nil
}

// close makes what was set aside durable: the checkpoint to come lets the journal forget it.
func (q *quarantine) close() error {
	if q == nil {
		return nil
	}
	if err := errors.Join(q.file.Sync(pointQuarantine), q.file.Close()); err != nil {
		return err
	}
	return errors.Join(q.fs.SyncDir(q.dir, pointQuarantineDir), q.fs.SyncDir(filepath.Dir(q.dir), pointQuarantineDir))
}
