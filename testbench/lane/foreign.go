package lane

import (
	"context"
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
	for {
		err := wrong(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", Patience, what, err)
		}
	}
}

// FreeAddress is a loopback address nobody listens at, for a program that has to be told one.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}
