package broker

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"millrace/platform/config"
)

func TestABoardTellsItsFiguresAndItsHealth(t *testing.T) {
	b := board(t, t.TempDir(), func(s *config.Config) { s.HTTP.Listener = "127.0.0.1:0" })
	appendOne(t, b, "climate", "21.5")
	get := func(path string) string {
		t.Helper()
		r, err := http.Get("http://" + b.Addresses().HTTP[0] + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		if err != nil || r.Body.Close() != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v %s", path, r.Status, err, text)
		}
		return string(text)
	}
	if health := get("/healthz"); health != "ok\n" {
		t.Errorf("health %q", health)
	}
	for _, line := range []string{
		`kafka_topic_partition_current_offset{topic="climate",partition="0"} 1`,
		`# TYPE millrace_journal_commits_total counter`,
		`millrace_budget_size_bytes{share="bodies"} `,
	} {
		if text := get("/metrics"); !strings.Contains(text, line) {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}
