package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
)

const (
	// linesOfJournal is how much of systemd's journal is taken where no broker runs.
	linesOfJournal = "5000"
	// journalPatience bounds the time that takes, filesListed how many names of a data directory are listed.
	journalPatience = 20 * time.Second
	filesListed     = 5000
	// memberMax bounds one file of the archive, in bytes.
	memberMax = 16 << 20
)

func (c *command) support() *cobra.Command {
	var at place
	var file string
	var quick bool
	cmd := &cobra.Command{
		Use: "support", Short: "Write one file with what it takes to help: configuration, catalog, figures, log", Args: cobra.NoArgs,
		Long: "Write one tar file with what it takes to help: the configuration, the catalog, figures, the last log lines, what fsck says of a\n" +
			"directory that no broker has open, what `millrace doctor` says. No record is in it, no key of one, no password and nothing a\n" +
			"password could be checked with, and no file that the configuration names is read. index.txt says what is missing and why.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = "millrace-support-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			}
			s := &supported{command: c, place: at, ctx: cmd.Context(), at: time.Now()}
			if err := s.gather(quick); err != nil {
				return err
			}
			if err := c.archive(file, s.write); err != nil {
				return err
			}
			if file == "-" {
				return nil
			}
			return c.show(map[string]any{"file": file, "missing": s.missing}, "wrote %s; %d parts, %d are missing (see index.txt in it)\n", file, len(s.members), len(s.missing))
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `FILE` to write, compressed where its name ends in gz; - is standard output; default: a name with the time")
	cmd.Flags().BoolVar(&quick, "no-fsck", false, "without a check of every byte of the data")
	return cmd
}

// supported is what is gathered.
type supported struct {
	*command
	place
	ctx     context.Context
	at      time.Time
	members []member
	missing []string
}

type member struct {
	name, from string
	text       []byte
}

// put adds a part; a part that could not be had is named with the reason.
func (s *supported) put(name, from string, text []byte, err error) {
	if err == nil && len(text) == 0 {
		err = errors.New("there is nothing")
	}
	if err != nil {
		s.missing = append(s.missing, string(redacted([]byte(name+": "+err.Error()))))
		return
	}
	if len(text) > memberMax {
		text = append([]byte("(the beginning is left out)\n"), text[len(text)-memberMax:]...)
	}
	s.members = append(s.members, member{name, from, redacted(text)})
}

// values adds a part in JSON.
func (s *supported) values(name, from string, value any, err error) {
	var text []byte
	if err == nil {
		text, err = json.MarshalIndent(value, "", " ")
	}
	s.put(name, from, append(text, '\n'), err)
}

func (s *supported) gather(quick bool) error {
	dir, err := s.dir()
	if err != nil && s.data == "" {
		s.put("config.toml", "", nil, unspoken(err))
		return fail(exitUsage, "the configuration does not say where the data is: name the directory with --data: %w", err)
	}
	s.values("version.json", "this program", map[string]any{"version": version, "format": formatVersion}, nil)
	running := true
	for _, of := range []struct{ what, name string }{
		{"status", "status.json"}, {"config", "config.toml"}, {"catalog", "catalog.json"}, {"upstream", "upstream.json"}, {"metrics", "metrics.txt"}, {"logs", "log.txt"},
	} {
		text, err := broker.Ask(s.ctx, dir, of.what)
		if of.what == "status" && (errors.Is(err, broker.ErrNotRunning) || errors.Is(err, fs.ErrNotExist)) && !errors.Is(err, broker.ErrSilent) {
			running = false
			break
		}
		if errors.Is(err, broker.ErrSilent) {
			s.put("status.json", "", nil, err)
			s.fromFiles(dir)
			break
		}
		s.put(of.name, "the running broker", text, err)
	}
	if !running {
		s.missing = append(s.missing, "status.json, metrics.txt: no broker runs")
		s.fromFiles(dir)
	}
	meta, err := broker.ReadMeta(disk.OS{}, dir)
	s.values("meta.json", "meta.properties", meta, err)
	if err := s.fsck(dir, running, quick); err != nil {
		s.put("fsck.json", "", nil, err)
	}
	list, err := listing(dir)
	s.put("files.txt", "the data directory", list, err)
	cfg, err := s.settings()
	if err != nil {
		cfg = config.Default()
	}
	cfg.Broker.LogDirs = dir
	s.values("doctor.json", "millrace doctor", examine(s.ctx, cfg), nil)
	return nil
}

