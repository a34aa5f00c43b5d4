package api

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode"

	"millrace/broker/wire"
)

var update = flag.Bool("update", false, "write broker/README.md anew")

// generatedMark is what the part of broker/README.md that is made of the code begins with.
const generatedMark = "<!-- From here on made of broker/wire and the comments in broker/api: go test ./broker/api -run Readme -update -->\n"

// broker/README.md tells of every API what its file begins with: the versions, which are those of the version table, and
// what is to be known of it.
func TestReadmeListsWhatIsServed(t *testing.T) {
	const path = "../README.md"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(readme), generatedMark)
	if !found {
		t.Fatalf("%s has no line %q", path, generatedMark)
	}
	want := head + generatedMark + listed(t, wire.APIs())
	switch {
	case want == string(readme):
	case *update:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the code says: go test ./broker/api -run Readme -update", path)
	}
}

// listed is the generated part.
func listed(t *testing.T, apis []wire.API) string {
	t.Helper()
	var table, notes strings.Builder
	table.WriteString("\n| key | API | versions | |\n|---|---|---|---|\n")
	for _, a := range apis {
		versions := fmt.Sprintf("%d-%d", a.Min, a.Max)
		if a.Min == a.Max {
			versions = fmt.Sprint(a.Min)
		}
		file := fileOf(a)
		fmt.Fprintf(&table, "| %d | [%s](#%s) | %s | [api/%s](api/%s) |\n", a.Key, a.Name, strings.ToLower(a.Name), versions, file, file)
		fmt.Fprintf(&notes, "\n### %s\n\n%s", a.Name, notesOf(t, a, versions))
	}
	return table.String() + notes.String()
}

// notesOf is the list in the comment that the file of an API begins with.
func notesOf(t *testing.T, a wire.API, versions string) string {
	t.Helper()
	source, err := os.ReadFile(fileOf(a))
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(source), "\n\npackage ")
	head, list, _ := strings.Cut(comment, "\n//\n")
	// Produce names versions that it does not serve.
	if head != "// "+a.Name+": v"+versions && !strings.HasSuffix(head, fmt.Sprintf("-%d, named from %d", a.Max, a.Min)) {
		t.Errorf("%s begins with %q, want \"// %s: v%s\"", fileOf(a), head, a.Name, versions)
	}
	var b strings.Builder
	for line := range strings.Lines(list + "\n") {
		line = strings.TrimRight(line, "\n")
		item, isItem := strings.CutPrefix(line, "//   - ")
		more, isMore := strings.CutPrefix(line, "//     ")
		switch {
		case isItem:
			b.WriteString("- " + item + "\n")
		case isMore && b.Len() > 0:
			b.WriteString("  " + more + "\n")
		default:
			t.Errorf("%s: %q is no line of a list", fileOf(a), line)
		}
	}
	return b.String()
}

// fileOf is the file an API is answered in.
func fileOf(a wire.API) string {
	var b strings.Builder
	for i, r := range a.Name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return fmt.Sprintf("%02d_%s.go", a.Key, b.String())
}
