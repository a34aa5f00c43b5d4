package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"millrace/broker/boot"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/record"
	"millrace/platform/identity"
)

// FormatVersion is the version of everything under a data directory. A directory of a newer version is refused by
// name; one of an older version is opened and brought forward, before anything is written that the older build would
// take for damage.
//
//   - 2: the entries of a journal frame may be packed.
const FormatVersion = 2

const (
	metaName = "meta.properties"
	metaCopy = "meta.properties.copy"
	// tempSuffix is of a file that is being written.
	tempSuffix = ".tmp"
	// metaMax bounds what is read of meta.properties, in bytes: Kafka's own holds some 120.
	metaMax = 64 << 10
)

var (
	pointMeta    = disk.NewPoint("meta.file")
	pointMetaDir = disk.NewPoint("meta.directory")
)

// ErrNewerFormat is returned for a data directory that a newer Millrace has written.
var ErrNewerFormat = errors.New("the data directory was written by a newer version of millrace")

// ErrNotFormatted is returned by ReadMeta where there is no meta.properties.
var ErrNotFormatted = errors.New("the data directory is not formatted")

// Meta is meta.properties, Kafka's own file at the root of a data directory.
type Meta struct {
	ClusterID   string // 16 random bytes as unpadded base64url, as `millrace random-uuid` prints
	NodeID      int32
	DirectoryID string // names this directory: a cloned one has the same
	Format      int
}

// RandomUUID returns a new id in Kafka's spelling: 22 characters of base64url, never starting with a dash, so that it
// can be an argument.
func RandomUUID() string { return catalog.NewTopicID().String() }

// ValidClusterID says whether id is 16 bytes in Kafka's spelling.
func ValidClusterID(id string) error {
	if _, err := catalog.ParseTopicID(id); err != nil {
		return fmt.Errorf("cluster id %q: want 22 characters of base64url; `millrace random-uuid` makes one", id)
	}
	return nil
}

// ReadMeta reads dir/meta.properties, or its copy where that is damaged or gone. It returns ErrNotFormatted where there
// is neither and ErrNewerFormat, with the version, where a newer build wrote it.
func ReadMeta(fsys disk.FS, dir string) (Meta, error) {
	m, err := readMetaFile(fsys, filepath.Join(dir, metaName))
	if err == nil || errors.Is(err, ErrNewerFormat) {
		return m, err
	}
	c, copyErr := readMetaFile(fsys, filepath.Join(dir, metaCopy))
	if copyErr == nil || errors.Is(copyErr, ErrNewerFormat) {
		return c, copyErr
	}
	if errors.Is(err, fs.ErrNotExist) && errors.Is(copyErr, fs.ErrNotExist) {
		return Meta{}, fmt.Errorf("%s: %w", dir, ErrNotFormatted)
	}
	return Meta{}, errors.Join(err, copyErr)
}

