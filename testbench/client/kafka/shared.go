package kafka

import (
	"errors"
	"os"
	"sync"
	"testing"
)

// shared is the cluster of the package whose tests run.
var shared struct {
	sync.Mutex
	dir     string
	cluster *Cluster
}

// Shared is one node with the default options for all tests of a package, started when the first asks for it: a test has
// topics of its own, and leaves the node running. The package calls EndShared when its tests have run:
//
//	func TestMain(m *testing.M) {
//		os.Exit(kafka.EndShared(m.Run()))
//	}
func Shared(t testing.TB) *Cluster {
	t.Helper()
	Jars(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster != nil {
		return shared.cluster
	}
	if shared.dir == "" {
		var err error
		if shared.dir, err = os.MkdirTemp("", "kafka"); err != nil {
			t.Fatal(err)
		}
	}
	c := prepare(t, shared.dir, Options{})
	defer func() {
		if shared.cluster == nil { // it did not start
			if err := c.kill(); err != nil {
				t.Error(err)
			}
		}
	}()
	c.makeArchive(t, Jars(t))
	c.Start(t)
	shared.cluster = c
	return c
}

// EndShared kills the node of Shared where there is one. It returns the exit code of the tests, or 1 when that went wrong.
func EndShared(code int) int {
	shared.Lock()
	defer shared.Unlock()
	var err error
	if shared.cluster != nil {
		err = shared.cluster.kill()
	}
	if shared.dir != "" {
		err = errors.Join(err, os.RemoveAll(shared.dir))
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return max(code, 1)
	}
	return code
}
