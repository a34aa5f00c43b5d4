package quorum

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

// TestAVoteThatWasReadStays: a killed process left its last vote in the page cache, the next one believed it and lost
// the power in its first write, which goes over the vote before that. One of the two must be whole.
func TestAVoteThatWasReadStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	fs := disktest.New(disk.OS{})
	if err := fs.Record(dir); err != nil {
		t.Fatal(err)
	}
	reopen := func() *voteStore {
		t.Helper()
		s, _, damaged, err := openVote(fs, dir)
		if err != nil || damaged {
			t.Fatalf("open vote: damaged %v, %v", damaged, err)
		}
		return s
	}
	set := func(s *voteStore, term uint64, want error) {
		t.Helper()
		if err := s.SetUint64([]byte(keyTerm), term); !errors.Is(err, want) {
			t.Fatalf("term %d: %v, want %v", term, err, want)
		}
	}
	s := reopen()
	set(s, 5, nil)
	if err := fs.SyncDir(dir, syncCreate); err != nil {
		t.Fatal(err)
	}
	fs.FailSync(syncVote, syscall.EIO, 1)
	set(s, 6, syscall.EIO)
	s = reopen()
	if term := s.load().term; term != 6 {
		t.Fatalf("term %d, want the one that was written", term)
	}
	fs.StopAt(2) // in the sync
	set(s, 7, disktest.ErrCut)
	for seed := range uint64(100) {
		after := filepath.Join(t.TempDir(), fmt.Sprint(seed))
		if err := fs.Cut(rand.New(rand.NewPCG(seed, 1)), after); err != nil {
			t.Fatal(err)
		}
		s, made, damaged, err := openVote(disk.OS{}, after)
		if err != nil || made || damaged || s.load().term < 6 {
			t.Fatalf("cut %d: made %v, damaged %v, term %d, %v", seed, made, damaged, s.load().term, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
