package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func (c *command) group() *cobra.Command {
	var e endpoint
	parent := &cobra.Command{Use: "group", Short: "List, describe, reset and delete consumer groups"}
	e.flags(parent)
	admin := func(cmd *cobra.Command, fn func(context.Context, *kadm.Client) error) error {
		return e.admin(cmd.Context(), fn)
	}
	list := &cobra.Command{
		Use: "list", Short: "List the groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return admin(cmd, c.listGroups) },
	}
	describe := &cobra.Command{
		Use: "describe NAME", Short: "Show members, offsets and lag of a group", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return admin(cmd, func(ctx context.Context, a *kadm.Client) error { return c.describeGroup(ctx, a, args[0]) })
		},
	}
	del := &cobra.Command{
		Use: "delete NAME...", Short: "Delete groups without members, and their offsets", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return admin(cmd, func(ctx context.Context, a *kadm.Client) error { return c.deleteGroups(ctx, a, args) })
		},
	}
	parent.AddCommand(list, describe, c.resetOffsets(&e), del)
	return parent
}

func (c *command) listGroups(ctx context.Context, a *kadm.Client) error {
	groups, err := a.ListGroups(ctx)
	if err != nil {
		return err
	}
	var rows []string
	for _, g := range groups.Sorted() {
		if c.format == "json" {
			if err := c.json(map[string]any{"group": g.Group, "state": g.State, "protocol_type": g.ProtocolType}); err != nil {
				return err
			}
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", g.Group, g.State, g.ProtocolType))
	}
	if c.format == "json" {
		return nil
	}
	return c.table("GROUP\tSTATE\tTYPE", rows)
}

// assigned is who reads a partition of a group now.
type assigned struct{ id, client, host string }

// dash stands for what there is not, as in Kafka's tools.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (c *command) describeGroup(ctx context.Context, a *kadm.Client, name string) error {
	lags, err := a.Lag(ctx, name)
	if err != nil {
		return err
	}
	g := lags[name]
	if err := g.Error(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if g.State == "Dead" {
		return fail(exitMissing, "there is no group %s", name)
	}
	var rows, memberRows []string
	partitions, members := []map[string]any{}, []map[string]any{}
	for _, l := range g.Lag.Sorted() {
		if errors.Is(l.Err, kerr.UnknownTopicOrPartition) {
			continue // deleted just now
		}
		if l.Err != nil {
			return fmt.Errorf("%s-%d: %w", l.Topic, l.Partition, l.Err)
		}
		var who assigned
		if l.Member != nil {
			who = assigned{l.Member.MemberID, l.Member.ClientID, l.Member.ClientHost}
		}
		at := "-"
		row := map[string]any{"topic": l.Topic, "partition": l.Partition, "end": l.End.Offset, "lag": l.Lag}
		if l.Commit.At >= 0 {
			at = strconv.FormatInt(l.Commit.At, 10)
			row["offset"] = l.Commit.At
		}
		if who.id != "" {
			row["member"], row["client"], row["host"] = who.id, who.client, who.host
		}
		partitions = append(partitions, row)
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%d\t%d\t%s\t%s\t%s",
			l.Topic, l.Partition, at, l.End.Offset, l.Lag, dash(who.id), dash(who.client), dash(who.host)))
	}
	for _, m := range g.Members {
		n := 0
		if assignment, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assignment.Topics {
				n += len(t.Partitions)
			}
		}
		instance := ""
		if m.InstanceID != nil {
			instance = *m.InstanceID
		}
		members = append(members, map[string]any{
			"member": m.MemberID, "instance": instance, "client": m.ClientID, "host": m.ClientHost, "partitions": n,
		})
		memberRows = append(memberRows, fmt.Sprintf("%s\t%s\t%s\t%s\t%d", m.MemberID, dash(instance), dash(m.ClientID), dash(m.ClientHost), n))
	}
	if c.format == "json" {
		return c.json(map[string]any{
			"group": name, "state": g.State, "protocol_type": g.ProtocolType, "protocol": g.Protocol,
			"coordinator": g.Coordinator.NodeID, "lag": g.Lag.Total(), "partitions": partitions, "members": members,
		})
	}
	if _, err := fmt.Fprintf(c.out, "%s  %s  protocol %s  coordinator %d  lag %d\n\n",
		name, g.State, dash(g.Protocol), g.Coordinator.NodeID, g.Lag.Total()); err != nil {
		return err
	}
	if err := c.table("TOPIC\tPARTITION\tOFFSET\tEND\tLAG\tMEMBER\tCLIENT\tHOST", rows); err != nil {
		return err
	}
	if len(memberRows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(c.out); err != nil {
		return err
	}
	return c.table("MEMBER\tINSTANCE\tCLIENT\tHOST\tPARTITIONS", memberRows)
}

