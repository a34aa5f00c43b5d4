package confluent

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
		Assignors: []string{"range", "cooperative-sticky"},
		Refused:   "authentication failed",
		Denied:    "Topic authorization failed",
	}
}

func TestRecords(t *testing.T) { drill.Records(t, client(t)) }

func TestGroup(t *testing.T) { drill.Group(t, client(t)) }

func TestLogin(t *testing.T) { drill.Login(t, client(t)) }
