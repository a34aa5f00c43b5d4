package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/testbench/lane"
	"millrace/testbench/procfs"
)

const (
	// Memory is what a board has, in bytes.
	Memory = 128 << 20

	cardSize = 1 << 30 // bytes
	// patience is how long a board may take for anything. It only ends a hang: a boot takes 20 seconds on a quiet machine.
	patience = 5 * time.Minute
)

// Board is one emulated board: the same card and addresses in every life. Its methods are for one goroutine.
type Board struct {
	// Kafka and MQTT are where its doors are on this machine, "host:port".
	Kafka, MQTT string
	// Card is the file of its disk. It may be changed while the board is off.
	Card string
	// Began is when it was last switched on.
	Began time.Time
	// Console is what the present life, or the last one, wrote to the serial line.
	Console *Console

	t      testing.TB
	dir    string
	uboot  string
	cmd    *exec.Cmd
	exited chan error
	qmp    *qmp
}

// New makes a board with a new card, which is larger than the image as cards are. It is off, and off again when the test
// ends. Where tools are missing the test is skipped.
func New(t testing.TB) *Board {
	t.Helper()
	from := image(t)
	dir, err := os.MkdirTemp("", "vm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	b := &Board{
		t: t, dir: dir, Card: filepath.Join(dir, "card.img"), uboot: filepath.Join(from, "u-boot.bin"),
		Kafka: lane.FreeAddress(t), MQTT: lane.FreeAddress(t), Console: newConsole(),
	}
	t.Cleanup(func() {
		if b.cmd != nil {
			b.Kill()
		}
		if t.Failed() {
			t.Logf("the console of the last life:\n%s", b.Console)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b.run("cp", "--sparse=always", filepath.Join(from, "disk.img"), b.Card)
	if err := os.Truncate(b.Card, cardSize); err != nil {
		t.Fatal(err)
	}
	b.Settings(b.Open())
	return b
}

// Open is a millrace.toml that serves everybody, and sends Kafka clients back to the forwarded port.
func (b *Board) Open() string {
	return fmt.Sprintf(`[broker]
listeners = ["PLAINTEXT://0.0.0.0:9092"]
advertised.listeners = ["PLAINTEXT://%s"]
insecure.allow.anyone.on.the.network = true
[mqtt]
listeners = ["tcp://0.0.0.0:1883"]
`, b.Kafka)
}

// Settings writes millrace.toml on the boot partition.
func (b *Board) Settings(text string) { b.put("millrace.toml", text) }

// Kernel gives the kernel more arguments from the next start on.
func (b *Board) Kernel(args string) { b.put("extra.txt", "extra="+args+"\n") }

// put writes a file on the boot partition.
func (b *Board) put(name, text string) {
	b.t.Helper()
	file := filepath.Join(b.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	first, _ := b.Partition("boot")
	b.run("mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", b.Card, first), file, "::"+name)
}

// Partition says where on the card a partition lies, in bytes; size 0 says that there is none of that name.
func (b *Board) Partition(name string) (first, size int64) {
	b.t.Helper()
	table := b.run("/usr/sbin/sfdisk", "--quiet", "--dump", b.Card)
	line := regexp.MustCompile(`start= *(\d+), size= *(\d+),.*name="` + regexp.QuoteMeta(name) + `"`).FindStringSubmatch(table)
	if line == nil {
		return 0, 0
	}
	sectors := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			b.t.Fatal(err)
		}
		return n * 512
	}
	return sectors(line[1]), sectors(line[2])
}

// Wipe overwrites a part of the card with a byte that is in no file system's head.
func (b *Board) Wipe(first, size int64) {
	b.t.Helper()
	f, err := os.OpenFile(b.Card, os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	block := []byte(strings.Repeat("\xa5", 1<<20))
	for at := int64(0); at < size && err == nil; at += int64(len(block)) {
		_, err = f.WriteAt(block[:min(int64(len(block)), size-at)], first+at)
	}
	if closeErr := f.Close(); err != nil || closeErr != nil {
		b.t.Fatal(err, closeErr)
	}
}

// run runs a program that must succeed and returns what it prints.
func (b *Board) run(name string, args ...string) string {
	b.t.Helper()
	return run(b.t, name, args...)
}

// Start switches the board on, with more arguments for QEMU.
func (b *Board) Start(args ...string) {
	b.t.Helper()
	socket := filepath.Join(b.dir, "qmp")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		b.t.Fatal(err)
	}
	defer listener.Close() // nobody else connects; the socket file goes with it
	b.Console = newConsole()
	b.cmd = exec.Command("sh", append([]string{source("qemu.sh"), b.uboot, b.Card, "-serial", "stdio", "-qmp", "unix:" + socket}, args...)...)
	b.cmd.Env = append(os.Environ(), "KAFKA="+b.Kafka, "MQTT="+b.MQTT, fmt.Sprintf("MEMORY=%dM", Memory>>20))
	b.cmd.Stderr = b.Console
	b.cmd.Stdout = b.Console
	b.Began = time.Now()
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, console *Console, exited chan<- error) {
		err := cmd.Wait()
		console.end()
		exited <- err
	}(b.cmd, b.Console, b.exited)
	if b.qmp, err = accept(listener); err != nil {
		b.t.Fatalf("QEMU: %v", err)
	}
}

