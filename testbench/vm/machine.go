package vm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/testbench/lane"
	"millrace/testbench/procfs"
)

// machineNeeds are the programs that build a Debian and run it.
var machineNeeds = []string{
	"qemu-system-aarch64", "mmdebstrap", "sqfstar", "dpkg-deb", "flock", "/usr/sbin/mkfs.ext4", "/usr/sbin/depmod", "cpio", "zstd", "xz", "tar",
}

const (
	machineMemory = 256 << 20 // bytes
	machineDisk   = 1 << 30   // bytes, for what is written
	// printedMax is how much a command may print, in bytes.
	printedMax = 1 << 20
)

// Machine is an emulated computer with Debian, its package manager and systemd, and without Millrace. Its methods are for
// one goroutine.
type Machine struct {
	// Kafka and MQTT are where its ports 9092 and 1883 are on this machine, "host:port".
	Kafka, MQTT string
	// Console is what its kernel and systemd wrote to the serial line.
	Console *Console

	t     testing.TB
	began time.Time
	cmd   *exec.Cmd
	shell net.Conn
	said  *bufio.Reader
}

// NewMachine switches a machine on and waits until it has started. The files are in its /root. It ends with the test. Where
// tools are missing the test is skipped.
func NewMachine(t testing.TB, files ...string) *Machine {
	t.Helper()
	lane.Need(t, machineNeeds...)
	dir, err := os.MkdirTemp("", "vm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, Kafka: lane.FreeAddress(t), MQTT: lane.FreeAddress(t), Console: newConsole()}
	t.Cleanup(func() {
		if m.cmd != nil {
			m.off()
		}
		if t.Failed() {
			t.Logf("the console of the machine:\n%s", m.Console)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	begin := time.Now()
	lane.Uses(t, "debian", filepath.Join("..", "..", "image"))
	run(t, "bash", filepath.Join("debian", "build.sh"), dir)
	written, packages, socket := filepath.Join(dir, "written.img"), filepath.Join(dir, "packages.tar"), filepath.Join(dir, "shell")
	run(t, "truncate", "-s", fmt.Sprint(machineDisk), written)
	run(t, "/usr/sbin/mkfs.ext4", "-q", "-F", written)
	list := []string{"-cf", packages}
	for _, file := range files {
		list = append(list, "-C", filepath.Dir(file), filepath.Base(file))
	}
	run(t, "tar", list...)
	t.Logf("Debian was built in %.0f s", time.Since(begin).Seconds())

	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // nobody else connects; the socket file goes with it
	args := []string{
		"-M", "virt", "-accel", "tcg,tb-size=256", "-cpu", "cortex-a53", "-smp", "2", "-m", fmt.Sprintf("%dM", machineMemory>>20), "-nodefaults", "-display", "none",
		"-serial", "stdio", "-no-reboot", "-kernel", filepath.Join(dir, "Image"), "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyAMA0 quiet panic=-1 systemd.show_status=0",
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:%s-:9092,hostfwd=tcp:%s-:1883", m.Kafka, m.MQTT),
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=shell,path=" + socket, "-device", "virtserialport,chardev=shell",
	}
	for _, disk := range [][2]string{
		{"root", filepath.Join(dir, "root.squashfs") + ",readonly=on"}, {"written", written}, {"packages", packages + ",readonly=on"},
	} {
		args = append(args, "-drive", "if=none,format=raw,id="+disk[0]+",file="+disk[1],
			"-device", "virtio-blk-pci,drive="+disk[0]+",serial="+disk[0])
	}
	cmd := exec.Command("qemu-system-aarch64", args...)
	cmd.Stdout, cmd.Stderr = m.Console, m.Console
	m.began = time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.cmd = cmd
	if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if m.shell, err = listener.Accept(); err != nil {
		t.Fatalf("QEMU: %v", err)
	}
	m.said = bufio.NewReader(m.shell)
	if state := strings.TrimSpace(m.Do("systemctl is-system-running --wait")); state != "running" {
		t.Fatalf("Debian is %s:\n%s", state, m.Do("systemctl --failed"))
	}
	m.Do("tar -xf /dev/packages -C /root")
	return m
}

// off pulls the plug.
func (m *Machine) off() {
	if m.shell != nil {
		if err := m.shell.Close(); err != nil {
			m.t.Error(err)
		}
	}
	if err := m.cmd.Process.Kill(); err != nil {
		m.t.Errorf("kill: %v", err)
	}
	_ = m.cmd.Wait() // says that it was killed
	m.Console.end()
}

// Do runs a command line as root, which must succeed, and returns what it prints.
func (m *Machine) Do(command string) string {
	m.t.Helper()
	printed, status := m.Try(command)
	if status != 0 {
		m.t.Fatalf("%s: exit code %d\n%s", command, status, printed)
	}
	return printed
}

// Try runs a command line as root and returns what it prints and its exit code.
func (m *Machine) Try(command string) (printed string, status int) {
	m.t.Helper()
	if strings.Contains(command, "\n") {
		m.t.Fatalf("%q is no line", command)
	}
	err := m.shell.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = io.WriteString(m.shell, command+"\n")
	}
	var length int
	if err == nil {
		_, err = fmt.Fscanf(m.said, "%d %d\n", &status, &length)
	}
	if err == nil && (length < 0 || length > printedMax) {
		err = fmt.Errorf("it prints %d bytes", length)
	}
	if err != nil {
		m.t.Fatalf("%s: %v", command, err)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(m.said, text); err != nil {
		m.t.Fatalf("%s: %v", command, err)
	}
	return string(text), status
}

// Took is how long the machine runs already.
func (m *Machine) Took() Took {
	m.t.Helper()
	cpu, err := procfs.PID(m.cmd.Process.Pid).CPU()
	if err != nil {
		m.t.Fatal(err)
	}
	return Took{time.Since(m.began), cpu}
}

// run runs a program that must succeed and returns what it prints.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var complaints strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, complaints.String())
	}
	return string(out)
}
