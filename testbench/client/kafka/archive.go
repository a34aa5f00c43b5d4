package kafka

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// archiveOf is the file beside the jars that holds the classes of a node as the Java machine has them in memory: with it
// a node starts in two thirds of the time. A machine that finds it made by another, or of other jars, does without.
func archiveOf(jars string) string { return filepath.Join(filepath.Dir(jars), "archive", "node.jsa") }

// makeArchive makes that file when it is not there: a machine writes it when it ends, so the node is started, stopped and
// left to be started again. That takes a few seconds, once. While another process does it nothing is done.
func (c *Cluster) makeArchive(t testing.TB, jars string) {
	t.Helper()
	file := archiveOf(jars)
	if exists(file) || len(c.Nodes) > 1 { // one of three does not serve alone
		return
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return
	case err != nil:
		t.Fatal(err)
	}
	n := c.Node(1)
	plain := n.java
	n.java = slices.Insert(slices.Clone(plain), 1, "-XX:ArchiveClassesAtExit="+file+".part")
	c.Start(t)
	n.Stop(t)
	n.java = plain
	if err := os.Rename(file+".part", file); err != nil {
		t.Logf("nodes start as slowly as before: %v\n%s", err, n.tail())
		return
	}
	n.java = slices.Insert(slices.Clone(plain), 1, "-XX:SharedArchiveFile="+file)
}
