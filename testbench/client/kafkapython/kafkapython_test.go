// Package kafkapython drives a whole broker with kafka-python.
package kafkapython

import (
	"slices"
	"testing"

	"millrace/testbench/client/drill"
	"millrace/testbench/client/python"
)

func client(t *testing.T) drill.Lane {
	t.Helper()
	return drill.Lane{
		Client:    python.Program(t, "drive.py"),
		Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
		Assignors: []string{"range", "cooperative-sticky"},
		Refused:   "authentication failed",
		Denied:    "TopicAuthorizationFailedError",
		Cannot: func(r drill.Record) bool {
			return r.Key == nil && r.Value == nil || slices.ContainsFunc(r.Headers, func(h drill.Header) bool { return h.Value == nil })
		},
	}
}

func TestRecords(t *testing.T) { drill.Records(t, client(t)) }

func TestGroup(t *testing.T) { drill.Group(t, client(t)) }

func TestLogin(t *testing.T) { drill.Login(t, client(t)) }
