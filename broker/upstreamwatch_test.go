package broker

import (
	"context"
	"testing"
	"testing/synctest"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
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
