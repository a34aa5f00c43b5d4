package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/platform/config"
)

func (c *command) upstream() *cobra.Command {
	var at place
	status := &cobra.Command{
		Use: "status [LINK]", Short: "Say how far the links are, and what they wait for", Args: cobra.MaximumNArgs(1),
		Long: "Say how far the links of this board are, and what they wait for. With the name of one, its partitions too that are behind or have\nstopped.\n\n" +
			"Exit codes: 0 all is well, 5 a link does not get through, or somebody has to decide, 4 there is no such link, or no broker runs.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.linkStatus(cmd, &at, strings.Join(args, "")) },
	}
	verb := func(use, short, long, done string) *cobra.Command {
		return &cobra.Command{
			Use: use + " LINK", Short: short, Long: long, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return c.decide(cmd, &at, use, url.Values{"link": {args[0]}}, done)
			},
		}
	}
	pause := verb("pause", "Hold a link up, over restarts too", "Hold a link up until `resume`, over restarts of the board too. A transaction that is under way is finished. What the link needs is kept as\n"+
		"long as the disk has room.", "is paused, over restarts too, until `millrace upstream resume`")
	resume := verb("resume", "Let a link go on", "Let a link go on: one that was paused, or one whose identity another process had taken over, which this takes back.", "goes on")
	parent := group("upstream", "Show and decide about the links to other clusters", status, pause, resume, c.resolveLink(&at), c.verifyLink(&at))
	at.persistent(parent)
	return parent
}

// persistent are the flags for all commands below one.
func (p *place) persistent(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&p.data, "data", "", "data directory; default: log.dirs")
	cmd.PersistentFlags().StringVar(&p.file, "config", "", "configuration file")
}

// ofBoard gives an error of a board's its exit code.
func ofBoard(err error) error {
	if errors.Is(err, broker.ErrNotRunning) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, broker.ErrNoLink) {
		return coded{err, exitMissing}
	}
	return err
}

// decide tells the board what a person has decided.
func (c *command) decide(cmd *cobra.Command, at *place, verb string, about url.Values, done string) error {
	dir, err := at.dir()
	if err != nil {
		return err
	}
	raw, err := broker.Decide(cmd.Context(), dir, verb, about)
	if err != nil {
		return ofBoard(err)
	}
	var answer broker.Decided
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if answer.Partial != "" {
		return fail(exitPartial, "%s: %s", answer.Link, answer.Partial)
	}
	return c.show(answer, "%s %s\n", answer.Link, done)
}

