package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"millrace/broker/catalog"
)

func (c *command) topic() *cobra.Command {
	var e endpoint
	var partitions int32
	var replication int16
	var config []string
	create := &cobra.Command{
		Use: "create NAME", Short: "Create a topic", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings := map[string]*string{}
			if err := pairs(config, func(k, v string) { settings[k] = &v }); err != nil {
				return err
			}
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				r, err := a.CreateTopic(ctx, partitions, replication, settings, args[0])
				if err != nil {
					return told(args[0], err, r.ErrMessage)
				}
				return c.show(map[string]any{"topic": args[0], "id": catalog.TopicID(r.ID).String(), "partitions": r.NumPartitions}, "created %s\n", args[0])
			})
		},
	}
	create.Flags().Int32Var(&partitions, "partitions", -1, "-1: the broker's default")
	create.Flags().Int16Var(&replication, "replication-factor", -1, "-1: the broker's default")
	create.Flags().StringArrayVar(&config, "config", nil, "KEY=VALUE, a topic setting; may repeat")

	list := &cobra.Command{
		Use: "list", Short: "List the topics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				topics, err := a.ListTopicsWithInternal(ctx)
				if err != nil {
					return err
				}
				for _, t := range topics.Sorted() {
					if err := c.show(map[string]any{"topic": t.Topic, "partitions": len(t.Partitions)}, "%s\n", t.Topic); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}

	describe := &cobra.Command{
		Use: "describe NAME", Short: "Show partitions, offsets and settings of a topic", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error { return c.describe(ctx, a, args[0]) })
		},
	}

	var grow int
	var remove []string
	alter := &cobra.Command{
		Use: "alter NAME", Short: "Change settings of a topic or add partitions", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := []kadm.AlterConfig{}
			if err := pairs(config, func(k, v string) {
				changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
			}); err != nil {
				return err
			}
			for _, k := range remove {
				changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
			}
			if len(changes) == 0 && grow == 0 {
				return fail(exitUsage, "nothing to change: --config, --delete-config or --partitions")
			}
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				return c.alter(ctx, a, args[0], changes, grow)
			})
		},
	}
	alter.Flags().StringArrayVar(&config, "config", nil, "KEY=VALUE, a topic setting; may repeat")
	alter.Flags().StringArrayVar(&remove, "delete-config", nil, "KEY, back to its default; may repeat")
	alter.Flags().IntVar(&grow, "partitions", 0, "the new number of partitions")

	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a topic and its records", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				answers, err := a.DeleteTopics(ctx, args...)
				if err != nil {
					return err
				}
				if r := answers[args[0]]; r.Err != nil {
					return told(args[0], r.Err, r.ErrMessage)
				}
				return c.show(map[string]any{"topic": args[0], "deleted": true}, "deleted %s\n", args[0])
			})
		},
	}
	parent := group("topic", "Create, list, describe, alter and delete topics", create, list, describe, alter, del)
	e.flags(parent)
	return parent
}

func (c *command) describe(ctx context.Context, a *kadm.Client, name string) error {
	topics, err := a.ListTopics(ctx, name)
	if err != nil {
		return err
	}
	t := topics[name]
	if t.Err != nil {
		return told(name, t.Err, "")
	}
	starts, err := a.ListStartOffsets(ctx, name)
	if err != nil {
		return err
	}
	ends, err := a.ListEndOffsets(ctx, name)
	if err != nil {
		return err
	}
	resources, err := a.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return err
	}
	var rows []string
	var partitions, settings []map[string]any
	for _, p := range t.Partitions.Sorted() {
		start, _ := starts.Lookup(name, p.Partition)
		end, _ := ends.Lookup(name, p.Partition)
		if start.Err != nil || end.Err != nil {
			return fmt.Errorf("%s-%d: offsets: %v, %v", name, p.Partition, start.Err, end.Err)
		}
		rows = append(rows, fmt.Sprintf("%d\t%d\t%d\t%d\t%v\t%v", p.Partition, start.Offset, end.Offset, p.Leader, p.Replicas, p.ISR))
		partitions = append(partitions, map[string]any{
			"partition": p.Partition, "start": start.Offset, "end": end.Offset, "leader": p.Leader, "replicas": p.Replicas, "isr": p.ISR,
		})
	}
	var text []string
	for _, r := range resources {
		if r.Err != nil {
			return told(name, r.Err, r.ErrMessage)
		}
		for _, s := range r.Configs {
			settings = append(settings, map[string]any{"name": s.Key, "value": s.MaybeValue(), "source": s.Source.String()})
			text = append(text, fmt.Sprintf("%s\t%s\t%s", s.Key, s.MaybeValue(), s.Source))
		}
	}
	if c.format == "json" {
		return c.json(map[string]any{"topic": name, "id": catalog.TopicID(t.ID).String(), "partitions": partitions, "config": settings})
	}
	if _, err := fmt.Fprintf(c.out, "%s  id %s\n\n", name, catalog.TopicID(t.ID)); err != nil {
		return err
	}
	if err := c.table("PARTITION\tSTART\tEND\tLEADER\tREPLICAS\tISR", rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.out); err != nil {
		return err
	}
	return c.table("SETTING\tVALUE\tSOURCE", text)
}

func (c *command) alter(ctx context.Context, a *kadm.Client, name string, changes []kadm.AlterConfig, partitions int) error {
	if len(changes) > 0 {
		answers, err := a.AlterTopicConfigs(ctx, changes, name)
		if err != nil {
			return err
		}
		for _, r := range answers {
			if r.Err != nil {
				return told(name, r.Err, r.ErrMessage)
			}
		}
	}
	if partitions > 0 {
		answers, err := a.UpdatePartitions(ctx, partitions, name)
		if err != nil {
			return err
		}
		if r := answers[name]; r.Err != nil {
			err := told(name, r.Err, r.ErrMessage)
			if len(changes) > 0 {
				return fail(exitPartial, "the settings were changed, the partitions not: %w", err)
			}
			return err
		}
	}
	return c.show(map[string]any{"topic": name, "altered": true}, "altered %s\n", name)
}

// pairs splits KEY=VALUE words.
func pairs(words []string, put func(key, value string)) error {
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return fail(exitUsage, "%q is not KEY=VALUE", w)
		}
		put(k, v)
	}
	return nil
}
