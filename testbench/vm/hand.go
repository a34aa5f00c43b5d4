package vm

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A board lets nobody in. Hand gives one a shell all the same, and leaves the image as it is: the initramfs on this card
// gets an archive behind it, from which systemd finds one unit more in /run. The shell reads from a port that only QEMU
// opens. The board must be off.
func (b *Board) Hand() {
	b.t.Helper()
	const lines = `while read -r number command; do sh -c "$command" 2>&1; echo "= $number $?"; done`
	init, err := os.ReadFile(source("initramfs/init"))
	if err != nil {
		b.t.Fatal(err)
	}
	const last = "exec /bin/busybox switch_root"
	before, after, found := strings.Cut(string(init), last)
	if !found {
		b.t.Fatalf("the initramfs does not end in %q", last)
	}
	dir := filepath.Join(b.dir, "hand")
	for name, text := range map[string]string{
		"init":       before + "/bin/busybox mount -t tmpfs -o mode=0755 tmpfs /new/run\n/bin/busybox cp -a /hand/. /new/run/\n" + last + after,
		"hand/shell": "for port in /dev/vport*; do exec <>\"$port\" >&0; done\necho ready\n" + lines + "\n",
		"hand/systemd/system/hand.service": "[Unit]\nDefaultDependencies=no\n[Service]\nRestart=always\nRestartSec=1s\n" +
			"ExecStart=/usr/bin/busybox sh /run/shell\n",
		"hand/systemd/system/sysinit.target.d/hand.conf": "[Unit]\nWants=hand.service\n",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
			b.t.Fatal(err)
		}
	}
	first, _ := b.Partition("kernel-a")
	b.run("sh", "-ec", `cd "$1"
		mcopy -n -i "$2" ::initrd ../initrd
		zstd -q -dc ../initrd >../all
		find . | cpio -o -H newc --quiet -R 0:0 >>../all
		zstd -q -f ../all -o ../initrd
		mcopy -o -i "$2" ../initrd ::initrd`, "sh", dir, fmt.Sprintf("%s@@%d", b.Card, first))
	b.handed = true
}

// hand is one conversation with the shell. It is for one goroutine.
type hand struct {
	conn   net.Conn
	lines  chan string // closed with the connection
	ready  bool        // the shell of this boot has said so
	number int
}

// linesWaiting is how many lines of an answer may wait; more wait in QEMU.
const linesWaiting = 100

// grasp takes the connection of a QEMU that has just been started.
func grasp(l *net.UnixListener) (*hand, error) {
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	h := &hand{conn: conn, lines: make(chan string, linesWaiting)}
	go func() { // until the board is off
		defer close(h.lines)
		for in := bufio.NewScanner(conn); in.Scan(); {
			h.lines <- in.Text()
		}
	}()
	return h, nil
}

func (h *hand) line() (string, error) {
	select {
	case line, open := <-h.lines:
		if !open {
			return "", errors.New("the board is off")
		}
		return line, nil
	case <-time.After(patience):
		return "", errors.New("no answer")
	}
}

// reset forgets what the life before has said.
func (h *hand) reset() {
	for h.ready = false; len(h.lines) > 0; {
		<-h.lines
	}
}

// do runs a command as root of the board and returns what it prints.
func (h *hand) do(command string) (string, error) {
	for !h.ready {
		line, err := h.line()
		if err != nil {
			return "", fmt.Errorf("the shell: %w", err)
		}
		h.ready = line == "ready"
	}
	h.number++
	if _, err := fmt.Fprintf(h.conn, "%d %s\n", h.number, command); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		line, err := h.line()
		if err != nil {
			return out.String(), err
		}
		var number, status int
		if n, _ := fmt.Sscanf(line, "= %d %d", &number, &status); n != 2 || number != h.number {
			out.WriteString(line + "\n")
			continue
		}
		if status != 0 {
			return out.String(), fmt.Errorf("it ended with %d", status)
		}
		return out.String(), nil
	}
}

// Do runs a command in the board, as root, and returns what it prints. It must succeed. The board has a Hand and boots, or
// is up.
func (b *Board) Do(command string) string {
	b.t.Helper()
	out, err := b.hand.do(command)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}
