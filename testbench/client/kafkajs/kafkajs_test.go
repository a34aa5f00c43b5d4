// Package kafkajs drives a whole broker with kafkajs.
package kafkajs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"millrace/testbench/client/drill"
	"millrace/testbench/lane"
)

func client(t *testing.T) drill.Lane {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "millrace-test", "kafkajs")
	node := lane.Need(t, "node", filepath.Join(dir, "complete"))[0]
	lane.Uses(t, "drive.js")
	return drill.Lane{
		Client:    drill.Program{Args: []string{node, "drive.js"}, Env: []string{"NODE_PATH=" + filepath.Join(dir, "node_modules")}},
		Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
		Assignors: []string{"RoundRobinAssigner"},
		Refused:   "authentication failed",
		Denied:    "Topic authorization failed",
		Cannot: func(r drill.Record) bool {
			return slices.ContainsFunc(r.Headers, func(h drill.Header) bool { return h.Value == nil })
		},
	}
}

func TestRecords(t *testing.T) { drill.Records(t, client(t)) }

func TestGroup(t *testing.T) { drill.Group(t, client(t)) }

func TestLogin(t *testing.T) { drill.Login(t, client(t)) }
