package lane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// Patience is how long a foreign program may take for anything. It only ends a hang on a loaded machine.
const Patience = 2 * time.Minute

// Until asks a program of another process again and again what is wrong, until nothing is. It ends the test where that
// takes longer than Patience.
func Until(t testing.TB, what string, wrong func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var last error
	for {
		err := wrong(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil { // else it is only that the time was over while it was asked
			last = err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", Patience, what, last)
		}
	}
}

// FreeAddress is a loopback address nobody listens at, for a program that has to be told one, or that comes back to it.
// It is the caller's until the test ends: no other test is given it, and its port is below those that the kernel gives
// to connections, so that none takes it while the program is down.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const low, high, tries = 12_000, 32_000, 1000
	for range tries {
		port := low + rand.IntN(high-low)
		held, err := net.Listen("unix", fmt.Sprintf("@millrace-test-port-%d", port)) // ends with the process at the latest
		if err != nil {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if free(address) {
			t.Cleanup(func() {
				if err := held.Close(); err != nil {
					t.Errorf("give back %s: %v", address, err)
				}
			})
			return address
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("none of %d ports from %d to %d is free", tries, low, high)
	return ""
}

// free says whether a program can listen at an address now.
func free(address string) bool {
	l, err := net.Listen("tcp", address)
	return err == nil && l.Close() == nil
}