func (c *command) deleteGroups(ctx context.Context, a *kadm.Client, names []string) error {
	answers, err := a.DeleteGroups(ctx, names...)
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range names {
		if err := answers[name].Err; err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if err := c.show(map[string]any{"group": name, "deleted": true}, "deleted %s\n", name); err != nil {
			return err
		}
	}
	switch err := errors.Join(failed...); {
	case err != nil && len(failed) < len(names):
		return coded{err, exitPartial}
	default:
		return answered(err)
	}
}

// reset is where offsets are to go; exactly one of its flags is given.
type reset struct {
	earliest, latest bool
	offset           int64
	datetime         string
	shift            int64
	topics           []string
	allTopics        bool
	execute          bool
}

// resetTargets are the flags of which one says where to.
var resetTargets = []string{"to-earliest", "to-latest", "to-offset", "to-datetime", "shift-by"}

func (c *command) resetOffsets(e *endpoint) *cobra.Command {
	var r reset
	cmd := &cobra.Command{
		Use: "reset-offsets NAME", Short: "Move a group's offsets; without --execute it only shows where to", Args: cobra.ExactArgs(1),
		Long: "Move the offsets of a group that nobody is a member of. It shows where they would go; with --execute they go there.\n" +
			"An offset outside the log becomes the nearest that is in it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := r.time()
			if err != nil {
				return err
			}
			if r.allTopics == (len(r.topics) > 0) {
				return fail(exitUsage, "say which: --topic or --all-topics")
			}
			targets := slices.DeleteFunc(slices.Clone(resetTargets), func(name string) bool { return !cmd.Flags().Changed(name) })
			if len(targets) != 1 {
				return fail(exitUsage, "say where to, once: --%s", strings.Join(resetTargets, ", --"))
			}
			if r.execute && cmd.Flags().Changed("dry-run") {
				return fail(exitUsage, "--execute and --dry-run at once")
			}
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				return c.reset(ctx, a, args[0], &r, targets[0], at)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.earliest, "to-earliest", false, "to the first record there is")
	f.BoolVar(&r.latest, "to-latest", false, "to the end")
	f.Int64Var(&r.offset, "to-offset", 0, "to this offset")
	f.StringVar(&r.datetime, "to-datetime", "", "to the first record of this time or later: 2026-01-31T12:00:00, UTC unless it says its zone")
	f.Int64Var(&r.shift, "shift-by", 0, "so many records further, or back if negative")
	f.StringArrayVar(&r.topics, "topic", nil, "TOPIC, or TOPIC:0,1,2 for some of its partitions; may repeat")
	f.BoolVar(&r.allTopics, "all-topics", false, "all topics the group has offsets of")
	f.BoolVar(&r.execute, "execute", false, "do it")
	f.Bool("dry-run", false, "only show; this is the default")
	return cmd
}

// time is the time of --to-datetime in ms.
func (r *reset) time() (int64, error) {
	if r.datetime == "" {
		return 0, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04:05Z07:00"} { // both read fractions too
		if t, err := time.Parse(layout, r.datetime); err == nil {
			return t.UnixMilli(), nil
		}
	}
	return 0, fail(exitUsage, "--to-datetime %s: want a time like 2026-01-31T12:00:00.000", r.datetime)
}

// chosen reads --topic: partitions by topic, none for all.
func (r *reset) chosen() (map[string][]int32, error) {
	chosen := map[string][]int32{}
	for _, word := range r.topics {
		topic, list, some := strings.Cut(word, ":")
		var partitions []int32
		if some {
			for one := range strings.SplitSeq(list, ",") {
				n, err := strconv.ParseUint(one, 10, 31)
				if err != nil {
					return nil, fail(exitUsage, "--topic %s: want TOPIC or TOPIC:0,1,2", word)
				}
				partitions = append(partitions, int32(n))
			}
		}
		chosen[topic] = partitions
	}
	return chosen, nil
}