func (c *command) resolveLink(at *place) *cobra.Command {
	var accept, earliest, latest bool
	var offset int64
	cmd := &cobra.Command{
		Use: "resolve LINK TOPIC PARTITION", Short: "Decide how a partition that has stopped goes on", Args: cobra.ExactArgs(3),
		Long: "Decide how a partition goes on that has stopped, because what is at one end is not what was there when records were last delivered: a\n" +
			"topic that was made anew, or a disk that is older. It is done in a transaction at the other end, so it takes a link that gets through.\n\n" +
			"--accept takes the topics as they are and goes on with the offset after the last one that was delivered; where the log ends before it,\nwith the next record that is written. " +
			"--to-earliest sends all that the log has: what was delivered before\nis there twice then. --to-latest sends only what is written from now on. What is skipped is told by a gap record.",
		RunE: func(cmd *cobra.Command, args []string) error {
			said := 0
			for _, flag := range []string{"accept", "to-earliest", "to-latest", "to-offset"} {
				if cmd.Flags().Changed(flag) {
					said++
				}
			}
			if said != 1 {
				return fail(exitUsage, "say one of --accept, --to-earliest, --to-latest and --to-offset")
			}
			partition, err := strconv.ParseInt(args[2], 10, 32)
			if err != nil || partition < 0 {
				return fail(exitUsage, "%q is no partition", args[2])
			}
			to := ""
			switch {
			case accept:
				to = "accept"
			case earliest:
				to = "earliest"
			case latest:
				to = "latest"
			case cmd.Flags().Changed("to-offset") && offset >= 0:
				to = strconv.FormatInt(offset, 10)
			default:
				return fail(exitUsage, "an offset is 0 or more, and a flag that is off decides nothing")
			}
			return c.decide(cmd, at, "resolve", url.Values{"link": {args[0]}, "topic": {args[1]}, "partition": {args[2]}, "to": {to}},
				fmt.Sprintf("goes on with %s-%d", args[1], partition))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&accept, "accept", false, "take the topics as they are now, and go on where it was")
	f.BoolVar(&earliest, "to-earliest", false, "to the first record there is")
	f.BoolVar(&latest, "to-latest", false, "to the end")
	f.Int64Var(&offset, "to-offset", 0, "to this offset")
	return cmd
}

// linkStatus prints how the links are, or one of them.
func (c *command) linkStatus(cmd *cobra.Command, at *place, name string) error {
	dir, err := at.dir()
	if err != nil {
		return err
	}
	raw, err := broker.Ask(cmd.Context(), dir, "upstream")
	if err != nil {
		return ofBoard(err)
	}
	var all []broker.LinkStatus
	if err := json.Unmarshal(raw, &all); err != nil {
		return fmt.Errorf("status of the links: %w", err)
	}
	var troubled []string
	var rows []string
	found := false
	for i := range all {
		s := &all[i]
		if name != "" && s.Name != name {
			continue
		}
		found = true
		if s.Trouble != "" {
			troubled = append(troubled, s.Name+": "+s.Trouble)
		}
		if c.format == "json" {
			if err := c.json(s); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%d\t%d\t%s\t%s", s.Name, s.State, behind(s), s.Behind, s.Stopped, ago(s.LastSuccess), dash(s.Reason)))
		if name != "" {
			err = c.oneLink(s, rows)
		}
	}
	switch {
	case err != nil:
		return err
	case name != "" && !found:
		return fail(exitMissing, "%s: %w", name, broker.ErrNoLink)
	case c.format == "text" && name == "" && len(all) == 0:
		c.note("this board has no [[upstream]]")
	case c.format == "text" && name == "":
		err = c.table("LINK\tSTATE\tBEHIND\tPARTITIONS\tSTOPPED\tLAST SUCCESS\tREASON", rows)
	}
	if err == nil && len(troubled) > 0 {
		return fail(exitPartial, "%s", strings.Join(troubled, "; "))
	}
	return err
}

// oneLink prints one with its partitions.
func (c *command) oneLink(s *broker.LinkStatus, rows []string) error {
	rows = rows[:0]
	row := func(name, format string, args ...any) { rows = append(rows, name+"\t"+fmt.Sprintf(format, args...)) }
	row("direction", "%s, %s", s.Direction, strings.Join(s.Servers, " "))
	if s.Paused {
		row("paused", "by a person, over restarts too")
	}
	if s.Reason != "" {
		row("reason", "%s", s.Reason)
	}
	for _, note := range s.Notes {
		row("note", "%s", note)
	}
	row("behind", "%s, %d records", behind(s), s.Records)
	for i := range s.Classes {
		k := &s.Classes[i]
		topics := strings.Join(k.Topics, " ")
		if topics == "" {
			topics = "of no class"
		}
		row("  "+topics, "%s, %d records", k.Told, k.Records)
	}
	row("partitions", "%d, of these %d behind, %d stopped, %d refused; %d left out", s.Partitions, s.Behind, s.Stopped, s.Refused, s.LeftOut)
	row("last success", "%s", ago(s.LastSuccess))
	carried, source := "delivered", "there"
	if s.Direction == config.Down {
		carried, source = "taken", "this board"
	}
	row(carried, "%d records, %s in %d transactions, since the board was started", s.Sent, amount(s.SentBytes), s.Transactions)
	row("connected", "%d times; %d transactions were looked up", s.Connects, s.Unknown)
	row("lost", "%d records in %d gaps; %d left out because they had come from %s", s.Lost, s.Gaps, s.Looped, source)
	if g := s.Groups; g != nil {
		row("groups", "%d followed, with %d offsets, of which %d cannot be translated now; %d committed; %d left out", g.Followed, g.Offsets, g.Waiting, g.Commits, g.LeftOut)
		if g.Problem != "" {
			row("", "%s", g.Problem)
		}
	}
	if err := c.table("state\t"+s.State, rows); err != nil || len(s.List) == 0 {
		return err
	}
	rows = rows[:0]
	for _, p := range s.List {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%d\t%s\t%s", p.Topic, p.Partition, p.Next, p.Records, p.Verdict, dash(p.Reason)))
	}
	if s.More > 0 {
		rows = append(rows, fmt.Sprintf("and %d more", s.More))
	}
	if _, err := fmt.Fprintln(c.out); err != nil {
		return err
	}
	return c.table("TOPIC\tPARTITION\tNEXT\tBEHIND\tVERDICT\tREASON", rows)
}

// behind is how much is behind, and for how long, for people.
func behind(s *broker.LinkStatus) string {
	if s.Told != "" {
		return s.Told
	}
	return amount(s.Bytes)
}

func ago(at *time.Time) string {
	if at == nil {
		return "not since the start"
	}
	return at.UTC().Format(time.RFC3339)
}
