package broker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"millrace/bridge/upstream"
	"millrace/broker/disk"
	"millrace/platform/config"
)

// linkMemory is a file in which a link keeps how far it was, for the time until it has a connection.
type linkMemory struct {
	fs   disk.FS
	name string // of the file
	of   string // what the file is about, its first line; may be empty
}

// LinkMemory is a file that a link keeps something in: what is read of it is what was written last, or the time before, whatever
// cut comes.
func LinkMemory(fsys disk.FS, name string) upstream.Memory { return linkMemory{fsys, name, ""} }

// memory is that of a link. What it was told of one place upstream it does not tell of another, of the same name: there nothing
// may have been delivered.
func (l *links) memory(u *config.Upstream) linkMemory {
	servers := slices.Clone(u.Servers)
	slices.Sort(servers)
	sum := sha256.Sum256([]byte(strings.Join(append(servers, u.CursorTopic, l.b.meta.ClusterID), "\n")))
	return linkMemory{l.b.config.FS, filepath.Join(l.b.dir(), linksDir, u.Name+deliveredFile), hex.EncodeToString(sum[:16])}
}

// Load implements upstream.Memory.
func (m linkMemory) Load() ([]byte, error) {
	text, err := readChecked(m.fs, m.name, deliveredMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	of, text, _ := bytes.Cut(text, []byte("\n"))
	if err != nil || string(of) != m.of {
		return nil, err
	}
	return bytes.TrimSuffix(text, []byte("\n")), nil
}

// Store implements upstream.Memory.
func (m linkMemory) Store(text []byte) error {
	dir := filepath.Dir(m.name)
	if err := m.fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := writeWhole(m.fs, m.name, appendChecksum(slices.Concat([]byte(m.of), []byte("\n"), text, []byte("\n"))), 0o640); err != nil {
		return err
	}
	return errors.Join(m.fs.SyncDir(dir, pointMetaDir), m.fs.SyncDir(filepath.Dir(dir), pointMetaDir))
}
