package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// elsewhere are the errors of broker/... that never become an answer, and why.
var elsewhere = map[string]string{
	"auth.ErrRule":               "the end of a connection, or a start that fails",
	"broker.":                    "a start that fails",
	"budget.ErrExhausted":        "a start that fails",
	"catalog.ErrCorrupt":         "what the quorum reads at its start",
	"catalog.ErrNewer":           "what the quorum reads at its start",
	"cleaner.":                   "background work",
	"journal.ErrForeign":         "a start that fails",
	"journal.ErrFront":           "a start that fails",
	"journal.ErrInvalid":         "a broken invariant of ours",
	"journal.ErrState":           "a broken invariant of ours",
	"partition.ErrChanged":       "compaction begins anew",
	"partition.ErrEntries":       "what the store reads at its start",
	"partition.ErrSlot":          "what the store reads at its start",
	"quorum.ErrForeign":          "a start that fails",
	"segment.ErrCheckpoint":      "what the store reads at its start",
	"segment.ErrFull":            "the partition rolls",
	"segment.ErrOrder":           "a broken invariant of ours",
	"segment.ErrPosition":        "what the store reads at its start",
	"segment.ErrSnapshot":        "what the store reads at its start",
	"segment.ErrTopicIndex":      "what a reader passes by is read instead",
	"server.ErrClosed":           "a listener that is too late",
	"server.ErrNotLoopback":      "a start that fails",
	"wheel.ErrFull":              "the purgatory's ErrFull",
	"wire.ErrFrameTooLarge":      "the end of a connection",
	"wire.ErrMalformed":          "the end of a connection",
	"wire.ErrUnknownAPI":         "the end of a connection",
	"wire.ErrUnsupportedVersion": "the end of a connection, or ApiVersions' own answer",
}

// errorsOf lists the exported errors that a directory's package declares.
func errorsOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, id := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(id.Name, "Err") {
						names = append(names, f.Name.Name+"."+id.Name)
					}
				}
			}
		}
	}
	return names
}

func TestEveryErrorHasACode(t *testing.T) {
	source, err := os.ReadFile("fault.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(source), "var faults = ")
	if !found {
		t.Fatal("fault.go has no table")
	}
	all := 0
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || strings.HasSuffix(path, "test") || d.Name() == "testdata" || path == "../api" {
			return err
		}
		for _, name := range errorsOf(t, path) {
			all++
			pkg, _, _ := strings.Cut(name, ".")
			_, here := elsewhere[name]
			if _, whole := elsewhere[pkg+"."]; whole {
				here = true
			}
			if listed := strings.Contains(table, "{"+name+", "); listed == here {
				t.Errorf("%s: in the table of faults is %v, among those that never reach a client is %v", name, listed, here)
			}
		}
		return nil
	})
	if err != nil || all < 20 {
		t.Errorf("%d errors found, %v", all, err)
	}
}