// Kill pulls the plug, and waits until the board is off. A board that was reset before is an error.
func (b *Board) Kill() {
	b.t.Helper()
	if b.qmp.event("RESET", 10*time.Millisecond) {
		b.t.Errorf("the board was reset; its console:\n%s", b.Console)
	}
	if err := b.cmd.Process.Kill(); err != nil {
		b.t.Errorf("kill: %v", err)
	}
	<-b.exited // says that it was killed
	b.cmd = nil
	if err := b.qmp.close(); err != nil {
		b.t.Errorf("kill: %v", err)
	}
}

// Await returns the first line of this life's console that has the text in it, as soon as there is one, and ends the test
// where there is none for too long.
func (b *Board) Await(text string) Line {
	b.t.Helper()
	line, err := b.Console.await(text, patience)
	if err != nil {
		b.t.Fatalf("the console never said %q: %v", text, err)
	}
	return line
}

// MemoryUsed is what the board has in use and cannot give back, with what the kernel took for itself, in bytes. The
// board must be up: its balloon driver says it.
func (b *Board) MemoryUsed() int64 {
	b.t.Helper()
	const balloon = "/machine/peripheral/balloon"
	b.Command(nil, "qom-set", map[string]any{"path": balloon, "property": "guest-stats-polling-interval", "value": 1})
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(200 * time.Millisecond) {
		var answer struct {
			Updated int64 `json:"last-update"`
			Stats   struct {
				Available uint64 `json:"stat-available-memory"`
			}
		}
		b.Command(&answer, "qom-get", map[string]any{"path": balloon, "property": "guest-stats"})
		if answer.Updated > 0 && answer.Stats.Available <= Memory {
			return Memory - int64(answer.Stats.Available)
		}
	}
	b.t.Fatal("the balloon driver says nothing")
	return 0
}

// Took is how long something took since the board was switched on, on the clock and of CPU time: a machine that does other
// things makes the first longer, not the second.
type Took struct{ Wall, CPU time.Duration }

// Took is how long this life is already.
func (b *Board) Took() Took {
	b.t.Helper()
	cpu, err := procfs.PID(b.cmd.Process.Pid).CPU()
	if err != nil {
		b.t.Fatal(err)
	}
	return Took{time.Since(b.Began), cpu}
}

// Command gives QEMU a command of its machine protocol; answer may be nil.
func (b *Board) Command(answer any, name string, args map[string]any) {
	b.t.Helper()
	raw, err := b.qmp.command(name, args)
	if err == nil && answer != nil {
		err = json.Unmarshal(raw, answer)
	}
	if err != nil {
		b.t.Fatalf("QEMU %s: %v", name, err)
	}
}

// AwaitReset waits until the board is reset, by itself or by its watchdog. Kill reports every other reset as an error.
func (b *Board) AwaitReset(limit time.Duration) {
	b.t.Helper()
	if !b.qmp.event("RESET", limit) {
		b.t.Fatalf("the board was not reset within %v", limit)
	}
}
