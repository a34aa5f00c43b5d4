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
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
)

func (c *command) backup() *cobra.Command {
	var at place
	var file string
	var o broker.BackupOptions
	cmd := &cobra.Command{
		Use: "backup", Short: "Write a board that does not run to one file", Args: cobra.NoArgs,
		Long: "Write a board that does not run to one file: configuration, identity, catalog, MQTT sessions and retained messages, offsets\n" +
			"of consumer groups, and the records of the topics that are asked for. Of the others there is the topic, as one that all\n" +
			"records have aged out of.\n\n" +
			"The file holds keys and passwords: only its owner may read it, and it is to be kept like them. A directory that a broker\n" +
			"has open is refused: what changes while it is copied is no copy. Stop it first; a stop and a start take seconds. The\n" +
			"backup is for the user to make who owns the directory.",
		Example: "  systemctl stop millrace && sudo -u millrace millrace backup --config /etc/millrace.toml -f board.tar.gz; systemctl start millrace",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return fail(exitUsage, "name the file to write with -f")
			}
			cfg, err := at.settings()
			if err != nil {
				return err
			}
			if err := ownersOwn(cfg.Broker.LogDirs); err != nil {
				return err
			}
			o.File = at.file
			var m *broker.Manifest
			err = c.archive(file, func(w *tar.Writer) error {
				m, err = broker.Backup(cmd.Context(), broker.Config{Settings: cfg, Version: version, Logger: c.plainLog()}, o, w)
				return err
			})
			switch {
			case errors.Is(err, broker.ErrNoTopic), errors.Is(err, broker.ErrNotFormatted), errors.Is(err, fs.ErrNotExist):
				return coded{err, exitMissing}
			case err != nil || file == "-":
				return err
			}
			var size int64
			var records []string
			for _, f := range m.Files {
				size += f.Size
			}
			for _, t := range m.Topics {
				if t.Records {
					records = append(records, t.Name)
				}
			}
			return c.show(map[string]any{"file": file, "cluster.id": m.ClusterID, "node.id": m.NodeID, "files": len(m.Files), "bytes": size, "topics": m.Topics},
				"wrote %s: node %d of cluster %s, %d files, %s; records of %s\nit holds keys and passwords: keep it like them\n",
				file, m.NodeID, m.ClusterID, len(m.Files), amount(size), strings.Join(append(records, "no other topic"), ", "))
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `FILE` to write, compressed where its name ends in gz; - is standard output")
	cmd.Flags().StringSliceVar(&o.Topics, "topic", nil, "a topic whose records are wanted too; may repeat")
	cmd.Flags().BoolVar(&o.All, "all-topics", false, "the records of all topics")
	return cmd
}

// ownersOwn refuses a data directory of another user: what a start without doors writes there would be this user's, and the
// broker could not write it any more.
func ownersOwn(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return coded{err, exitMissing}
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); ok && int64(s.Uid) != int64(me) {
		return fail(exitFailed, "%s belongs to user %d, and this is user %d: the backup is the owner's to make; `sudo -u '#%d' millrace backup`, for one", dir, s.Uid, me, s.Uid)
	}
	return nil
}

func (c *command) restore() *cobra.Command {
	var file, data string
	cmd := &cobra.Command{
		Use: "restore", Short: "Make an empty directory the data directory that a backup was made of", Args: cobra.NoArgs,
		Long: "Make an empty directory the data directory that a backup was made of. Every byte of the backup is checked before anything is\n" +
			"written. The configuration, and the files it names, are put into restored/ in the directory: where they belong, you say.\n\n" +
			"The copy keeps cluster and node and takes the board's place. Its directory id is new, so that it cannot be taken for the board\n" +
			"it was made of. After a power cut do it again. What root restores is the owner's of the directory, where that is there before;\n" +
			"else give it to the broker's user with chown, where no unit's StateDirectory does it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" || data == "" {
				return fail(exitUsage, "name the backup with -f and the directory with --data")
			}
			m, meta, err := broker.Restore(cmd.Context(), disk.OS{}, func() (*tar.Reader, io.Closer, error) { return opened(file) }, data)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return coded{err, exitMissing}
			case errors.Is(err, broker.ErrBackup):
				return coded{err, exitDamage}
			case err != nil:
				return err
			}
			return c.show(map[string]any{
				"directory": data, "cluster.id": meta.ClusterID, "node.id": meta.NodeID, "directory.id": meta.DirectoryID, "created": m.Created, "named": m.Named,
			}, "restored %s: node %d of cluster %s, as of %s, as a copy with an id of its own, %s\n",
				data, meta.NodeID, meta.ClusterID, m.Created.Format("2006-01-02 15:04:05 MST"), meta.DirectoryID)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `FILE` that `millrace backup` wrote")
	cmd.Flags().StringVar(&data, "data", "", "the directory, which is empty or not there")
	return cmd
}

// opened reads an archive from the beginning, compressed or not.
func opened(name string) (*tar.Reader, io.Closer, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	buffer := bufio.NewReaderSize(f, 64<<10)
	if magic, err := buffer.Peek(2); err != nil || string(magic) != "\x1f\x8b" {
		return tar.NewReader(buffer), f, nil // what it is the reader finds out
	}
	z, err := gzip.NewReader(buffer)
	if err != nil {
		return nil, nil, errors.Join(broker.ErrBackup, err, f.Close())
	}
	return tar.NewReader(z), &squeezed{z, f}, nil
}

// squeezed is a compressed archive: what checks it stands behind the last file.
type squeezed struct {
	z *gzip.Reader
	f *os.File
}

// Close implements io.Closer.
func (s *squeezed) Close() error {
	const padding = 1 << 20
	_, err := io.Copy(io.Discard, io.LimitReader(s.z, padding))
	if err != nil {
		err = fmt.Errorf("%w: %w", broker.ErrBackup, err)
	}
	return errors.Join(err, s.f.Close())
}