func readMetaFile(fsys disk.FS, name string) (Meta, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return Meta{}, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, metaMax))
	if err := errors.Join(err, f.Close()); err != nil {
		return Meta{}, fmt.Errorf("read %s: %w", name, err)
	}
	m, err := parseMeta(raw)
	if err != nil {
		return Meta{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// text is the file's whole text. Its last line is the CRC32C of those before it: one flipped bit would otherwise be
// another cluster.
func (m Meta) text() []byte {
	body := fmt.Appendf(nil, "version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\nformat.version=%d\n",
		m.ClusterID, m.NodeID, m.DirectoryID, m.Format)
	return appendChecksum(body)
}

func appendChecksum(body []byte) []byte {
	return fmt.Appendf(body, "checksum=%08x\n", record.Castagnoli(body))
}

func parseMeta(raw []byte) (Meta, error) {
	// The checksum is looked at before anything is believed: a newer version keeps its place at the end.
	at := bytes.LastIndex(raw, []byte("checksum="))
	if at < 0 {
		return Meta{}, errors.New("the checksum is missing: the file is damaged or not ours")
	}
	if body := raw[:at]; !bytes.Equal(raw, appendChecksum(bytes.Clone(body))) {
		return Meta{}, errors.New("the checksum does not fit the text: the file is damaged")
	}
	var m Meta
	var version int // of the file itself, as Kafka writes it
	for line := range strings.Lines(string(raw[:at])) {
		if v, ok := strings.CutPrefix(line, "format.version="); ok {
			if _, err := fmt.Sscanf(v, "%d\n", &m.Format); err != nil {
				return Meta{}, fmt.Errorf("format.version %q: want a number", v)
			}
		}
	}
	if m.Format > FormatVersion {
		return Meta{}, fmt.Errorf("format.version %d, this build knows up to %d: %w", m.Format, FormatVersion, ErrNewerFormat)
	}
	if _, err := fmt.Sscanf(string(raw[:at]), "version=%d\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\nformat.version=%d\n",
		&version, &m.ClusterID, &m.NodeID, &m.DirectoryID, &m.Format); err != nil {
		return Meta{}, fmt.Errorf("not a meta.properties of ours: %w", err)
	}
	return m, ValidClusterID(m.ClusterID)
}

// WriteMeta writes dir/meta.properties and its copy, each whole or not at all, and returns when both are durable.
func WriteMeta(fsys disk.FS, dir string, m Meta) error {
	for _, name := range []string{metaCopy, metaName} {
		if err := writeMetaFile(fsys, filepath.Join(dir, name), m); err != nil {
			return err
		}
	}
	return fsys.SyncDir(dir, pointMetaDir)
}

func writeMetaFile(fsys disk.FS, name string, m Meta) error {
	return writeWhole(fsys, name, m.text(), 0o644)
}

// writeWhole puts a file in place of the one of its name, whole or not at all. It is durable when its directory was
// synced.
func writeWhole(fsys disk.FS, name string, text []byte, mode os.FileMode) error {
	temp := name + tempSuffix
	// What a killed process left may have another mode.
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Sync(pointMeta)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	return fsys.Rename(temp, name)
}

// bringForward says in a directory of an older version that a build of this one has had it. It does nothing where that
// is said already.
func bringForward(fsys disk.FS, dir string, m Meta) (Meta, error) {
	if m.Format >= FormatVersion {
		return m, nil
	}
	m.Format = FormatVersion
	return m, WriteMeta(fsys, dir, m)
}

// ErrOccupied is returned by Format for a directory with something in it.
var ErrOccupied = errors.New("the directory is not empty and not a data directory")

// Format makes dir a data directory. An empty clusterID is chosen at random. A directory that is formatted already is
// an error, so that nobody's data changes hands by a typing mistake, and so is one with anything in it (ErrOccupied); but
// what a broker has left there without its meta.properties gets one again where clusterID says whose it was.
func Format(fsys disk.FS, dir, clusterID string, nodeID int32) (Meta, error) {
	switch pending, keep, err := resetting(fsys, dir); {
	case err != nil:
		return Meta{}, err
	case pending:
		if _, err := wipe(fsys, dir, keep); err != nil {
			return Meta{}, err
		}
		if err := unmark(fsys, dir); err != nil {
			return Meta{}, err
		}
	}
	return format(fsys, dir, clusterID, nodeID, clusterID != "")
}

// format is Format where no reset is under way. known: what lies there is the cluster's.
func format(fsys disk.FS, dir, clusterID string, nodeID int32, known bool) (Meta, error) {
	if clusterID == "" {
		clusterID = RandomUUID()
	}
	if err := ValidClusterID(clusterID); err != nil {
		return Meta{}, err
	}
	if err := fsys.MkdirAll(dir, 0o750); err != nil {
		return Meta{}, err
	}
	switch m, err := ReadMeta(fsys, dir); {
	case err == nil:
		return Meta{}, fmt.Errorf("%s is formatted already, for cluster %s and node %d; choose another directory or delete this one", dir, m.ClusterID, m.NodeID)
	case !errors.Is(err, ErrNotFormatted):
		return Meta{}, err
	}
	if err := vacant(fsys, dir, known); err != nil {
		return Meta{}, err
	}
	m := Meta{ClusterID: clusterID, NodeID: nodeID, DirectoryID: RandomUUID(), Format: FormatVersion}
	return m, WriteMeta(fsys, dir, m)
}

// vacant says whether dir may be formatted: there is nothing in it but what a filesystem or a format that was cut short
// leaves, or with known a broker's own.
func vacant(fsys disk.FS, dir string, known bool) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := interrupted(fsys, dir); err != nil {
		return err
	}
	ours := ""
	for _, e := range entries {
		switch name := e.Name(); name {
		case lockName, controlName, "lost+found", metaName + tempSuffix, metaCopy + tempSuffix, resetName, resetKeepName:
		case identity.File, identity.Copy, identity.Beside, identity.File + tempSuffix, identity.Copy + tempSuffix:
		case "journal", "quorum", "topics", "quarantine", "offline", "checkpoint.0", "checkpoint.1", boot.FileName(0), boot.FileName(1), endName, endName + tempSuffix, wearFile, wearFile + tempSuffix, linksDir, restoredName, oldAdminFile:
			ours = name
		default:
			return fmt.Errorf("%s holds %s: %w; name another one", dir, name, ErrOccupied)
		}
	}
	if ours != "" && !known {
		return fmt.Errorf("%s holds a broker's %s and has lost its %s: %w; `millrace format %s -t ID` gives it one, ID being its cluster's",
			dir, ours, metaName, ErrOccupied, dir)
	}
	return nil
}
