package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// lineMax bounds one line of input, in bytes.
	lineMax = 16 << 20
	// pendingMax bounds the records that wait for their acknowledgement.
	pendingMax = 1000
	// progressEvery records a line of progress is written to stderr.
	progressEvery = 100_000
)

func (c *command) produce() *cobra.Command {
	var e endpoint
	var key, separator string
	var partition int32
	var headers []string
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "Write the lines of standard input to a topic", Args: cobra.ExactArgs(1),
		Long: "Write the lines of standard input to a topic, one record a line. It ends when all of them are acknowledged: on flash.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if partition < -1 {
				return fail(exitUsage, "--partition %d: want -1 or more", partition)
			}
			record := kgo.Record{Topic: args[0], Partition: partition}
			if cmd.Flags().Changed("key") {
				record.Key = []byte(key)
			}
			if err := pairs(headers, func(k, v string) {
				record.Headers = append(record.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
			}); err != nil {
				return err
			}
			options := []kgo.Opt{
				kgo.AllowAutoTopicCreation(), kgo.MaxBufferedRecords(pendingMax), kgo.RequiredAcks(kgo.AllISRAcks()),
				kgo.ProducerBatchCompression(kgo.NoCompression()),
			}
			if partition < -1 {
				return fail(exitUsage, "--partition %d: want a partition's number, or -1", partition)
			}
			if partition >= 0 {
				options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			}
			client, err := e.client(cmd.Context(), options...)
			if err != nil {
				return err
			}
			defer client.Close()
			if partition >= 0 {
				if err := has(cmd.Context(), kadm.NewClient(client), args[0], partition); err != nil {
					return err
				}
			}
			return c.lines(cmd.Context(), client, record, separator)
		},
	}
	e.flags(cmd)
	c.complete(cmd, "bootstrap-server")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.Flags().StringVarP(&key, "key", "k", "", "of every record; default: none")
	cmd.Flags().StringVarP(&separator, "key-separator", "K", "", "what stands between key and value in a line")
	cmd.Flags().Int32VarP(&partition, "partition", "p", -1, "-1: by the key")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "KEY=VALUE on every record; may repeat")
	return cmd
}

// has says whether a topic has a partition. A topic that is not there yet may get it.
func has(ctx context.Context, a *kadm.Client, topic string, partition int32) error {
	topics, err := a.ListTopics(ctx, topic)
	if err != nil {
		return answered(err)
	}
	if t := topics[topic]; t.Err == nil {
		if _, ok := t.Partitions[partition]; !ok {
			return fail(exitMissing, "%s has no partition %d: it has %d, from 0 on", topic, partition, len(t.Partitions))
		}
	}
	return nil
}

// lines produces every line of the input with what the record has.
func (c *command) lines(ctx context.Context, client *kgo.Client, like kgo.Record, separator string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var acknowledged int64 // counted by the client's promises, one at a time, and read after Flush
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			words := ""
			if errors.Is(err, kerr.MessageTooLarge) {
				words = "a record is larger than the topic's max.message.bytes allows"
			}
			cancel(told(like.Topic, err, words))
			return
		}
		if acknowledged++; acknowledged%progressEvery == 0 {
			c.note("%d acknowledged", acknowledged)
		}
	}
	scan := bufio.NewScanner(c.in)
	scan.Buffer(nil, lineMax)
	sent := int64(0)
	for ctx.Err() == nil && scan.Scan() {
		record := like
		value := scan.Text()
		if separator != "" {
			k, v, ok := strings.Cut(value, separator)
			if !ok {
				cancel(fail(exitUsage, "line %d has no %q", sent+1, separator))
				break
			}
			record.Key, value = []byte(k), v
		}
		record.Value = []byte(value)
		sent++
		client.Produce(ctx, &record, promise)
	}
	flushErr := client.Flush(ctx)
	err := scan.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("line %d is longer than %d bytes", sent+1, lineMax)
	}
	err = errors.Join(context.Cause(ctx), err)
	if err == nil {
		err = flushErr
	}
	if err != nil && acknowledged > 0 {
		return fail(exitPartial, "%d of %d records acknowledged: %w", acknowledged, sent, err)
	}
	if err != nil {
		return answered(err)
	}
	if c.format == "json" {
		return c.json(map[string]any{"topic": like.Topic, "records": acknowledged})
	}
	c.note("%d records acknowledged", acknowledged)
	return nil
}

