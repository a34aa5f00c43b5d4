package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
)

// place is the board that is on this machine: its configuration and its data directory.
type place struct {
	file, data string
}

func (p *place) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.data, "data", "", "data directory; default: log.dirs")
	cmd.Flags().StringVar(&p.file, "config", "", "configuration file")
}

// settings are those of the file, with the data directory that counts.
func (p *place) settings() (*config.Config, error) {
	cfg, err := load(p.file)
	if err == nil && p.data != "" {
		cfg.Broker.LogDirs = p.data
	}
	return cfg, err
}

// dir is the data directory, which a file with mistakes does not keep from being found where --data says it.
func (p *place) dir() (string, error) {
	if p.data != "" {
		return p.data, nil
	}
	cfg, err := load(p.file)
	if err != nil {
		return "", err
	}
	return cfg.Broker.LogDirs, nil
}

func (c *command) status() *cobra.Command {
	var at place
	cmd := &cobra.Command{
		Use: "status", Short: "Say at a glance how the board on this machine is", Args: cobra.NoArgs,
		Long: "Say at a glance how the board on this machine is. A running broker is asked at a socket in its data directory, whatever\n" +
			"its listeners are; of one that does not run, the directory is read.\n\n" +
			"Exit codes: 0 it serves and takes records, 5 it runs and something is wrong (it starts, the disk is full, a partition\nis offline), " +
			"1 it is dead (its data path stands still, or it does not answer), 4 it does not run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := at.dir()
			if err != nil {
				return err
			}
			raw, err := broker.Ask(cmd.Context(), dir, "status")
			switch {
			case errors.Is(err, broker.ErrSilent): // first: that the socket is not there is no missing directory
				return c.dead(dir, err)
			case errors.Is(err, broker.ErrNotRunning), errors.Is(err, fs.ErrNotExist):
				return c.stopped(dir)
			case err != nil:
				return err
			}
			var s broker.Status
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("status of %s: %w", dir, err)
			}
			return c.glance(&s)
		},
	}
	at.flags(cmd)
	return cmd
}

// verdict is what a status comes down to.
func verdict(s *broker.Status) (word string, code int, why string) {
	switch {
	case s.Dead != "":
		return "dead", exitFailed, s.Dead
	case s.State != broker.Serving:
		return s.State, exitPartial, "it is " + s.State
	case s.NotReady != "":
		return "degraded", exitPartial, s.NotReady
	case s.Offline > 0:
		return "degraded", exitPartial, fmt.Sprintf("%d partitions are offline", s.Offline)
	}
	for _, l := range s.Upstream {
		if l.Trouble != "" {
			return "degraded", exitPartial, fmt.Sprintf("link %s: %s", l.Name, l.Trouble)
		}
	}
	return "healthy", 0, ""
}

// glance prints a running board's status.
func (c *command) glance(s *broker.Status) error {
	word, code, why := verdict(s)
	if c.format == "json" {
		if err := c.json(struct {
			Health string `json:"health"`
			*broker.Status
		}{word, s}); err != nil {
			return err
		}
	} else if err := c.screen(s, word, why); err != nil {
		return err
	}
	if code != 0 {
		return fail(code, "%s: %s", word, why)
	}
	return nil
}

func (c *command) screen(s *broker.Status, word, why string) error {
	var rows []string
	row := func(name, format string, args ...any) { rows = append(rows, name+"\t"+fmt.Sprintf(format, args...)) }
	row("version", "millrace %s, process %d", s.Version, s.PID)
	row("since", "%s, %v ago", s.Since.UTC().Format(time.RFC3339), time.Duration(s.Uptime*float64(time.Second)).Round(time.Second))
	row("board", "node %d of cluster %s", s.Node, s.Cluster)
	row("directory", "%s", s.Directory)
	if s.State == broker.Serving {
		row("last end", "%s", strings.TrimSpace(strings.Join([]string{s.LastEnd.How, s.LastEnd.Why, s.LastEnd.Hardware}, " ")))
		row("listeners", "kafka %s  mqtt %s  http %s", places(s.Listeners.Kafka), places(s.Listeners.MQTT), places(s.Listeners.HTTP))
		row("connections", "kafka %d  mqtt %d  http %d", s.Connections.Kafka, s.Connections.MQTT, s.Connections.HTTP)
		row("disk", "%s free of %s, %s of it kept back", amount(s.Disk.Free), amount(s.Disk.Limit), amount(s.Disk.Reserve))
		row("memory", "%s resident, limit %s", amount(s.Memory.Used), amount(s.Memory.Limit))
		row("data", "%d topics, %d partitions (%d offline), %d records", s.Topics, s.Partitions, s.Offline, s.Records)
		row("backlog", "%d records not read by %d groups, %s wait for the disk", s.Lag, s.Groups, amount(s.Queued))
	}
	for _, l := range s.Upstream {
		row("link "+l.Name, "%s, %s", l.State, behind(&l))
	}
	for i, line := range s.Troubles {
		if i == 0 {
			row("troubles", "%s", line)
			continue
		}
		row("", "%s", line)
	}
	if why != "" {
		word += ": " + why
	}
	return c.table("health\t"+word, rows)
}

func places(addresses []string) string {
	if len(addresses) == 0 {
		return "-"
	}
	return strings.Join(addresses, " ")
}

// amount is bytes for people.
func amount(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// stopped tells of a directory that no broker has open.
func (c *command) stopped(dir string) error {
	meta, err := broker.ReadMeta(disk.OS{}, dir)
	if err != nil {
		return fail(exitMissing, "it does not run, and there is no data: %w", err)
	}
	outline, err := broker.ReadOutline(disk.OS{}, dir)
	if err != nil {
		return fail(exitMissing, "it does not run: %s: %w", dir, err)
	}
	space, err := disk.OS{}.Usage(dir)
	if err != nil {
		return err
	}
	if err := c.show(map[string]any{
		"health": "stopped", "directory": dir, "cluster": meta.ClusterID, "node": meta.NodeID, "topics": len(outline.Topics),
		"disk": broker.Room{Limit: space.Total, Used: space.Total - space.Free, Free: space.Free},
	}, "health     stopped\nboard      node %d of cluster %s\ndirectory  %s\ndisk       %s free of %s\ndata       %d topics\n",
		meta.NodeID, meta.ClusterID, dir, amount(space.Free), amount(space.Total), len(outline.Topics)); err != nil {
		return err
	}
	return fail(exitMissing, "no broker runs on %s", dir)
}

// dead tells of a broker that has the directory and does not answer.
func (c *command) dead(dir string, why error) error {
	if err := c.show(map[string]any{"health": "dead", "directory": dir, "dead": why.Error()}, "health     dead: it does not answer\ndirectory  %s\n", dir); err != nil {
		return err
	}
	return coded{why, exitFailed}
}
