package quorum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

var (
	syncSnapshot    = disk.NewPoint("quorum.snapshot")
	syncSnapshotDir = disk.NewPoint("quorum.snapshot.dir")
)

// A snapshot file is {"MRQS", format u8, index u64, term u64, configuration index u64, configuration length u32,
// configuration, image (catalog's own encoding), CRC32C of all before}, big endian. Its name is index and term.
const (
	snapshotMagic  = "MRQS"
	snapshotFormat = 1
	snapshotHeader = 4 + 1 + 8 + 8 + 8 + 4
	snapshotSuffix = ".snapshot"
	snapshotKept   = 2
	snapshotMax    = catalog.MaxSnapshotSize + snapshotHeader + 64<<10
)

// snapshotStore keeps the two newest snapshots of the catalog in the quorum's directory. Safe for concurrent use.
type snapshotStore struct {
	fs  disk.FS
	dir string
	// dropped is told, after a new snapshot is durable, which index the older retained one covers.
	dropped func(covered uint64)

	mu sync.Mutex
	// metas are the snapshots that were whole when they were last read, newest first.
	metas []*raft.SnapshotMeta
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// openSnapshots reads and checks every snapshot in dir. It returns the newest image with its meta (nil when there is
// none) and a sentence for every file that is damaged; those are set aside by renaming.
func openSnapshots(fs disk.FS, dir string) (s *snapshotStore, img *catalog.Image, damage []string, err error) {
	s = &snapshotStore{fs: fs, dir: dir}
	files, err := fs.ReadDir(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil || len(damage) == 0 {
			return
		}
		for _, f := range files { // those of this start are kept, the ones before it go
			if strings.HasSuffix(f.Name(), snapshotSuffix+damagedSuffix) {
				err = errors.Join(err, fs.Remove(filepath.Join(dir, f.Name())))
			}
		}
	}()
	slices.Reverse(files) // names sort by index, so the newest comes first
	for _, f := range files {
		name := f.Name()
		if strings.HasSuffix(name, snapshotSuffix+tempSuffix) { // a killed process left it
			if err := fs.Remove(filepath.Join(dir, name)); err != nil {
				return nil, nil, nil, err
			}
		}
		if !strings.HasSuffix(name, snapshotSuffix) {
			continue
		}
		meta, data, err := s.read(name)
		var read *catalog.Image
		if err == nil {
			read, err = catalog.DecodeImage(data)
		}
		switch {
		case err == nil:
			if img == nil {
				img = read
			}
			s.metas = append(s.metas, meta)
		case errors.Is(err, catalog.ErrCorrupt):
			damage = append(damage, fmt.Sprintf("catalog snapshot %s is damaged (%v) and set aside", name, err))
			if err := fs.Rename(filepath.Join(dir, name), filepath.Join(dir, name+damagedSuffix)); err != nil {
				return nil, nil, nil, err
			}
		default:
			return nil, nil, nil, fmt.Errorf("catalog snapshot %s: %w", name, err)
		}
	}
	return s, img, damage, nil
}

const (
	tempSuffix    = ".tmp"
	damagedSuffix = ".damaged"
)

// covered is the index the older retained snapshot covers, 0 while there is no second one: the log must stay behind it,
// so that a damaged newest snapshot loses nothing.
func (s *snapshotStore) covered() uint64 {
	if len(s.metas) < snapshotKept {
		return 0
	}
	return s.metas[snapshotKept-1].Index
}

// newest is the newest whole snapshot, nil when there is none.
func (s *snapshotStore) newest() *raft.SnapshotMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.metas) == 0 {
		return nil
	}
	return s.metas[0]
}

// Create implements raft.SnapshotStore. The snapshot is gathered in memory, where the image is anyway.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot version %d", version)
	}
	return &snapshotSink{store: s, meta: &raft.SnapshotMeta{
		Version: version, ID: snapshotName(index, term), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}, nil
}

func snapshotName(index, term uint64) string {
	return fmt.Sprintf("%020d-%020d%s", index, term, snapshotSuffix)
}

// List implements raft.SnapshotStore: whole snapshots, newest first.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.metas), nil
}

// Open implements raft.SnapshotStore.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, data, err := s.read(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(data)), nil
}

