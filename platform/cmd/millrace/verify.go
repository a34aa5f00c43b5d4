package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/bridge/upstream"
	"millrace/broker"
)

// verifiedLast is how many delivered records of each partition are verified where nobody says how many.
const verifiedLast = 1000

// sayEvery is how often it is said how far a verify is, on a link on which that takes long.
const sayEvery = 10 * time.Second

func (c *command) verifyLink(at *place) *cobra.Command {
	var topic string
	var last int64
	var all bool
	cmd := &cobra.Command{
		Use: "verify LINK", Short: "Read back what a link has delivered, and compare it", Args: cobra.ExactArgs(1),
		Long: "Read back what a link has delivered, and compare it with the board's log, record by record: hashes of key, value and headers, and the\n" +
			"order. It takes what was delivered when it begins, while the link goes on; its bytes count for the link's rate and day, and it waits\n" +
			"for its windows. Ctrl-C ends it. Where others write to the topic too, provenance = true tells their records from the board's for sure.\n\n" +
			"Exit codes: 0 all is there, once and in order, 3 it is not, 5 some of it could not be compared, 4 there is no such link, or no broker runs.",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := url.Values{"link": {args[0]}, "topic": {topic}}
			switch {
			case all && cmd.Flags().Changed("last"):
				return fail(exitUsage, "say one of --last and --all")
			case last < 1:
				return fail(exitUsage, "--last is 1 or more")
			case !all:
				about.Set("last", strconv.FormatInt(last, 10))
			}
			return c.verified(cmd, at, about)
		},
	}
	f := cmd.Flags()
	f.StringVar(&topic, "topic", "", "topics of the board, with * for any characters; default: all that the link carries")
	f.Int64Var(&last, "last", verifiedLast, "so many of the delivered offsets of each partition")
	f.BoolVar(&all, "all", false, "all that the board's log has")
	return cmd
}

// verified has a link read back, and tells what was found.
func (c *command) verified(cmd *cobra.Command, at *place, about url.Values) error {
	dir, err := at.dir()
	if err != nil {
		return err
	}
	compared := int64(0)
	wrong, apart, partitions := 0, 0, 0
	said, began := time.Now(), time.Now()
	err = broker.Verify(cmd.Context(), dir, about, func(l broker.VerifyLine) error {
		if l.At != nil {
			if now := time.Now(); now.Sub(said) >= sayEvery {
				said = now
				c.verifyingAt(l.At)
			}
			return nil
		}
		v := l.Partition
		if v == nil {
			return nil // of a later version
		}
		partitions++
		compared += v.Compared
		switch {
		case v.Faulty():
			wrong++
		case v.Reason != "":
			apart++
		}
		if c.format == "json" {
			return c.json(v)
		}
		_, err := fmt.Fprintf(c.out, "%s\n", verifiedText(v))
		return err
	})
	if err != nil {
		return ofBoard(err)
	}
	if c.format == "text" {
		if _, err := fmt.Fprintf(c.out, "%d records of %d partitions were compared, in %v\n", compared, partitions, time.Since(began).Round(time.Second)); err != nil {
			return err
		}
	}
	switch {
	case wrong > 0:
		return fail(exitDamage, "%d partitions are not there once and in order", wrong)
	case apart > 0:
		return fail(exitPartial, "%d partitions could not be compared", apart)
	}
	return nil
}

// verifyingAt says how far it is.
func (c *command) verifyingAt(at *upstream.VerifyAt) {
	where := "it begins"
	if at.Topic != "" {
		where = fmt.Sprintf("%s-%d: offset %d of %d, partition %d of %d", at.Topic, max(at.Upstream, 0), at.Offset, at.End, at.Done+1, max(at.Of, 1))
	}
	if at.Held != "" {
		where += "; held up: " + at.Held
	}
	c.note("%s", where)
}

// verifiedText is what was found of a partition, for people.
func verifiedText(v *upstream.Verified) string {
	name := fmt.Sprintf("%s-%d", v.Topic, v.Partition)
	if v.Upstream >= 0 && (v.UpstreamTopic != v.Topic || v.Upstream != v.Partition) {
		name += fmt.Sprintf(" in %s-%d", v.UpstreamTopic, v.Upstream)
	}
	var list []string
	if v.Upstream >= 0 {
		list = append(list, fmt.Sprintf("offsets %d to %d, %d records compared", v.First, v.End, v.Compared))
	}
	for i, f := range [...]upstream.Fault{v.Missing, v.Doubled, v.Disordered, v.Different} {
		if f.Count > 0 {
			what := [...]string{"missing", "doubled", "out of order", "different"}[i]
			list = append(list, fmt.Sprintf("%d %s, the first at offset %d", f.Count, what, f.First))
		}
	}
	for i, n := range [...]int64{v.Lost, v.Compacted, v.Foreign} {
		if n > 0 {
			what := [...]string{"offsets lost, as gap records tell", "let go by compaction", "foreign"}[i]
			list = append(list, fmt.Sprintf("%d %s", n, what))
		}
	}
	if v.Note != "" {
		list = append(list, v.Note)
	}
	state := "good"
	switch {
	case v.Faulty():
		state = "WRONG"
	case v.Reason != "":
		state = "not compared"
	}
	if v.Reason != "" {
		list = append(list, v.Reason)
	}
	return name + ": " + state + ": " + strings.Join(list, "; ")
}