// reset moves a group's offsets, or shows where they would go.
func (c *command) reset(ctx context.Context, a *kadm.Client, name string, r *reset, target string, at int64) error {
	chosen, err := r.chosen()
	if err != nil {
		return err
	}
	described, err := a.DescribeGroups(ctx, name)
	if err != nil {
		return err
	}
	g := described[name]
	missing := errors.Is(g.Err, kerr.GroupIDNotFound) || g.State == "Dead"
	switch {
	case g.Err != nil && !missing:
		return fmt.Errorf("%s: %w", name, g.Err)
	case missing && r.allTopics:
		return fail(exitMissing, "there is no group %s", name)
	case len(g.Members) > 0:
		return fail(exitFailed, "%s has %d members: its offsets move when they have left", name, len(g.Members))
	}
	committed, err := a.FetchOffsets(ctx, name)
	if err != nil {
		return err
	}
	if r.allTopics {
		for topic, partitions := range committed {
			for p := range partitions {
				chosen[topic] = append(chosen[topic], p)
			}
		}
		if len(chosen) == 0 {
			return fail(exitMissing, "%s has no offsets", name)
		}
	}
	moves, err := plan(ctx, a, chosen, committed, r, target, at)
	if err != nil {
		return err
	}
	if r.execute {
		answers, err := a.CommitOffsets(ctx, name, moves.offsets())
		if err == nil {
			err = answers.Error()
		}
		if err != nil {
			return err
		}
	}
	return c.moved(name, moves, r.execute)
}

// move is an offset that goes from one place to another; from is -1 where there is none.
type move struct {
	topic     string
	partition int32
	from, to  int64
}

type moves []move

func (m moves) offsets() kadm.Offsets {
	o := kadm.Offsets{}
	for _, one := range m {
		o.Add(kadm.Offset{Topic: one.topic, Partition: one.partition, At: one.to, LeaderEpoch: -1})
	}
	return o
}

// plan is where the offsets of the chosen partitions go.
func plan(
	ctx context.Context, a *kadm.Client, chosen map[string][]int32, committed kadm.OffsetResponses, r *reset, target string, at int64,
) (moves, error) {
	var names []string
	for topic := range chosen {
		names = append(names, topic)
	}
	slices.Sort(names)
	starts, err := a.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	ends, err := a.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	var after kadm.ListedOffsets
	if target == "to-datetime" {
		if after, err = a.ListOffsetsAfterMilli(ctx, at, names...); err != nil {
			return nil, err
		}
	}
	var list moves
	for _, topic := range names {
		partitions := chosen[topic]
		if len(partitions) == 0 {
			for p := range ends[topic] {
				partitions = append(partitions, p)
			}
		}
		slices.Sort(partitions)
		for _, p := range slices.Compact(partitions) {
			start, _ := starts.Lookup(topic, p)
			end, ok := ends.Lookup(topic, p)
			if err := errors.Join(start.Err, end.Err); err != nil {
				return nil, fmt.Errorf("%s-%d: %w", topic, p, err)
			}
			if !ok {
				return nil, fail(exitMissing, "%s has no partition %d", topic, p)
			}
			m := move{topic, p, -1, end.Offset}
			if o, ok := committed.Lookup(topic, p); ok && o.Err == nil {
				m.from = o.At
			}
			switch target {
			case "to-earliest":
				m.to = start.Offset
			case "to-offset":
				m.to = r.offset
			case "to-datetime":
				if o, ok := after.Lookup(topic, p); ok && o.Err == nil && o.Offset >= 0 {
					m.to = o.Offset
				}
			case "shift-by":
				if m.from < 0 {
					return nil, fail(exitFailed, "%s-%d has no offset to shift", topic, p)
				}
				m.to = m.from + r.shift
			}
			m.to = min(max(m.to, start.Offset), end.Offset)
			list = append(list, m)
		}
	}
	return list, nil
}

// moved shows what was moved, or would be.
func (c *command) moved(group string, list moves, executed bool) error {
	var rows []string
	for _, m := range list {
		from := "-"
		row := map[string]any{"group": group, "topic": m.topic, "partition": m.partition, "new_offset": m.to, "executed": executed}
		if m.from >= 0 {
			from = strconv.FormatInt(m.from, 10)
			row["offset"] = m.from
		}
		if c.format == "json" {
			if err := c.json(row); err != nil {
				return err
			}
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%s\t%d", group, m.topic, m.partition, from, m.to))
	}
	if c.format == "json" {
		return nil
	}
	if err := c.table("GROUP\tTOPIC\tPARTITION\tOFFSET\tNEW-OFFSET", rows); err != nil {
		return err
	}
	if !executed {
		c.note("nothing was changed; with --execute it is")
	}
	return nil
}
