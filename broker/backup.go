package broker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/broker/boot"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/broker/segment"
	"millrace/platform/identity"
)

// What a backup holds. The manifest is its last file, so that one that was cut short has none.
const (
	backupFormat   = 1
	backupManifest = "backup.json"
	backupData     = "data/"   // of the data directory
	backupConfig   = "config/" // the configuration, and the files it names
	// backupFiles bounds the files of a backup: what Restore keeps a name and a sum of.
	backupFiles = 200_000
)

// alwaysKept says whether a topic has its records in every backup: those of MQTT's own, sessions, wills and retained
// messages, and the offsets of consumer groups.
func alwaysKept(topic string) bool {
	return strings.HasPrefix(topic, "__mqtt_") || topic == group.TopicName
}

// identityParts are what makes a data directory this board's, beside its meta.properties: files, or directories with all
// that is in them.
var identityParts = []string{identity.File, identity.Copy, identity.Beside}

// Manifest says what a backup holds.
type Manifest struct {
	Format     int            `json:"format"`
	DataFormat int            `json:"data_format"` // of the data directory, see FormatVersion
	Version    string         `json:"version"`     // of the program
	Created    time.Time      `json:"created"`
	ClusterID  string         `json:"cluster"`
	NodeID     int32          `json:"node"`
	Directory  string         `json:"directory"` // id of the directory it was made of
	Topics     []BackupTopic  `json:"topics"`
	Named      []NamedFile    `json:"named"` // files that the configuration names
	Files      []ManifestFile `json:"files"`
}

// BackupTopic is a topic in a backup. Every topic is in it, by its id and settings; not all have their records.
type BackupTopic struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	Records    bool   `json:"records"`
}

// NamedFile is a file that the configuration names, and where the backup has it.
type NamedFile struct {
	Path string `json:"path"`
	File string `json:"file"`
}

// ManifestFile is a file of a backup.
type ManifestFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  string `json:"sha256"`
}

// BackupOptions say what goes into a backup beside what always does.
type BackupOptions struct {
	// File is the configuration file's name, "" for none.
	File string
	// Topics have their records in it, by name; All: every topic has.
	Topics []string
	All    bool
}

// ErrNoTopic is returned by Backup for a topic that does not exist.
var ErrNoTopic = errors.New("there is no such topic")

// Backup writes all that makes a board this board: configuration, identity, catalog, sessions, offsets, and records of the
// topics that are asked for. It starts the board without its doors, which recovers what the last stop left, and stops it
// again; a directory that a broker has open is refused. A topic whose records are not asked for is in it as one that all
// records have aged out of, so that offsets that were committed, and sessions, mean after it what they meant before.
func Backup(ctx context.Context, cfg Config, o BackupOptions, to *tar.Writer) (*Manifest, error) {
	settings := *cfg.Settings
	cfg.Settings = &settings
	meta, err := ReadMeta(orOS(cfg.FS), settings.Broker.LogDirs) // an empty directory is not to be formatted
	if err != nil {
		return nil, err
	}
	settings.Broker.NodeID = meta.NodeID
	settings.Clock.RTC, settings.Clock.SetSystemTime = "", false // nobody's time is set here
	b, slot, err := settled(ctx, cfg)
	if err != nil {
		return nil, err
	}
	w := &backup{b: b, o: o, to: to, slot: slot, at: time.Now(), manifest: Manifest{
		Format: backupFormat, DataFormat: b.meta.Format, Version: cfg.Version, Created: time.Now().UTC().Truncate(time.Second),
		ClusterID: b.meta.ClusterID, NodeID: b.meta.NodeID, Directory: b.meta.DirectoryID, Named: []NamedFile{},
	}}
	err = w.write()
	return &w.manifest, errors.Join(err, b.Close())
}

func orOS(fsys disk.FS) disk.FS {
	if fsys == nil {
		return disk.OS{}
	}
	return fsys
}

// settled is a board that was started without its doors, recovered, checkpointed and stopped, but for the lock, which
// Close lets go.
func settled(ctx context.Context, cfg Config) (_ *Broker, slot partition.Slot, err error) {
	b := unopened(cfg)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.steps(ctx, b.openVitals, b.openDirectory, b.openClock, b.openCatalog, b.openPulse, b.openFront, b.openStore); err != nil {
		return nil, slot, err
	}
	if off := b.store.OfflinePartitions(); len(off) > 0 {
		return nil, slot, fmt.Errorf("%d partitions are offline, %s-%d among them: what they hold cannot be copied", len(off), off[0].Topic.Name, off[0].Index)
	}
	if err := b.store.Checkpoint(); err != nil {
		return nil, slot, err
	}
	slot = b.store.Checkpointed()
	release := b.closers[0] // of the directory's lock
	b.closers = b.closers[1:]
	err = b.Close()
	b.closers = []func() error{release}
	return b, slot, err
}

// backup is one that is being written.
type backup struct {
	b        *Broker
	o        BackupOptions
	to       *tar.Writer
	slot     partition.Slot
	at       time.Time
	manifest Manifest
}

