package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/lane"
)

// What settings name lies beside them: it is in force with them, is kept with the last good ones, and goes with them. The
// script of the image runs here, on directories of the test's own.
func TestWhatLiesBesideTheSettings(t *testing.T) {
	script := filepath.Join("..", "..", "image", "rootfs", "usr", "lib", "millrace", "config")
	lane.Uses(t, script)
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	own := strings.NewReplacer("/var/lib/", root+"/var/lib/", "/usr/lib/", root+"/usr/lib/", "/run/", root+"/run/", "/sys/class/", root+"/sys/class/")
	tools := filepath.Join(root, "tools")
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"chown", "mount", "umount"} {
		write("tools/"+name, "#!/bin/sh\n")
	}
	write("tools/millrace", "#!/bin/sh\n! grep -q wrong \"$3\"\n")
	write("usr/lib/millrace/millrace.toml", "shipped")
	boot := func() {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(root, "run", "millrace-config")); err != nil { // it is in memory
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", own.Replace(string(text)))
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	holds := func(what string, want map[string]string) {
		t.Helper()
		for name, text := range want {
			if got, _ := os.ReadFile(filepath.Join(root, "run", "millrace-config", name)); string(got) != text {
				t.Errorf("%s: %s is %q, want %q", what, name, got, text)
			}
		}
	}
	write("run/boot/millrace.toml", "good")
	for _, name := range []string{"a.pem", "hq.secret", "admin.scram", "note.txt"} {
		write("run/boot/"+name, name)
	}
	boot()
	holds("good", map[string]string{"millrace.toml": "good", "a.pem": "a.pem", "hq.secret": "hq.secret", "admin.scram": "admin.scram", "note.txt": ""})
	if info, err := os.Stat(filepath.Join(root, "run", "millrace-config", "hq.secret")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("the secret: %v, %v", info, err)
	}
	write("run/boot/millrace.toml", "wrong")
	write("run/boot/hq.secret", "another")
	boot()
	holds("wrong", map[string]string{"millrace.toml": "good", "a.pem": "a.pem", "hq.secret": "hq.secret"})
	write("run/boot/millrace.toml", "good")
	if err := os.Remove(filepath.Join(root, "run", "boot", "hq.secret")); err != nil {
		t.Fatal(err)
	}
	boot()
	write("run/boot/millrace.toml", "wrong")
	boot()
	holds("taken away", map[string]string{"a.pem": "a.pem", "hq.secret": ""})
}
