// Command bench measures Millrace beside Mosquitto, nats-server and Apache Kafka, as real processes on loopback with
// their data on one disk, and prints one table: medians, ratios, and the goals they are held against. README.md tells
// what each row does, and shows a table.
//
//	go run ./testbench/bench            the whole table, about ten minutes
//	go run ./testbench/bench -quick     less of everything, at most 90 seconds
//	go run ./testbench/bench -rows 7,9  some rows
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	ctx    context.Context
	dir    string // everything the servers write
	repo   string // where go build and go test run
	cache  string // programs that were built for the run
	binary string // millrace, stripped, for this machine
	quick  bool
	out    io.Writer // progress
	table  table
	// peers are the servers that are installed, Millrace first.
	peers []*peer
	jvm   *server // the Apache Kafka that is running for all rows, nil before the first that needs it
	// upstream is the one that links carry to, nil before the first row that has a link.
	upstream *server
}

// row is one line of the goals, or several that are measured together.
type row struct {
	name string
	run  func(*bench) error
}

var rows = []row{
	{"15", (*bench).sizes},
	{"3,13", (*bench).idle},
	{"7", (*bench).puback},
	{"6", (*bench).publishMany},
	{"4", (*bench).idleClients},
	{"suite", (*bench).suite},
	{"9", (*bench).produceOne},
	{"8", (*bench).produceBulk},
	{"10", (*bench).fetch},
	{"11", (*bench).endToEnd},
	{"12", (*bench).start},
	{"16", (*bench).catchUp},
	{"17", (*bench).onTheWire},
	{"live", (*bench).whileBehind},
	{"2", (*bench).wear},
	{"14", (*bench).wheel},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == childArg {
		if err := runChild(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	quick := flag.Bool("quick", false, "less of everything: at most 90 seconds, and noisier")
	only := flag.String("rows", "", "comma-separated rows of the goals to measure; default all")
	dir := flag.String("dir", "", "where the servers keep their data; default: a new directory in TMPDIR")
	with := flag.String("peers", "mosquitto,nats,kafka", "what to measure beside Millrace")
	binary := flag.String("binary", "", "the millrace to measure; default: the one built from here")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	b := &bench{ctx: ctx, quick: *quick, out: os.Stderr, binary: *binary}
	if b.dir = *dir; b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "millrace-bench-"); err != nil {
			return err
		}
		defer func() {
			if removed := os.RemoveAll(b.dir); err == nil {
				err = removed
			}
		}()
	}
	if err := b.prepare(strings.Split(*with, ",")); err != nil {
		return err
	}
	defer func() {
		for _, s := range []*server{b.jvm, b.upstream} {
			if s != nil {
				err = errors.Join(err, s.end())
			}
		}
	}()
	var wanted []string
	if *only != "" {
		wanted = strings.Split(*only, ",")
	}
	begin := time.Now()
	for _, r := range rows {
		names := strings.Split(r.name, ",")
		if wanted != nil && !slices.ContainsFunc(wanted, func(w string) bool { return slices.Contains(names, w) }) {
			continue
		}
		b.say("row %s", r.name)
		if err := r.run(b); err != nil {
			if b.ctx.Err() != nil {
				return err
			}
			b.say("row %s FAILED: %v", r.name, err)
			b.table.add(names[0], "FAILED: "+err.Error(), "", "")
		}
	}
	b.say("took %.0f s", time.Since(begin).Seconds())
	return b.table.print(os.Stdout)
}

// say tells what is going on, on standard error.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// prepare builds Millrace and finds the peers.
func (b *bench) prepare(with []string) error {
	out, err := exec.CommandContext(b.ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module; run this inside it: %w", err)
	}
	b.repo = strings.TrimSpace(string(out))
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	b.cache = filepath.Join(cache, "millrace-test")
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "millrace")
		if err := b.build(b.binary, ""); err != nil {
			return err
		}
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	b.peers = append(b.peers, b.millrace())
	for _, p := range []struct {
		name string
		find func() (*peer, error)
	}{{"mosquitto", b.mosquitto}, {"nats", b.nats}, {"kafka", b.kafka}} {
		if !slices.Contains(with, p.name) {
			continue
		}
		found, err := p.find()
		if err != nil {
			b.say("PEER SKIPPED: %s: %v", p.name, err)
			continue
		}
		b.peers = append(b.peers, found)
	}
	return nil
}

// build builds a stripped static millrace, for this machine where arch is empty.
func (b *bench) build(to, arch string) error {
	cmd := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./platform/cmd/millrace")
	cmd.Dir, cmd.Env = b.repo, append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOARCH="+arch, "GOARM=7")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build millrace %s: %w\n%s", arch, err, out)
	}
	return nil
}

// named are the peers of these names that are there, Millrace first.
func (b *bench) named(names ...string) []*peer {
	var found []*peer
	for _, p := range b.peers {
		if slices.Contains(names, p.name) {
			found = append(found, p)
		}
	}
	return found
}

// either is the first in the whole run, the second with -quick.
func either[T any](b *bench, whole, quick T) T {
	if b.quick {
		return quick
	}
	return whole
}

// childArg makes this program a client: clients that work hard run in a process of their own, so that neither their CPU
// nor their garbage is the measurer's.
const childArg = "-child"

// child runs one, and fills result with what it found.
func (b *bench) child(kind string, args, result any) error {
	in, err := json.Marshal(args)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(b.ctx, self, childArg, kind, string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s client: %w", kind, err)
	}
	return json.Unmarshal(out, result)
}

// runChild is the other side of child.
func runChild(args []string) error {
	kinds := map[string]func(in []byte) (any, error){
		"produce": childProduce, "fetch": childFetch, "endtoend": childEndToEnd, "load": childLoad, "idle": childIdle,
		"readings": childReadings,
	}
	run, ok := kinds[args[0]]
	if !ok || len(args) != 2 {
		return fmt.Errorf("no client %q", args)
	}
	result, err := run([]byte(args[1]))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
