package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// ErrSnapshot is returned for a producer snapshot that is damaged or of another version. The state must then be
// rebuilt from the log.
var ErrSnapshot = errors.New("bad producer snapshot")

// ProducerState is what a partition remembers of one idempotent producer, as the snapshot file keeps it. The batches
// that came before the last one are not kept, as in Kafka.
type ProducerState struct {
	ID           int64
	Epoch        int16
	LastSequence int32 // -1 before the first batch
	LastOffset   int64 // offset of the last record written
	OffsetDelta  int32 // of the last batch: its last offset less its first
	LastTime     int64 // ms, when the producer last wrote
	// CoordinatorEpoch is that of the last transaction marker, -1 for none.
	CoordinatorEpoch int32
	// TxnFirstOffset is the first offset of the open transaction, -1 for none.
	TxnFirstOffset int64
}

// Kafka's ProducerSnapshot.json, version 1: version, CRC32C of what follows it, an array of fixed-size entries.
const (
	snapshotVersion = 1
	snapshotHeader  = 2 + 4 + 4
	snapshotEntry   = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8
	atSnapshotCRC   = 2
	afterCRC        = 6
)

var (
	syncSnapshot    = disk.NewPoint("segment.snapshot")
	syncSnapshotDir = disk.NewPoint("segment.snapshot.dir")
)

// SnapshotName is the file name of the snapshot taken before offset.
func SnapshotName(offset int64) string { return fileName(offset, ".snapshot") }

// AppendSnapshot appends the file's bytes for states to dst.
func AppendSnapshot(dst []byte, states []ProducerState) []byte {
	be := binary.BigEndian
	at := len(dst)
	dst = be.AppendUint16(dst, snapshotVersion)
	dst = append(dst, 0, 0, 0, 0)
	dst = be.AppendUint32(dst, uint32(len(states)))
	for _, p := range states {
		dst = be.AppendUint64(dst, uint64(p.ID))
		dst = be.AppendUint16(dst, uint16(p.Epoch))
		dst = be.AppendUint32(dst, uint32(p.LastSequence))
		dst = be.AppendUint64(dst, uint64(p.LastOffset))
		dst = be.AppendUint32(dst, uint32(p.OffsetDelta))
		dst = be.AppendUint64(dst, uint64(p.LastTime))
		dst = be.AppendUint32(dst, uint32(p.CoordinatorEpoch))
		dst = be.AppendUint64(dst, uint64(p.TxnFirstOffset))
	}
	be.PutUint32(dst[at+atSnapshotCRC:], record.Castagnoli(dst[at+afterCRC:]))
	return dst
}

// ParseSnapshot reads the bytes of a snapshot file. It returns ErrSnapshot when they are anything but one.
func ParseSnapshot(p []byte) ([]ProducerState, error) {
	be := binary.BigEndian
	if len(p) < snapshotHeader {
		return nil, fmt.Errorf("%w: %d bytes", ErrSnapshot, len(p))
	}
	if v := be.Uint16(p); v != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d", ErrSnapshot, v)
	}
	if crc := record.Castagnoli(p[afterCRC:]); crc != be.Uint32(p[atSnapshotCRC:]) {
		return nil, fmt.Errorf("%w: CRC %08x, computed %08x", ErrSnapshot, be.Uint32(p[atSnapshotCRC:]), crc)
	}
	n := be.Uint32(p[afterCRC:])
	p = p[snapshotHeader:]
	if uint64(n)*snapshotEntry != uint64(len(p)) {
		return nil, fmt.Errorf("%w: %d producers in %d bytes", ErrSnapshot, n, len(p))
	}
	states := make([]ProducerState, n)
	for i := range states {
		states[i] = ProducerState{
			ID:               int64(be.Uint64(p)),
			Epoch:            int16(be.Uint16(p[8:])),
			LastSequence:     int32(be.Uint32(p[10:])),
			LastOffset:       int64(be.Uint64(p[14:])),
			OffsetDelta:      int32(be.Uint32(p[22:])),
			LastTime:         int64(be.Uint64(p[26:])),
			CoordinatorEpoch: int32(be.Uint32(p[34:])),
			TxnFirstOffset:   int64(be.Uint64(p[38:])),
		}
		p = p[snapshotEntry:]
	}
	return states, nil
}

// WriteSnapshot durably replaces the snapshot taken before offset.
func WriteSnapshot(fs disk.FS, dir string, offset int64, states []ProducerState) error {
	return replaceFile(fs, dir, SnapshotName(offset), AppendSnapshot(nil, states), syncSnapshot, syncSnapshotDir)
}

// snapshotMax bounds a snapshot that is read: about a million producers.
const snapshotMax = 48 << 20

// ReadSnapshot reads the snapshot taken before offset. It returns ErrSnapshot when the file is damaged and
// os.ErrNotExist when there is none.
func ReadSnapshot(fs disk.FS, dir string, offset int64) ([]ProducerState, error) {
	path := filepath.Join(dir, SnapshotName(offset))
	p, err := readFile(fs, path, snapshotMax)
	if err != nil {
		return nil, err
	}
	states, err := ParseSnapshot(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return states, nil
}

// errFileSize is returned for a small file that is larger than any Millrace or Kafka writes.
var errFileSize = errors.New("file is too large")

func readFile(fs disk.FS, path string, limit int64) (p []byte, err error) {
	f, err := fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes", path, errFileSize, info.Size())
	}
	p = make([]byte, info.Size())
	n, err := f.ReadAt(p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p[:n], nil
}

// replaceFile gives name new contents such that a power cut leaves the old ones or the new ones, and returns when the
// new ones are durable.
func replaceFile(fs disk.FS, dir, name string, p []byte, filePoint, dirPoint disk.Point) error {
	path := filepath.Join(dir, name)
	temp := path + ".tmp"
	f, err := fs.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(p, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(filePoint); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fs.Rename(temp, path); err != nil {
		return err
	}
	return fs.SyncDir(dir, dirPoint)
}
