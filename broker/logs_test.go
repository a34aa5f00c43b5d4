package broker

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// A part that is not in the list could have no level of its own, and one that is gone would be taken and do nothing.
func TestEveryComponentIsListed(t *testing.T) {
	named := regexp.MustCompile(`With\("component", "([a-z]+)"\)`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, name := range files {
		if name == "logs_test.go" {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range named.FindAllSubmatch(raw, -1) {
			seen = append(seen, string(match[1]))
		}
	}
	slices.Sort(seen)
	if seen = slices.Compact(seen); !slices.Equal(seen, Components) {
		t.Errorf("the source names %v, Components are %v", seen, Components)
	}
}
