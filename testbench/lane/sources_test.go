package lane

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSourcesOfTheProgram(t *testing.T) {
	files, dirs, err := sources(Program, []string{"CGO_ENABLED=0", "GOARCH=arm"})
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"go.mod", "go.sum", "platform/cmd/millrace/main.go", "broker/broker.go", "broker/journal/journal.go",
		"platform/config/millrace.toml", // embedded
	} {
		if !slices.Contains(files, filepath.Join(root, want)) {
			t.Errorf("%s is not among the %d sources", want, len(files))
		}
	}
	if !slices.Contains(dirs, filepath.Join(root, "broker")) {
		t.Errorf("directories %v", dirs)
	}
	for _, f := range files {
		if !strings.HasPrefix(f, root) || strings.HasSuffix(f, "_test.go") || strings.HasSuffix(f, "_arm64.go") {
			t.Errorf("%s is no source of ours", f)
		}
	}
	if _, _, err := sources("millrace/no/such/program", nil); err == nil {
		t.Error("a package that is not there has sources")
	}
}

// A module with a program and a test that starts it: the test runs again when what the program is built of has changed,
// and not before.
func TestAResultHangsOnWhatAChildIsBuiltOf(t *testing.T) {
	dir := t.TempDir()
	own, err := os.ReadFile("sources.go")
	if err != nil {
		t.Fatal(err)
	}
	// Of a file that was written just now go does not trust the date.
	past := time.Now().Add(-time.Hour)
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		past = past.Add(time.Second)
		if err := os.Chtimes(name, past, past); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(string(raw), "\ngo ")
	version, _, _ = strings.Cut(version, "\n")
	write("go.mod", "module trial\n\ngo "+version+"\n")
	write("lane/sources.go", string(own))
	write("program/main.go", "package main\n\nimport (\n\t_ \"embed\"\n\n\t_ \"trial/below\"\n)\n\n//go:embed text\nvar text string\n\nfunc main() { println(text) }\n")
	write("program/text", "one")
	write("program/main_test.go", "package main\n")
	write("below/below.go", "package below\n")
	write("script/run.sh", "exit 0\n")
	write("use/use_test.go", `package use

import (
	"testing"

	"trial/lane"
)

func TestTheProgram(t *testing.T) {
	lane.Sources(t, "trial/program")
	lane.Uses(t, "../script")
}
`)
	cached := func() bool {
		t.Helper()
		cmd := exec.Command("go", "test", "-vet=off", "./use")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Contains(string(out), "(cached)")
	}
	for _, step := range []struct {
		change, text string
		want         bool // the old result
	}{
		{},
		{want: true},
		{change: "program/main_test.go", text: "package main // tests are not in the program\n", want: true},
		{change: "below/below.go", text: "package below // changed\n"},
		{change: "program/text", text: "two"},
		{change: "below/more.go", text: "package below\n"},
		{change: "script/run.sh", text: "exit 1\n"},
		{want: true},
	} {
		if step.change != "" {
			write(step.change, step.text)
		}
		if got := cached(); got != step.want {
			t.Errorf("after a change of %q the old result counts: %v, want %v", step.change, got, step.want)
		}
	}
}
