package tidy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// verbs is what `make help` lists, and README and other documents count on.
var verbs = []string{"help", "build", "run", "test", "test-long", "test-deps", "lint", "fuzz", "bench", "cross", "deb", "image", "qemu", "flash", "clean"}

// makes runs make in the repository with another PATH, "" for the same.
func makes(t *testing.T, path string, args ...string) (out string, err error) {
	t.Helper()
	tool, err := exec.LookPath("make")
	if err != nil {
		t.Skip("LANE SKIPPED: no make")
	}
	cmd := exec.Command(tool, args...)
	cmd.Dir = root(t)
	// Of a make that runs this test nothing is inherited.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "MAKE") || strings.HasPrefix(e, "MFLAGS=")
	})
	if path != "" {
		cmd.Env = append(cmd.Env, "PATH="+path)
	}
	raw, err := cmd.CombinedOutput()
	return string(raw), err
}

func TestHelpListsEveryVerb(t *testing.T) {
	out, err := makes(t, "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var listed []string
	for line := range strings.Lines(out) {
		verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		listed = append(listed, verb)
		if strings.TrimSpace(text) == "" {
			t.Errorf("%s says nothing about itself", verb)
		}
	}
	slices.Sort(listed)
	if want := slices.Sorted(slices.Values(verbs)); !slices.Equal(listed, want) {
		t.Errorf("make lists %v, want %v", listed, want)
	}
}

// Without Go, or with one that is too old, every verb that needs it says so in one line before anything else happens.
func TestGoIsAskedForFirst(t *testing.T) {
	tools := t.TempDir()
	for _, name := range []string{"bash", "sed", "sort", "head", "env"} {
		tool, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("LANE SKIPPED: no %s", name)
		}
		if err := os.Symlink(tool, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(raw), "\ngo ")
	want, _, _ = strings.Cut(want, "\n")
	for _, have := range []string{"", "1.9.7", "1.19.8"} {
		if have != "" {
			old := fmt.Sprintf("#!%s/bash\necho go%s\n", tools, have)
			if err := os.WriteFile(filepath.Join(tools, "go"), []byte(old), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		found := have
		if found == "" {
			found = "none"
		}
		for _, verb := range verbs {
			if verb == "help" || verb == "flash" || verb == "clean" {
				continue
			}
			out, err := makes(t, tools, verb)
			first, rest, _ := strings.Cut(out, "\n")
			// The second line is make's own, that the verb failed.
			if err == nil || first != "millrace needs Go "+want+" or newer, found "+found+": install it from your distribution or go.dev/dl" ||
				strings.Count(rest, "\n") != 1 || !strings.HasPrefix(rest, "make") {
				t.Errorf("make %s with Go %s: %v\n%s", verb, found, err, out)
			}
		}
	}
}

// What the verbs leave in the tree is nobody's to commit.
func TestWhatIsBuiltIsIgnored(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("LANE SKIPPED: no git")
	}
	for _, name := range []string{"bin/millrace", "bin/millrace-linux-arm", "data/meta.properties"} {
		cmd := exec.Command("git", "check-ignore", "-q", "--no-index", name)
		cmd.Dir = root(t)
		if _, err := os.Stat(filepath.Join(cmd.Dir, ".git")); err != nil {
			t.Skip("an unpacked release has nothing to ignore")
		}
		if err := cmd.Run(); err != nil {
			t.Errorf("%s is not ignored: %v", name, err)
		}
	}
}
