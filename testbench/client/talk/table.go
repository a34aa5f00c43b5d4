package talk

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// table is the page that says which client is driven through what. It is read from a folder beside this one.
const table = "../README.md"

// judgeTable holds a client's column of the table against what it was driven through.
func judgeTable(t *testing.T, c *Client) {
	t.Helper()
	page, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	var names []string
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) > 2 {
			names = append(names, cells[0])
			rows[cells[0]] = cells
		}
	}
	column := slices.Index(rows["feature"], c.Name)
	if column < 0 {
		t.Fatalf("%s has no column of %s", table, c.Name)
	}
	var features []string
	for _, want := range rowsOf(c) {
		features = append(features, want[0])
		if row := rows[want[0]]; len(row) <= column || row[column] != want[1] {
			t.Errorf("%s: want | %s | %s |, have %q", table, want[0], want[1], row)
		}
	}
	for _, name := range names {
		if name != "feature" && strings.Trim(name, "-") != "" && !slices.Contains(features, name) {
			t.Errorf("%s has a row of %s, which no client is driven through", table, name)
		}
	}
}

// rowsOf are the client's cells.
func rowsOf(c *Client) [][2]string {
	versions := map[int]string{4: "3.1.1", 5: "5"}
	var speaks []string
	for _, v := range c.Versions {
		speaks = append(speaks, versions[v])
	}
	rows := [][2]string{{"transports", strings.Join(c.Transports, " ")}, {"versions", strings.Join(speaks, " ")}}
	for _, f := range append(features, feature{name: restarted}) {
		var can []string
		why := ""
		for _, v := range c.Versions {
			if f.five && v != 5 {
				continue
			}
			if w := f.cannot(c, v); w != "" {
				why = w
			} else {
				can = append(can, versions[v])
			}
		}
		cell := "yes"
		switch {
		case f.cannot(c, 5) != "" && len(can) == 0:
			cell = f.cannot(c, 5)
		case why != "":
			cell = strings.Join(can, " ") + " only: " + why
		}
		rows = append(rows, [2]string{f.name, cell})
	}
	return rows
}