// fromFiles takes what a broker that does not answer leaves to be read.
func (s *supported) fromFiles(dir string) {
	cfg, err := s.settings()
	if err != nil {
		s.put("config.toml", "", nil, unspoken(err))
	} else {
		var text bytes.Buffer
		err := cfg.Show(&text)
		s.put("config.toml", "the configuration file, or the defaults", text.Bytes(), err)
	}
	outline, err := broker.ReadOutline(disk.OS{}, dir)
	s.values("catalog.json", "the data directory", outline, err)
	text, err := journalLines(s.ctx)
	s.put("log.txt", "systemd's journal", text, err)
}

func (s *supported) fsck(dir string, running, quick bool) error {
	switch {
	case running:
		return errors.New("a broker has the directory: stop it for a check of every byte")
	case quick:
		return errors.New("not asked for")
	}
	report, err := broker.Fsck(disk.OS{}, dir, func(partition string) { s.note("checking %s", partition) })
	if err != nil {
		return err
	}
	s.values("fsck.json", "a check of the data directory", report, nil)
	return nil
}

// unspoken is what is wrong with a configuration without the words of the file: a password in the wrong place must not
// get out by the message about it.
func unspoken(err error) error {
	var places []string
	for _, e := range parts(err) {
		var p *config.Problem
		if errors.As(e, &p) {
			places = append(places, fmt.Sprintf("%s:%d", p.File, p.Line))
		}
	}
	if len(places) == 0 {
		return errors.New("the configuration cannot be read")
	}
	return fmt.Errorf("the configuration has mistakes at %s; `millrace config check` says which", strings.Join(places, ", "))
}

// parts are the errors that were joined.
func parts(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			return joined.Unwrap()
		}
	}
	return []error{err}
}

// journalLines are the last of the unit's in systemd's journal.
func journalLines(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, journalPatience)
	defer cancel()
	text, err := exec.CommandContext(ctx, "journalctl", "--unit=millrace", "--lines="+linesOfJournal, "--no-pager", "--output=short-iso").Output()
	if err != nil {
		return nil, fmt.Errorf("no broker answers, and journalctl does not either: %w", err)
	}
	return text, nil
}

// listing is the names and sizes of the files in a data directory.
func listing(dir string) ([]byte, error) {
	var list bytes.Buffer
	seen := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintf(&list, "%v\n", err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil // it is gone by now
		}
		if seen++; seen > filesListed {
			fmt.Fprintf(&list, "and more\n")
			return fs.SkipAll
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), rel)
		return nil
	})
	return list.Bytes(), err
}

var (
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)
	// secretValue is a name that says that its value is a secret, and the value; names of files are none.
	secretValue = regexp.MustCompile(`(?i)((?:password|passwd|secret|token|salt|stored_?key|server_?key|jaas\.config)["']?(?:\s*[=:]\s*|[ \t]{2,}))("(?:[^"\\\n]|\\.)*"|[^\s,;\]}]+)`)
)

// redacted hides what looks like a secret. Nothing that holds one is read, so there should be none: this is the second
// lock on the door.
func redacted(text []byte) []byte {
	text = privateKey.ReplaceAll(text, []byte("(hidden)"))
	return secretValue.ReplaceAll(text, []byte(`${1}"(hidden)"`))
}

// write is the archive: the index first.
func (s *supported) write(w *tar.Writer) error {
	var index strings.Builder
	fmt.Fprintf(&index, "millrace support, %s, version %s\n\n", s.at.UTC().Format(time.RFC3339), version)
	for _, m := range s.members {
		fmt.Fprintf(&index, "%-14s %9d bytes, from %s\n", m.name, len(m.text), m.from)
	}
	for _, why := range s.missing {
		fmt.Fprintf(&index, "missing  %s\n", why)
	}
	for _, m := range append([]member{{name: "index.txt", text: []byte(index.String())}}, s.members...) {
		if err := w.WriteHeader(header("millrace-support/"+m.name, int64(len(m.text)), s.at)); err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(m.text)); err != nil {
			return err
		}
	}
	return nil
}
