package vm

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
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
	// Secret is that of its user admin, "" until it is known.
	Secret string

	t      testing.TB
	dir    string
	uboot  string
	cmd    *exec.Cmd
	exited chan error
	qmp    *qmp
	handed bool // the card has a Hand
	hand   *hand

	leafMu sync.Mutex
	leaf   *x509.Certificate // what this life shows to clients, nil until one has seen it
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
	b.Settings(b.Shipped())
	return b
}

// Shipped is the millrace.toml that comes with the image, but that it sends Kafka clients back to the forwarded port.
func (b *Board) Shipped() string {
	b.t.Helper()
	text, err := os.ReadFile(source("millrace.toml"))
	if err != nil {
		b.t.Fatal(err)
	}
	return b.replaced(string(text), "\n[broker]\n", fmt.Sprintf("\n[broker]\nadvertised.listeners = [\"SASL_SSL://%s\"]\n", b.Kafka))
}

// Provision says who may log in from the first start on, as the owner of a fleet does: in a file beside millrace.toml. It
// returns the millrace.toml, which is in place.
func (b *Board) Provision() string {
	b.t.Helper()
	b.Secret = "known before the board was"
	b.put("admin.scram", "SCRAM-SHA-512=[name=admin,password=\""+b.Secret+"\"]\n")
	text := b.replaced(b.Shipped(), "# admin.scram.file", "admin.scram.file")
	b.Settings(text)
	return text
}

func (b *Board) replaced(text, from, to string) string {
	b.t.Helper()
	if strings.Count(text, from) != 1 {
		b.t.Fatalf("%q is not once in\n%s", from, text)
	}
	return strings.Replace(text, from, to, 1)
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
	var shell *net.UnixListener
	if b.handed {
		socket := filepath.Join(b.dir, "port")
		if shell, err = net.ListenUnix("unix", &net.UnixAddr{Name: socket}); err != nil {
			b.t.Fatal(err)
		}
		defer shell.Close()
		args = append(args, "-device", "virtio-serial-pci", "-chardev", "socket,id=hand,path="+socket, "-device", "virtserialport,chardev=hand")
	}
	b.Console = newConsole()
	b.leafMu.Lock()
	b.leaf = nil
	b.leafMu.Unlock()
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
	if shell != nil {
		if b.hand, err = grasp(shell); err != nil {
			b.t.Fatalf("QEMU: %v", err)
		}
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

// MemoryUsed is what the board has in use and cannot give back, in bytes, of what the kernel has to share out; with what it
// keeps for itself it is all. The board has a Hand.
func (b *Board) MemoryUsed() (used, all int64) {
	b.t.Helper()
	var total, available int64
	if n, err := fmt.Sscan(b.Do("awk '/^MemTotal:|^MemAvailable:/ { print $2 }' /proc/meminfo"), &total, &available); n != 2 {
		b.t.Fatal(err)
	}
	return (total - available) << 10, Memory - available<<10
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
	if b.hand != nil {
		b.hand.reset()
	}
}
