package mqtt_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of statements in README.md anew")

// statement is one normative statement of a specification.
type statement struct {
	version, id string
	server      bool   // it binds a server
	words       string // ours
	same        string // 3.1.1: the statement of 5.0 that asks for the same
}

func statements(t *testing.T) (all []statement) {
	t.Helper()
	file, err := os.ReadFile("testdata/statements.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(file)), "\n") {
		if line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 {
			t.Fatalf("line %d is no statement: %s", i+1, line)
		}
		s := statement{version: f[0], id: f[1], server: f[2] == "s", words: f[3]}
		if s.same = strings.TrimPrefix(s.words, "= "); s.same == s.words {
			s.same = ""
		}
		all = append(all, s)
	}
	return all
}

// citation is how code and tests name a statement; without more it is of 5.0.
var citation = regexp.MustCompile(`\[(MQTT-\d+\.\d+\.\d+-\d+)\]( of 3\.1\.1)?`)

// cite adds name to what cites each statement in text, whose comments may be broken into lines.
func cite(held map[string][]string, text, name string) {
	text = regexp.MustCompile(`\n\s*//`).ReplaceAllString(text, "")
	for _, m := range citation.FindAllStringSubmatch(text, -1) {
		key := "5 " + m[1]
		if m[2] != "" {
			key = "4 " + m[1]
		}
		if !slices.Contains(held[key], name) {
			held[key] = append(held[key], name)
		}
	}
}

// citations are the files that obey each statement and the tests that hold it.
func citations(t *testing.T) (code, tests map[string][]string) {
	t.Helper()
	code, tests = make(map[string][]string), make(map[string][]string)
	for _, dir := range []string{".", "../route", "../payload", "../../testbench/client"} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !strings.HasSuffix(path, "_test.go") {
				cite(code, string(text), filepath.ToSlash(path))
				return nil
			}
			files := token.NewFileSet()
			parsed, err := parser.ParseFile(files, path, text, parser.ParseComments)
			if err != nil {
				return err
			}
			for _, decl := range parsed.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
					continue
				}
				begin := fn.Pos()
				if fn.Doc != nil {
					begin = fn.Doc.Pos()
				}
				cite(tests, string(text[files.Position(begin).Offset:files.Position(fn.End()).Offset]), fn.Name.Name)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conversations(t) {
		cite(tests, c.holds, "TestConversations/"+strings.ReplaceAll(c.name, " ", "_"))
	}
	vectors, err := filepath.Glob("packet/testdata/*.txt")
	if err != nil || len(vectors) == 0 {
		t.Fatal(err, vectors)
	}
	for _, name := range vectors {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		cite(tests, string(text), "TestWireVectors")
	}
	return code, tests
}

// pending are statements about what is not built yet, or is being built: what nothing cites of them is logged, not an error.
var pending = []string{
	"MQTT-4.8.2-1", "MQTT-4.8.2-2", "MQTT-4.8.2-3", "MQTT-4.8.2-4", "MQTT-4.8.2-5", "MQTT-4.8.2-6", // shared subscriptions
}

const tableBegin, tableEnd = "<!-- the table below is written by statements_test.go -->\n", "<!-- end of the table -->\n"

// TestEveryStatementIsObeyedAndHeld: each normative statement that binds a server is cited where the code obeys it and in a
// test that holds it, and README.md has the table of them all.
func TestEveryStatementIsObeyedAndHeld(t *testing.T) {
	code, tests := citations(t)
	known := make(map[string]bool)
	var table bytes.Buffer
	table.WriteString("| of | statement | in our words | obeyed in | held by |\n|---|---|---|---|---|\n")
	var clients []string
	for _, s := range statements(t) {
		key := s.version + " " + s.id
		known[key] = true
		name := map[string]string{"5": "5", "4": "3.1.1"}[s.version]
		if !s.server {
			clients = append(clients, s.id+" ("+name+")")
			continue
		}
		obeyed, held := code[key], tests[key]
		if s.same != "" {
			obeyed, held = slices.Concat(obeyed, code["5 "+s.same]), slices.Concat(held, tests["5 "+s.same])
			s.words = "as " + s.same + " of 5"
		}
		slices.Sort(obeyed)
		slices.Sort(held)
		obeyed, held = slices.Compact(obeyed), slices.Compact(held)
		complain := t.Errorf
		if slices.Contains(pending, s.id) && s.version == "5" || slices.Contains(pending, s.same) {
			complain = t.Logf
		}
		if len(obeyed) == 0 {
			obeyed = []string{"not yet"}
			complain("%s of %s (%s): no code cites it", s.id, name, s.words)
		}
		if len(held) == 0 {
			held = []string{"not yet"}
			complain("%s of %s (%s): no test cites it", s.id, name, s.words)
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", name, s.id, s.words, strings.Join(obeyed, " "), strings.Join(held, " "))
	}
	fmt.Fprintf(&table, "\nThese bind clients only: %s.\n", strings.Join(clients, ", "))
	for _, cited := range []map[string][]string{code, tests} {
		for key, where := range cited {
			if !known[key] {
				t.Errorf("%v cite %s, which there is not", where, key)
			}
		}
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), tableBegin)
	is, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		t.Fatal("README.md has no place for the table")
	}
	switch {
	case is == table.String():
	case *update:
		if err := os.WriteFile("README.md", []byte(before+tableBegin+table.String()+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the table in README.md is not what code and tests cite: go test ./bridge/mqtt -run EveryStatement -update")
	}
}