func (c *command) consume() *cobra.Command {
	var e endpoint
	var from, group string
	var partition int32
	var count int64
	var untilEnd bool
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Print the records of a topic", Args: cobra.ExactArgs(1),
		Long: "Print the records of a topic, until interrupted. Text is the value, a line each; -o json has everything.\n" +
			"With --group it is a member of the group and commits what it has printed; --from counts where the group has no offset.",
		RunE: func(cmd *cobra.Command, args []string) error {
			offset, first, err := parseOffset(from)
			if err != nil {
				return err
			}
			if partition < -1 || count < 0 {
				return fail(exitUsage, "--partition %d --count %d: want -1 or more, and 0 or more", partition, count)
			}
			if group != "" {
				if partition >= 0 || untilEnd {
					return fail(exitUsage, "--group shares the partitions out by itself, and has no end: not with --partition or --until-end")
				}
				return c.member(cmd.Context(), &e, args[0], group, offset, count)
			}
			// With those that mark transactions and fillers, or the end would never be seen where one of them is last.
			client, err := e.client(cmd.Context(), kgo.KeepControlRecords())
			if err != nil {
				return err
			}
			defer client.Close()
			ends, err := kadm.NewClient(client).ListEndOffsets(cmd.Context(), args[0])
			if err == nil {
				err = ends.Error()
			}
			if err != nil {
				return told(args[0], err, "")
			}
			left := map[int32]int64{}
			start := map[int32]kgo.Offset{}
			for p, end := range ends[args[0]] {
				if partition >= 0 && p != partition {
					continue
				}
				left[p], start[p] = end.Offset, offset
				if first > end.Offset { // from where it will go on: the broker knows no place behind its end
					start[p] = kgo.NewOffset().At(end.Offset)
				}
			}
			if len(start) == 0 {
				return fail(exitMissing, "%s has no partition %d: it has %d, from 0 on", args[0], partition, len(ends[args[0]]))
			}
			if !untilEnd {
				left = nil
			} else if err := c.alreadyRead(cmd.Context(), kadm.NewClient(client), args[0], from, left); err != nil || len(left) == 0 {
				return err
			}
			client.AddConsumePartitions(map[string]map[int32]kgo.Offset{args[0]: start})
			return c.records(cmd.Context(), client, left, first, count, nil)
		},
	}
	e.flags(cmd)
	c.complete(cmd, "bootstrap-server")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.Flags().StringVar(&from, "from", "beginning", "beginning, end, or an offset")
	cmd.Flags().StringVarP(&group, "group", "g", "", "the consumer group to be a member of")
	cmd.Flags().Int32VarP(&partition, "partition", "p", -1, "-1: all")
	cmd.Flags().Int64VarP(&count, "count", "n", 0, "end after so many records; 0: never")
	cmd.Flags().BoolVar(&untilEnd, "until-end", false, "end where the topic ended when this began")
	c.complete(cmd, "from", "beginning", "end")
	return cmd
}

// member prints what the group has this one read, and commits it.
func (c *command) member(ctx context.Context, e *endpoint, topic, group string, from kgo.Offset, count int64) error {
	client, err := e.client(ctx, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(from), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll())
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance() // and leave the group
	topics, err := kadm.NewClient(client).ListTopics(ctx, topic)
	if err == nil {
		err = topics[topic].Err
	}
	if err != nil {
		return told(topic, err, "")
	}
	return c.records(ctx, client, nil, 0, count, func(printed []*kgo.Record) error {
		// What was printed is committed even when there is no time for more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := client.CommitRecords(ctx, printed...); err != nil {
			return answered(fmt.Errorf("commit: %w", err))
		}
		client.AllowRebalance()
		return nil
	})
}

// parseOffset is where to begin; first is the lowest offset that is wanted.
func parseOffset(s string) (from kgo.Offset, first int64, err error) {
	switch s {
	case "beginning":
		return kgo.NewOffset().AtStart(), 0, nil
	case "end":
		return kgo.NewOffset().AtEnd(), 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return kgo.Offset{}, 0, fail(exitUsage, "--from %s: want beginning, end or an offset", s)
	}
	return kgo.NewOffset().At(n), n, nil
}

// alreadyRead takes out of left the partitions that have nothing between from and their end.
func (c *command) alreadyRead(ctx context.Context, a *kadm.Client, topic, from string, left map[int32]int64) error {
	starts, err := a.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return answered(err)
	}
	at, isOffset := strconv.ParseInt(from, 10, 64)
	for p, end := range left {
		start, _ := starts.Lookup(topic, p)
		if from == "end" || start.Offset >= end || isOffset == nil && at >= end {
			delete(left, p)
		}
	}
	return nil
}

// records prints those from offset first on until count are printed, the ends in left are reached, or ctx is done. A nil
// left and a zero count bound nothing. printed, where it is not nil, is called with what was printed of every poll.
func (c *command) records(ctx context.Context, client *kgo.Client, left map[int32]int64, first, count int64, printed func([]*kgo.Record) error) error {
	if printed == nil {
		printed = func([]*kgo.Record) error { return nil }
	}
	bounded := left != nil
	out := bufio.NewWriter(c.out)
	sink := &command{out: out, errs: c.errs, format: c.format}
	total := int64(0)
	for {
		fetches := client.PollRecords(ctx, pendingMax)
		if ctx.Err() != nil {
			return out.Flush()
		}
		for _, f := range fetches.Errors() {
			return errors.Join(told(f.Topic, f.Err, ""), out.Flush())
		}
		var batch []*kgo.Record
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			end, wanted := left[r.Partition]
			if bounded && !wanted {
				continue
			}
			if (!bounded || r.Offset < end) && r.Offset >= first && !r.Attrs.IsControl() {
				if err := sink.record(out, r); err != nil {
					return err
				}
				batch = append(batch, r)
				if total++; total == count {
					return errors.Join(out.Flush(), printed(batch))
				}
			}
			if r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if err := printed(batch); err != nil || bounded && len(left) == 0 {
			return err
		}
	}
}

func (c *command) record(out io.Writer, r *kgo.Record) error {
	if c.format != "json" {
		_, err := fmt.Fprintf(out, "%s\n", r.Value)
		return err
	}
	headers := make([]map[string]any, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = map[string]any{"key": h.Key, "value": textOrBytes(h.Value)}
	}
	return c.json(map[string]any{
		"topic": r.Topic, "partition": r.Partition, "offset": r.Offset, "timestamp": r.Timestamp.UnixMilli(),
		"key": textOrBytes(r.Key), "value": textOrBytes(r.Value), "headers": headers,
	})
}
