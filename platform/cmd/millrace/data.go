package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
)

func (c *command) dump() *cobra.Command {
	var records bool
	cmd := &cobra.Command{
		Use: "dump PATH...", Short: "Print what is in a data file", Args: cobra.MinimumNArgs(1),
		Long: "Print what is in a file of a data directory (.log .index .timeindex .topicindex .snapshot leader-epoch-checkpoint\nlog-start-causes partition.metadata checkpoint.0 checkpoint.1 meta.properties) or in its journal directory.\nIn JSON a record's key and value are base64. It changes nothing, and a broker may be running.",
		RunE: func(_ *cobra.Command, args []string) error {
			for _, path := range args {
				err := broker.Dump(disk.OS{}, path, records, func(l broker.Line) error {
					if c.format == "json" {
						return c.json(l)
					}
					_, err := fmt.Fprintln(c.out, l)
					return err
				})
				switch {
				case errors.Is(err, broker.ErrDamage):
					return coded{err, exitDamage}
				case errors.Is(err, fs.ErrNotExist):
					return coded{err, exitMissing}
				case errors.Is(err, broker.ErrNoDump):
					return coded{err, exitUsage}
				case err != nil:
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&records, "records", false, "of a log, the records too")
	return cmd
}

func (c *command) fsck() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use: "fsck DIR", Short: "Check every byte of a data directory that no broker has open", Args: cobra.ExactArgs(1),
		Long: "Check every byte of a data directory that no broker has open. It changes nothing without --repair, which\nsays first what it will do. Exit code 3 means damage.",
		RunE: func(_ *cobra.Command, args []string) error {
			report, err := broker.Fsck(disk.OS{}, args[0], func(partition string) { c.note("checking %s", partition) })
			if errors.Is(err, broker.ErrNotFormatted) || errors.Is(err, fs.ErrNotExist) {
				return coded{err, exitMissing}
			}
			if err != nil {
				return err
			}
			if repair {
				c.plan(report)
				if err := report.Repair(disk.OS{}); err != nil {
					return fail(exitPartial, "repair: %w", err)
				}
			}
			if err := c.report(report); err != nil {
				return err
			}
			if report.Damaged() {
				return fail(exitDamage, "%s is damaged; a broker starts on it all the same and serves what is good", args[0])
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "put right what can be put right offline")
	return cmd
}

// plan says what a repair will do.
func (c *command) plan(r *broker.FsckReport) {
	todo := 0
	for _, f := range r.Findings {
		if f.Repair != "" {
			c.note("will repair %s: %s", f.Path, f.Repair)
			todo++
		}
	}
	if todo == 0 {
		c.note("nothing to repair offline")
	}
}

func (c *command) report(r *broker.FsckReport) error {
	if c.format == "json" {
		return c.json(r)
	}
	for _, f := range r.Findings {
		kind := "note"
		if f.Damage {
			kind = "DAMAGE"
		}
		if _, err := fmt.Fprintf(c.out, "%s  %s: %s\n", kind, f.Path, f.Text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(c.out, "%d partitions, %d segments, %d batches, %d bytes, %d journal frames; %d findings\n",
		r.Partitions, r.Segments, r.Batches, r.Bytes, r.Frames, len(r.Findings))
	return err
}
