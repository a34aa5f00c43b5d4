package main

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"

	"millrace/broker"
)

// dumpMax bounds what is told of the goroutines of a process that was found dead, in bytes.
const dumpMax = 64 << 10

// errStarved is why a process ends that did not feed its service manager.
var errStarved = errors.New("the service manager got no sign of life in time")

// abortable has the process end when its service manager finds it dead and sends SIGABRT (WatchdogSignal=): with an exit
// code of its own, so that a unit may tell that from a crash; why is written down for the next start, and what the goroutines
// do goes to standard error. Where that hangs too the manager kills the process. The function it returns takes it back.
func (c *command) abortable(running *atomic.Pointer[broker.Broker], exit func(int)) (end func()) {
	abort, quit, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(abort, syscall.SIGABRT)
	go func() {
		defer close(ended)
		select {
		case <-quit:
			return
		case <-abort:
		}
		dumped := make(chan struct{})
		go func() {
			defer close(dumped)
			dump := make([]byte, dumpMax)
			c.note("%v; what goes on:\n%s", errStarved, dump[:runtime.Stack(dump, true)])
		}()
		if b := running.Load(); b != nil {
			b.Condemn(errStarved)
		}
		<-dumped
		exit(exitDead)
	}()
	return func() {
		signal.Stop(abort)
		close(quit)
		<-ended
	}
}
