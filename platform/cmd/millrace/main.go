// Millrace is a durable edge broker: `millrace serve` runs it, the other commands talk to one that runs or look at the
// data of one that does not. README.md beside this file lists the exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the Makefile.
var version = "unknown"

// Exit codes.
const (
	exitFailed  = 1 // it was tried and did not work
	exitUsage   = 2 // the command line or the configuration is wrong; nothing was tried
	exitDamage  = 3 // dump or fsck found damage
	exitMissing = 4 // what was named does not exist
	exitPartial = 5 // some of it worked
	exitDead    = 6 // the service manager found `serve` dead and ended it
)

// coded is an error with the exit code it ends in.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

func fail(code int, format string, args ...any) error {
	return coded{fmt.Errorf(format, args...), code}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program; everything it touches is handed in.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	c := &command{in: in, out: out, errs: errs}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "millrace:", err)
	if !c.started {
		usage := cmd.UseLine()
		if cmd.HasAvailableSubCommands() {
			usage = cmd.CommandPath() + " COMMAND"
		}
		fmt.Fprintf(errs, "usage: %s; `%s --help` says more\n", usage, cmd.CommandPath())
	}
	var code coded
	switch {
	case errors.As(err, &code):
		return code.code
	case !c.started: // cobra refused the command line
		return exitUsage
	}
	return exitFailed
}

// command is what all commands share.
type command struct {
	in        io.Reader
	out, errs io.Writer
	format    string
	started   bool
	console   *os.File // of the machine, for `serve`; nil where it was handed none
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "millrace",
		Short: "A durable edge broker: MQTT and sensors in, Kafka in and out",
		Long: "A durable edge broker: MQTT and sensors in, Kafka in and out.\n\n" +
			"Exit codes: 0 done, 1 it was tried and did not work, 2 the command line or the configuration is wrong,\n" +
			"3 damage found, 4 the topic, file or directory named does not exist, 5 some of it worked, 6 the service\n" +
			"manager found it dead. README.md and --help of status and doctor say what they mean there.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.format != "text" && c.format != "json" {
				return fmt.Errorf("-o %s: there are text and json", c.format)
			}
			c.started = true
			return nil
		},
	}
	root.PersistentFlags().StringVarP(&c.format, "output", "o", "text", "text or json")
	c.complete(root, "output", "text", "json")
	root.AddCommand(c.serve(), c.formatDir(), c.randomUUID(), c.topic(), c.route(), c.upstream(), c.group(), c.produce(), c.consume(), c.dump(),
		c.fsck(), c.status(), c.doctor(), c.support(), c.backup(), c.restore(), c.user(), c.acl(), c.cert(), c.factoryReset(), c.config(), c.version())
	return root
}

// complete offers the values a flag takes to the shell.
func (c *command) complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag
	}
}

// group is a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var names []string
			for _, sub := range below {
				names = append(names, sub.Name())
			}
			return fmt.Errorf("unknown command %q for %q; there are %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(below...)
	return cmd
}

func (c *command) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return c.show(map[string]any{"version": version, "format": formatVersion}, "millrace %s, data format %d\n", version, formatVersion)
		},
	}
}
