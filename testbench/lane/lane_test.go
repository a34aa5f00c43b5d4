package lane

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

// recorder is a testing.TB that remembers how the test under it ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, _ ...any) { r.end("skip " + format) }

func (r *recorder) Fatalf(format string, _ ...any) { r.end("fail " + format) }

func (r *recorder) end(how string) {
	r.ended = how
	runtime.Goexit()
}

func ended(t *testing.T, needs ...string) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Need(r, needs...)
	}()
	<-done
	return r.ended
}

func TestAMissingToolSkipsOrFails(t *testing.T) {
	for _, tt := range []struct{ ci, lanes, want string }{
		{"", "", "skip"},
		{"false", "", "skip"},
		{"true", "", "fail"},
		{"", "require", "fail"},
	} {
		t.Setenv("CI", tt.ci)
		t.Setenv("MILLRACE_LANES", tt.lanes)
		got := ended(t, "go", "no-such-tool-anywhere")
		if !strings.HasPrefix(got, tt.want) || !strings.Contains(got, "make test-deps") {
			t.Errorf("CI=%q MILLRACE_LANES=%q: %q, want %s", tt.ci, tt.lanes, got, tt.want)
		}
	}
}

func TestWhatIsThereIsFound(t *testing.T) {
	t.Setenv("CI", "true")
	found, missing := look([]string{"go", "/", "/no/such/file"})
	if len(found) != 2 || found[1] != "/" || !slices.Equal(missing, []string{"/no/such/file"}) {
		t.Fatalf("found %q, missing %q", found, missing)
	}
	if got := ended(t, "go"); got != "" {
		t.Fatalf("a met need ended the test: %s", got)
	}
}
