package broker

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
)

// linkMemory is a file in which a link keeps how far it was, for the time until it has a connection.
type linkMemory struct {
	b    *Broker
	name string // of the file
}

// Load implements upstream.Memory.
func (m linkMemory) Load() ([]byte, error) {
	text, err := readChecked(m.b.config.FS, m.name, deliveredMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return bytes.TrimSuffix(text, []byte("\n")), err
}

// Store implements upstream.Memory.
func (m linkMemory) Store(text []byte) error {
	dir := filepath.Dir(m.name)
	if err := m.b.config.FS.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := writeWhole(m.b.config.FS, m.name, appendChecksum(append(bytes.Clone(text), '\n')), 0o640); err != nil {
		return err
	}
	return errors.Join(m.b.config.FS.SyncDir(dir, pointMetaDir), m.b.config.FS.SyncDir(filepath.Dir(dir), pointMetaDir))
}
