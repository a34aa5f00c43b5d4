package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// archive writes a tar file that only its owner may read, compressed where its name ends in gz, whole or not at all; what
// was there before stays until then. "-" is standard output.
func (c *command) archive(name string, fill func(*tar.Writer) error) (err error) {
	if name == "-" {
		return packed(c.out, false, fill)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(f.Name()); err == nil && !errors.Is(gone, fs.ErrNotExist) {
			err = gone
		}
	}()
	err = packed(f, strings.HasSuffix(name, "gz"), fill)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

func packed(to io.Writer, compressed bool, fill func(*tar.Writer) error) error {
	buffer := bufio.NewWriterSize(to, 64<<10)
	var squeeze *gzip.Writer
	into := io.Writer(buffer)
	if compressed {
		squeeze = gzip.NewWriter(buffer)
		into = squeeze
	}
	w := tar.NewWriter(into)
	if err := fill(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if squeeze != nil {
		if err := squeeze.Close(); err != nil {
			return err
		}
	}
	return buffer.Flush()
}

// header is that of a file in an archive.
func header(name string, size int64, at time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: at.Truncate(time.Second), Format: tar.FormatPAX}
}
