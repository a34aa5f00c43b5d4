package main

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
)

func (c *command) factoryReset() *cobra.Command {
	var d directory
	var keep, yes bool
	cmd := &cobra.Command{
		Use: "factory-reset", Short: "Remove everything a board has, so that its next start is a first start", Args: cobra.NoArgs,
		Long: "Remove everything a board has, so that its next start is a first start: topics and records, users, sessions, its key,\ncertificate, cluster id and node id. Without --yes it only says what it would remove. No broker may have the directory\nopen. After a power cut in the middle the next start goes on with it. Configuration files stay. Flash may go on holding\nwhat was removed, for who takes the chip out.",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := d.settings()
			if err != nil {
				return err
			}
			dir := cfg.Broker.LogDirs
			plan, err := broker.ResetPlan(disk.OS{}, dir, keep)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, broker.ErrNotFormatted):
				return coded{err, exitMissing}
			case err != nil:
				return err
			case !yes:
				return fail(exitUsage, "nothing was removed; with --yes %s loses for good: %s", dir, strings.Join(plan, " "))
			}
			if err := asOwner(dir); err != nil {
				return err
			}
			removed, err := broker.FactoryReset(disk.OS{}, dir, keep)
			if err != nil {
				return err
			}
			if removed == nil {
				removed = []string{}
			}
			return c.show(map[string]any{"directory": dir, "removed": removed, "identity kept": keep},
				"removed from %s: %s\nthe next start is a first start\n", dir, strings.Join(removed, " "))
		},
	}
	d.flags(cmd)
	cmd.Flags().BoolVar(&keep, "keep-identity", false, "keep the key and certificate, cluster id and node id: clients go on believing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}
