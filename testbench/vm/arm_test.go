package vm

import (
	"bufio"
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// The 32-bit program serves both doors, and finds its records again after it was killed.
func TestA32BitBrokerServes(t *testing.T) {
	t.Parallel()
	emulator := lane.Need(t, "qemu-arm-static")[0]
	binary := filepath.Join(t.TempDir(), "millrace")
	lane.Build(t, binary, "-trimpath", "GOOS=linux", "GOARCH=arm", "GOARM=7")
	kafka, mqtt, dir := lane.FreeAddress(t), lane.FreeAddress(t), filepath.Join(t.TempDir(), "data")
	l, at := newLedger(), door{kafka: kafka, mqtt: mqtt}
	for _, life := range []string{"first", "second"} {
		begin := time.Now()
		serve := exec.Command(emulator, binary, "serve", "--data", dir, "--kafka", kafka, "--mqtt", mqtt, "--http", "")
		var complaints bytes.Buffer
		serve.Stderr = &complaints
		out, err := serve.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := serve.Start(); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(patience, func() { _ = serve.Process.Kill() }) // then reading ends
		ready, readErr := bufio.NewReader(out).ReadString('\n')
		if strings.Contains(ready, "is ready") {
			client := connect(t.Context(), t, at)
			if err := publish(client, l, life, 200); err != nil {
				t.Error(err)
			}
			client.Disconnect(0)
			for _, fault := range l.verdict(read(t, at, topic)) {
				t.Error(fault)
			}
			t.Logf("%s life: %d messages acknowledged and read back after %.1f s", life, l.len(), time.Since(begin).Seconds())
		} else {
			t.Errorf("it began with %q (%v)", ready, readErr)
		}
		late.Stop()
		end := syscall.SIGKILL
		if life == "second" {
			end = syscall.SIGTERM
		}
		if err := serve.Process.Signal(end); err != nil {
			t.Error(err)
		}
		if err := serve.Wait(); (err == nil) != (end == syscall.SIGTERM) || t.Failed() {
			t.Fatalf("it ended with %v, after signal %v\n%s", err, end, complaints.Bytes())
		}
	}
}
