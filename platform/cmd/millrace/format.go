package main

import (
	"errors"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
)

const formatVersion = broker.FormatVersion

func (c *command) randomUUID() *cobra.Command {
	return &cobra.Command{
		Use: "random-uuid", Short: "Print a new cluster id", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			id := broker.RandomUUID()
			return c.show(map[string]string{"uuid": id}, "%s\n", id)
		},
	}
}

func (c *command) formatDir() *cobra.Command {
	var clusterID string
	var node int32
	cmd := &cobra.Command{
		Use: "format DIR", Short: "Make an empty directory a data directory", Args: cobra.ExactArgs(1),
		Long: "Make an empty directory a data directory. `serve` does it too; this one lets you say the cluster id.",
		RunE: func(_ *cobra.Command, args []string) error {
			if clusterID != "" {
				if err := broker.ValidClusterID(clusterID); err != nil {
					return coded{err, exitUsage}
				}
			}
			meta, err := broker.ReadMeta(disk.OS{}, args[0])
			if err == nil {
				return fail(exitFailed, "%s is formatted already, cluster %s", args[0], meta.ClusterID)
			}
			if !errors.Is(err, broker.ErrNotFormatted) {
				return err
			}
			meta, err = broker.Format(disk.OS{}, args[0], clusterID, node)
			if err != nil {
				return err
			}
			return c.show(map[string]any{"directory": args[0], "cluster.id": meta.ClusterID, "node.id": meta.NodeID},
				"formatted %s, cluster %s, node %d\n", args[0], meta.ClusterID, meta.NodeID)
		},
	}
	cmd.Flags().StringVarP(&clusterID, "cluster-id", "t", "", "`ID` of the cluster, as random-uuid prints one; default: a new one")
	cmd.Flags().Int32Var(&node, "node-id", 1, "of this board")
	return cmd
}
