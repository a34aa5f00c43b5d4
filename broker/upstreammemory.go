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

	"millrace/platform/config"
)

// linkMemory is a file in which a link keeps how far it was, for the time until it has a connection.
type linkMemory struct {
	b    *Broker
	name string // of the file
	of   string // what the file is about, its first line; may be empty
}

// memory is that of a link. What it was told of one place upstream it does not tell of another, of the same name: there nothing
// may have been delivered.
func (l *links) memory(u *config.Upstream) linkMemory {
	servers := slices.Clone(u.Servers)
	slices.Sort(servers)
	sum := sha256.Sum256([]byte(strings.Join(append(servers, u.CursorTopic, l.b.meta.ClusterID), "\n")))
	return linkMemory{l.b, filepath.Join(l.b.dir(), linksDir, u.Name+deliveredFile), hex.EncodeToString(sum[:16])}
}

// Load implements upstream.Memory.
func (m linkMemory) Load() ([]byte, error) {
	text, err := readChecked(m.b.config.FS, m.name, deliveredMax)
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
	if err := m.b.config.FS.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := writeWhole(m.b.config.FS, m.name, appendChecksum(slices.Concat([]byte(m.of), []byte("\n"), text, []byte("\n"))), 0o640); err != nil {
		return err
	}
	return errors.Join(m.b.config.FS.SyncDir(dir, pointMetaDir), m.b.config.FS.SyncDir(filepath.Dir(dir), pointMetaDir))
}
