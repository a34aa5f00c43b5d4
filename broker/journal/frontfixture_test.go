package journal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/broker/disk"
)

// memory is a front that fails on demand.
type memory struct {
	mu     sync.Mutex
	bytes  []byte
	writes int
	fail   func() (written int, err error) // asked before each write; nil: none fails
	dead   error                           // of every read and write
}

func newMemory(size int) *memory {
	m := &memory{bytes: make([]byte, size)}
	for i := range m.bytes {
		m.bytes[i] = 0xff
	}
	return m
}

func (m *memory) Size() int64 { return int64(len(m.bytes)) }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead != nil {
		return 0, m.dead
	}
	n := copy(p, m.bytes[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead != nil {
		return 0, m.dead
	}
	if off+int64(len(p)) > int64(len(m.bytes)) {
		panic("a write over the end")
	}
	m.writes++
	if m.fail != nil {
		if n, err := m.fail(); err != nil {
			n = min(n, len(p))
			copy(m.bytes[off:], p[:n])
			return n, err
		}
	}
	return copy(m.bytes[off:], p), nil
}

func (m *memory) setFail(fn func() (int, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fn
}

func (m *memory) clone() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memory{bytes: slices.Clone(m.bytes)}
}

var errBus = errors.New("bus timeout")

// never is an After whose interval never ends.
func never(time.Duration) <-chan time.Time { return nil }

// fronted is the options of a journal with a front that is drained only when something calls for it.
func fronted(dir string, m *memory) Options {
	return Options{Dir: dir, Front: m, After: never}
}

// crash is what a cut of the power leaves of a journal that has synced all it wrote: its files and its front.
func crash(t *testing.T, dir string, m *memory) (string, *memory) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to, m.clone()
}

// expectFront opens a journal with its front, demands exactly these texts, twice, and that all of them are in the wal then.
func expectFront(t *testing.T, o Options, after Mark, want ...string) Report {
	t.Helper()
	j := open(t, o, after)
	got, r := texts(t, j)
	if !slices.Equal(got, want) {
		t.Errorf("replayed %q\nwant     %q", short(got), short(want))
	}
	start(t, j)
	if got := scanned(t, o.Dir, after); !slices.Equal(got, want) {
		t.Errorf("in the wal %q\nwant       %q", short(got), short(want))
	}
	put(t, j, "one more")
	shut(t, j)
	o.Front, o.FrontError, o.ForgetFront = nil, nil, false
	j = open(t, o, after) // without the front: a clean stop leaves nothing in it
	if got, _ := texts(t, j); !slices.Equal(got, append(slices.Clone(want), "one more")) {
		t.Errorf("after one more append replayed %q", short(got))
	}
	shut(t, j)
	return r
}

func scanned(t *testing.T, dir string, after Mark) (got []string) {
	t.Helper()
	if _, err := Scan(disk.OS{}, dir, func(f FrameInfo) error {
		for _, e := range f.Entries {
			if f.Index > after.Index {
				got = append(got, string(e.Bytes))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

// putAgain stages one record until it is taken: right after a failed commit some more are refused with it.
func putAgain(t *testing.T, j *Journal, text string) {
	t.Helper()
	var err error
	for range 1000 {
		if err = stage(j, record(0, text)); err == nil {
			return
		}
	}
	t.Fatalf("stage %q: %v", text, err)
}
