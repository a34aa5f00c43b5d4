package main

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"millrace/broker"
)

// What the service manager ends has an exit code of its own: the runtime's for SIGABRT is that of a crash, after which a unit
// starts the process again.
func TestAbortHasAnExitCodeOfItsOwn(t *testing.T) {
	var said strings.Builder
	var running atomic.Pointer[broker.Broker] // it still starts
	code := make(chan int, 1)
	end := (&command{errs: &said}).abortable(&running, func(n int) { code <- n })
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if n := <-code; n != exitDead {
		t.Errorf("it ended with %d, want %d", n, exitDead)
	}
	end()
	if !strings.Contains(said.String(), "TestAbortHasAnExitCodeOfItsOwn") {
		t.Errorf("nothing tells what went on: %s", said.String())
	}
}