func (s *snapshotStore) read(name string) (*raft.SnapshotMeta, []byte, error) {
	b, size, err := readFile(s.fs, filepath.Join(s.dir, name), snapshotMax)
	if err != nil {
		return nil, nil, err
	}
	if size < snapshotHeader+4 || size > snapshotMax || string(b[:4]) != snapshotMagic {
		return nil, nil, fmt.Errorf("%w: %d bytes, no snapshot", catalog.ErrCorrupt, size)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(body):]) {
		return nil, nil, fmt.Errorf("%w: CRC mismatch", catalog.ErrCorrupt)
	}
	if body[4] != snapshotFormat {
		return nil, nil, fmt.Errorf("snapshot format %d: %w", body[4], catalog.ErrNewer)
	}
	meta := &raft.SnapshotMeta{
		Version: 1, ID: name,
		Index:              binary.BigEndian.Uint64(body[5:]),
		Term:               binary.BigEndian.Uint64(body[13:]),
		ConfigurationIndex: binary.BigEndian.Uint64(body[21:]),
	}
	n := binary.BigEndian.Uint32(body[29:])
	if uint64(n) > uint64(len(body)-snapshotHeader) || name != snapshotName(meta.Index, meta.Term) {
		return nil, nil, fmt.Errorf("%w: not what its name says", catalog.ErrCorrupt)
	}
	data := body[snapshotHeader:]
	if meta.Configuration, err = decodeConfiguration(data[:n]); err != nil {
		return nil, nil, err
	}
	data = data[n:]
	meta.Size = int64(len(data))
	return meta, data, nil
}

// decodeConfiguration is raft's decoder, which panics on what it did not write.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: configuration: %v", catalog.ErrCorrupt, p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

// save writes a snapshot under a temporary name, makes it durable, renames it, and only then drops what is older than
// the two newest.
func (s *snapshotStore) save(meta *raft.SnapshotMeta, data []byte) error {
	configuration := raft.EncodeConfiguration(meta.Configuration)
	b := append(make([]byte, 0, snapshotHeader+len(configuration)+len(data)+4), snapshotMagic...)
	b = append(b, snapshotFormat)
	b = binary.BigEndian.AppendUint64(b, meta.Index)
	b = binary.BigEndian.AppendUint64(b, meta.Term)
	b = binary.BigEndian.AppendUint64(b, meta.ConfigurationIndex)
	b = binary.BigEndian.AppendUint32(b, uint32(len(configuration)))
	b = append(append(b, configuration...), data...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	name := filepath.Join(s.dir, meta.ID)
	err := writeFile(s.fs, name+tempSuffix, b)
	if err == nil {
		err = s.fs.Rename(name+tempSuffix, name)
	}
	if err != nil {
		// After a failed sync the page cache calls these pages clean: another try must begin with another file.
		return errors.Join(err, s.fs.Remove(name+tempSuffix))
	}
	if err := s.fs.SyncDir(s.dir, syncSnapshotDir); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metas = slices.DeleteFunc(s.metas, func(m *raft.SnapshotMeta) bool { return m.ID == meta.ID })
	s.metas = slices.Insert(s.metas, 0, meta)
	for len(s.metas) > snapshotKept {
		at := len(s.metas) - 1
		if err := s.fs.Remove(filepath.Join(s.dir, s.metas[at].ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		s.metas = s.metas[:at]
	}
	if s.dropped != nil {
		s.dropped(s.covered())
	}
	return nil
}

func writeFile(fs disk.FS, name string, b []byte) (err error) {
	f, err := fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync(syncSnapshot)
}

// snapshotSink gathers one snapshot.
type snapshotSink struct {
	store *snapshotStore
	meta  *raft.SnapshotMeta
	buf   bytes.Buffer
	done  bool
}

func (s *snapshotSink) ID() string { return s.meta.ID }

func (s *snapshotSink) Write(p []byte) (int, error) {
	if s.buf.Len()+len(p) > catalog.MaxSnapshotSize {
		return 0, fmt.Errorf("snapshot above %d bytes", catalog.MaxSnapshotSize)
	}
	return s.buf.Write(p)
}

// Close makes the snapshot durable. Raft closes twice.
func (s *snapshotSink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(s.buf.Len())
	return s.store.save(s.meta, s.buf.Bytes())
}

func (s *snapshotSink) Cancel() error {
	s.done = true
	return nil
}