func (w *backup) write() error {
	image := w.b.Image()
	for _, name := range w.o.Topics {
		if image.Topic(name) == nil {
			return fmt.Errorf("%s: %w", name, ErrNoTopic)
		}
	}
	for t := range image.Topics() {
		w.manifest.Topics = append(w.manifest.Topics, BackupTopic{t.Name, len(t.Partitions), w.wanted(t.Name)})
	}
	if err := w.named(); err != nil {
		return err
	}
	for _, name := range append([]string{"quorum", boot.FileName(0), boot.FileName(1), linksDir}, identityParts...) {
		if err := w.tree(name); err != nil {
			return err
		}
	}
	slot := partition.Slot{Sequence: 1}
	for _, e := range w.slot.Partitions {
		t := image.TopicByID(e.Topic)
		if t == nil {
			continue
		}
		kept, err := w.partition(t, e)
		if err != nil {
			return fmt.Errorf("%s-%d: %w", t.Name, e.Partition, err)
		}
		slot.Partitions = append(slot.Partitions, kept)
	}
	if err := w.bytes(backupData+filepath.Base(partition.SlotPath("", 0)), slot.Encode()); err != nil {
		return err
	}
	text, err := json.MarshalIndent(w.manifest, "", " ")
	if err != nil {
		return err
	}
	text = fmt.Appendf(text, "\n%x\n", sha256.Sum256(text)) // it has no other to vouch for it
	if err := w.to.WriteHeader(w.header(backupManifest, int64(len(text)))); err != nil {
		return err
	}
	_, err = w.to.Write(text)
	return err
}

func (w *backup) wanted(topic string) bool {
	return w.o.All || alwaysKept(topic) || slices.Contains(w.o.Topics, topic)
}

// named writes the configuration and the files it names.
func (w *backup) named() error {
	s := &w.b.config.Settings.Security
	files := []string{s.AdminScramFile, s.CertFile, s.KeyFile, s.ClientCAFile}
	for _, u := range w.b.config.Settings.Upstreams {
		files = append(files, u.Files()...)
	}
	if w.o.File != "" {
		raw, err := readFile(w.o.File)
		if err != nil {
			return err
		}
		if err := w.bytes(backupConfig+"millrace.toml", raw); err != nil {
			return err
		}
	}
	for i, name := range files {
		if name == "" || slices.Contains(files[:i], name) {
			continue
		}
		raw, err := readFile(name)
		if errors.Is(err, fs.ErrNotExist) && name == w.b.config.Settings.Security.AdminScramFile {
			continue // it may be taken away once its users are in the catalog
		}
		if err != nil {
			return fmt.Errorf("a file that the configuration names: %w", err)
		}
		file := fmt.Sprintf("%s%d-%s", backupConfig, i+1, filepath.Base(name))
		w.manifest.Named = append(w.manifest.Named, NamedFile{name, file})
		if err := w.bytes(file, raw); err != nil {
			return err
		}
	}
	return nil
}

// tree writes a file, or a directory with all that is in it; one that is not there is no error.
func (w *backup) tree(name string) error {
	at := filepath.Join(w.b.dir(), name)
	info, err := w.b.config.FS.Stat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return w.file(name, info.Size())
	}
	entries, err := w.b.config.FS.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			continue // nobody's
		}
		if err := w.tree(name + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// partition writes a partition and returns its place in the checkpoint: with its records, or as one that has none left.
func (w *backup) partition(t *catalog.Topic, e partition.SlotEntry) (partition.SlotEntry, error) {
	dir := fmt.Sprintf("topics/%s-%d", t.Name, e.Partition)
	entries, err := w.b.config.FS.ReadDir(filepath.Join(w.b.dir(), dir))
	if err != nil {
		return e, err
	}
	whole := w.wanted(t.Name)
	for _, f := range entries {
		name := dir + "/" + f.Name()
		info, err := f.Info()
		if err != nil {
			return e, err
		}
		size := info.Size()
		base, log := segment.ParseName(f.Name(), segment.LogSuffix)
		switch keep := f.Name() == segment.MetadataName || f.Name() == segment.EpochsName; {
		case !info.Mode().IsRegular() || strings.HasSuffix(f.Name(), tempSuffix) || strings.HasSuffix(f.Name(), segment.DeletedSuffix):
			continue
		case !keep && !whole:
			continue
		case log && base == e.Segment:
			size = e.Position
		}
		if err := w.file(name, size); err != nil {
			return e, err
		}
	}
	if whole {
		return e, nil
	}
	e.Segment, e.Position, e.Start, e.Snapshot = e.Next, 0, e.Next, -1
	return e, w.bytes(fmt.Sprintf("%s%s/%020d%s", backupData, dir, e.Next, segment.LogSuffix), nil)
}

func (w *backup) header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.at.Truncate(time.Second), Format: tar.FormatPAX}
}

// file writes the first size bytes of a file of the data directory.
func (w *backup) file(name string, size int64) error {
	f, err := w.b.config.FS.OpenFile(filepath.Join(w.b.dir(), name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.copy(backupData+name, size, io.NewSectionReader(f, 0, size)), f.Close())
}

func (w *backup) bytes(name string, p []byte) error {
	return w.copy(name, int64(len(p)), strings.NewReader(string(p)))
}

func (w *backup) copy(name string, size int64, from io.Reader) error {
	name = path.Clean(filepath.ToSlash(name))
	if len(w.manifest.Files) >= backupFiles {
		return fmt.Errorf("more than %d files", backupFiles)
	}
	if err := w.to.WriteHeader(w.header(name, size)); err != nil {
		return err
	}
	sum := sha256.New()
	switch n, err := io.Copy(io.MultiWriter(w.to, sum), from); {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case n != size:
		return fmt.Errorf("%s has %d bytes, its checkpoint %d: `millrace fsck` says more", name, n, size)
	}
	w.manifest.Files = append(w.manifest.Files, ManifestFile{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}
