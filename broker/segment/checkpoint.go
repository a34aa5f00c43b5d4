package segment

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"millrace/broker/disk"
)

// ErrCheckpoint is returned for a leader epoch checkpoint or a partition.metadata that cannot be what was written.
// Neither file has a checksum: a changed digit is only found by comparing with the log and the catalog.
var ErrCheckpoint = errors.New("bad checkpoint file")

// EpochStart says from which offset on a leader epoch's batches go.
type EpochStart struct {
	Epoch int32
	Start int64
}

// Names of the files that stand once in a partition's directory.
const (
	EpochsName   = "leader-epoch-checkpoint"
	MetadataName = "partition.metadata"
)

// checkpointMax bounds a checkpoint file that is read.
const checkpointMax = 1 << 20

var (
	syncEpochs      = disk.NewPoint("segment.epochs")
	syncEpochsDir   = disk.NewPoint("segment.epochs.dir")
	syncMetadata    = disk.NewPoint("segment.metadata")
	syncMetadataDir = disk.NewPoint("segment.metadata.dir")
)

// WriteEpochs durably replaces the leader epoch checkpoint of a partition's directory: Kafka's format, version 0, the
// number of epochs, one "epoch start" a line.
func WriteEpochs(fs disk.FS, dir string, epochs []EpochStart) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "0\n%d\n", len(epochs))
	for _, e := range epochs {
		fmt.Fprintf(&b, "%d %d\n", e.Epoch, e.Start)
	}
	return replaceFile(fs, dir, EpochsName, b.Bytes(), syncEpochs, syncEpochsDir)
}

// ReadEpochs reads the leader epoch checkpoint, epochs and starts rising. It returns ErrCheckpoint when the file is
// not one and os.ErrNotExist when there is none.
func ReadEpochs(fs disk.FS, dir string) ([]EpochStart, error) {
	path := filepath.Join(dir, EpochsName)
	p, err := readFile(fs, path, checkpointMax)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")
	if len(lines) < 2 || lines[0] != "0" || lines[1] != strconv.Itoa(len(lines)-2) {
		return nil, fmt.Errorf("%s: %w", path, ErrCheckpoint)
	}
	epochs := make([]EpochStart, 0, len(lines)-2)
	for _, line := range lines[2:] {
		epoch, start, ok := strings.Cut(line, " ")
		e, err := strconv.ParseInt(epoch, 10, 32)
		o, err2 := strconv.ParseInt(start, 10, 64)
		if !ok || err != nil || err2 != nil || e < 0 || o < 0 {
			return nil, fmt.Errorf("%s: %w: %q", path, ErrCheckpoint, line)
		}
		if n := len(epochs); n > 0 && (int64(epochs[n-1].Epoch) >= e || epochs[n-1].Start >= o) {
			return nil, fmt.Errorf("%s: %w: %q is not above the line before", path, ErrCheckpoint, line)
		}
		epochs = append(epochs, EpochStart{Epoch: int32(e), Start: o})
	}
	return epochs, nil
}

// WriteMetadata durably replaces a partition's partition.metadata, which ties the directory to one topic id.
func WriteMetadata(fs disk.FS, dir string, topic [16]byte) error {
	text := "version: 0\ntopic_id: " + base64.RawURLEncoding.EncodeToString(topic[:])
	return replaceFile(fs, dir, MetadataName, []byte(text), syncMetadata, syncMetadataDir)
}

// ReadMetadata reads the topic id. It returns ErrCheckpoint when the file is not a partition.metadata and
// os.ErrNotExist when there is none.
func ReadMetadata(fs disk.FS, dir string) (topic [16]byte, err error) {
	path := filepath.Join(dir, MetadataName)
	p, err := readFile(fs, path, checkpointMax)
	if err != nil {
		return topic, err
	}
	var version, id string
	for line := range strings.Lines(string(p)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch strings.TrimSpace(key) {
		case "version":
			version = strings.TrimSpace(value)
		case "topic_id":
			id = strings.TrimSpace(value)
		}
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(raw) != len(topic) || version != "0" {
		return topic, fmt.Errorf("%s: %w", path, ErrCheckpoint)
	}
	copy(topic[:], raw)
	return topic, nil
}
