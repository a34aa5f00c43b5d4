// Package aiokafka drives a whole broker with aiokafka.
package aiokafka

import (
	"testing"

	"millrace/testbench/client/drill"
	"millrace/testbench/client/python"
)

func client(t *testing.T) drill.Lane {
	t.Helper()
	return drill.Lane{
		Client:    python.Program(t, "drive.py"),
		Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
		Assignors: []string{"roundrobin", "sticky"},
		Refused:   "authentication failed",
		Denied:    "TopicAuthorizationFailedError",
		Cannot:    func(r drill.Record) bool { return r.Key == nil && r.Value == nil },
	}
}

func TestRecords(t *testing.T) { drill.Records(t, client(t)) }

func TestGroup(t *testing.T) { drill.Group(t, client(t)) }

func TestLogin(t *testing.T) { drill.Login(t, client(t)) }
