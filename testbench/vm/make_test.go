package vm

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/testbench/lane"
)

// What `make qemu` prints to be typed works as it stands, with the programs everybody has.
func TestWhatMakeQEMUSaysWorks(t *testing.T) {
	t.Parallel()
	from := image(t)
	lane.Need(t, "openssl", "mosquitto_pub", "kcat")
	dir := t.TempDir()
	for _, name := range []string{"disk.img", "u-boot.bin"} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	console := newConsole()
	board := exec.Command("bash", source("run.sh"), dir)
	board.Env = append(os.Environ(), "KAFKA="+lane.FreeAddress(t), "MQTT="+lane.FreeAddress(t))
	board.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // QEMU is a child of the script
	board.Stdout, board.Stderr = console, console
	keyboard, err := board.StdinPipe() // nobody types
	if err != nil {
		t.Fatal(err)
	}
	if err := board.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(keyboard.Close(), syscall.Kill(-board.Process.Pid, syscall.SIGKILL)); err != nil {
			t.Error(err)
		}
		_ = board.Wait() // says that it was killed
		if t.Failed() {
			t.Logf("the console:\n%s", console)
		}
	})
	if _, err := console.await(up, patience); err != nil {
		t.Fatal(err)
	}
	var printed []string
	for in := bufio.NewScanner(strings.NewReader(console.String())); in.Scan(); {
		_, line, _ := strings.Cut(in.Text(), " ") // the time
		for _, program := range []string{"openssl s_client", "mosquitto_pub", "kcat"} {
			if strings.HasPrefix(line, program) {
				printed = append(printed, line)
			}
		}
	}
	if len(printed) != 3 {
		t.Fatalf("it says %q", printed)
	}
	for _, line := range printed {
		shell := exec.CommandContext(t.Context(), "sh", "-c", line)
		out, err := shell.Output()
		if err != nil || strings.HasPrefix(line, "kcat") && string(out) != "hi\n" {
			t.Errorf("%s: %v: %q", line, err, out)
		}
	}
	shown, err := exec.Command("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", filepath.Join(dir, "board.pem")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, fingerprint, _ := strings.Cut(strings.TrimSpace(string(shown)), "="); fingerprint == "" || !console.Has(fingerprint) {
		t.Errorf("the console does not say the fingerprint: %s", shown)
	}
	if console.Has(shownSecret) {
		t.Error("the secret of a board whose users are known is shown")
	}
}
