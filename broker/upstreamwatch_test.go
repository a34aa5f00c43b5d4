package broker

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/platform/config"
)

// slow is the engine of a link whose status takes long: a lock of it is held while flash is written.
type slow struct {
	carrier
	asked chan struct{}
	let   chan struct{}
}

func (s *slow) Run(ctx context.Context) { <-ctx.Done() }

func (s *slow) Status() upstream.Status {
	s.asked <- struct{}{}
	<-s.let
	return upstream.Status{}
}

func (s *slow) Kick() {}

// The pulse ticks on while a link waits for flash.
func TestThePulseDoesNotWaitForALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &config.Upstream{Name: "hq", Topics: []string{"a"}}
		zone, err := contract.Zone("")
		if err != nil {
			t.Fatal(err)
		}
		terms, err := contract.New(terms(u, zone))
		if err != nil {
			t.Fatal(err)
		}
		meter, err := contract.NewMeter(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &slow{asked: make(chan struct{}), let: make(chan struct{})}
		k := &link{
			settings: *u, link: s, due: make(chan struct{}, 1),
			line: &line{u: u, contract: terms, zone: zone, meter: meter, moment: func() contract.Moment { return contract.Moment{} }},
		}
		l := &links{}
		l.all.Store(&[]*link{k})
		k.run()
		for range 3 {
			l.step()
		}
		<-s.asked // it is at it
		l.step()
		close(s.let)
		<-s.asked // and looks again, for it was due meanwhile
		k.stop()
		k.running.Wait()
	})
}

// quick is an engine that waits for its contract.
type quick struct{ carrier }

func (quick) Status() upstream.Status {
	return upstream.Status{State: upstream.StateWaiting, Records: 1}
}

// Who asks how the links are, /healthz among them, does not wait while one writes down what it has used of its day.
func TestStatusOfLinksWaitsForNoFlash(t *testing.T) {
	u := &config.Upstream{Name: "hq", Topics: []string{"a"}}
	zone, err := contract.Zone("")
	if err != nil {
		t.Fatal(err)
	}
	terms, err := contract.New(terms(u, zone))
	if err != nil {
		t.Fatal(err)
	}
	moment := func() contract.Moment { return contract.Moment{Time: time.Unix(1_800_000_000, 0), Known: true} }
	flash := disktest.New(disk.OS{})
	budget, _, err := contract.OpenBudget(contract.BudgetConfig{FS: flash, Path: filepath.Join(t.TempDir(), "hq.day"), Limit: 10 << 20, Now: moment})
	if err != nil {
		t.Fatal(err)
	}
	meter, err := contract.NewMeter(0, budget)
	if err != nil {
		t.Fatal(err)
	}
	line := &line{u: u, contract: terms, zone: zone, meter: meter, budget: budget, moment: moment}
	b := &Broker{links: &links{}}
	b.links.all.Store(&[]*link{{settings: *u, link: quick{}, line: line}})

	reached, let := make(chan struct{}), make(chan struct{})
	flash.FailWrite(func(string) bool {
		close(reached)
		<-let
		return true // with no error
	}, nil, 1)
	here, there := net.Pipe()
	var sent sync.WaitGroup
	sent.Go(func() { // its first byte has it reserve a hundredth of the day
		if _, err := meter.Conn(here).Write([]byte("hello")); err != nil {
			t.Error(err)
		}
	})
	<-reached
	told := make(chan []LinkStatus, 1)
	go func() { told <- b.Links() }()
	select {
	case list := <-told:
		if len(list) != 1 || list[0].Day == nil || list[0].Day.Budget != 10<<20 || list[0].Day.Used != 0 {
			t.Errorf("%+v", list)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for flash")
	}
	close(let)
	if _, err := io.ReadFull(there, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	sent.Wait()
	if day := b.Links()[0].Day; day.Used != 5 {
		t.Errorf("%+v", day)
	}
	for _, c := range []io.Closer{here, there, budget} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
