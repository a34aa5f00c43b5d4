package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// slow is a peer that refuses records for a while after each transaction, and is asked again as a session does.
type slow struct{ busy time.Duration }

// transaction is how often its records went over the wire.
func (s slow) transaction(t *testing.T, p *pace) (sent int) {
	t.Helper()
	ready := p.ended.Add(s.busy)
	if err := p.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		sent++
		p.OnBrokerWrite(kgo.BrokerMetadata{NodeID: 1}, kmsg.Produce.Int16(), 1, 0, 0, nil)
		if !time.Now().Before(ready) {
			break
		}
		time.Sleep(retryWait(sent))
	}
	p.flushed()
	p.OnBrokerWrite(kgo.BrokerMetadata{NodeID: 1}, kmsg.EndTxn.Int16(), 1, 0, 0, nil)
	p.ended = time.Now()
	return sent
}

// Records go over the wire about once, however long the peer takes for the end of a transaction, and are not held up where it
// takes no time.
func TestTransactionsAreNotSentInVain(t *testing.T) {
	const n = 200
	for _, busy := range []time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var p pace
			s := slow{busy: busy}
			sent, began := 0, time.Now()
			for range n {
				sent += s.transaction(t, &p)
			}
			took := time.Since(began)
			if sent > n*5/4 {
				t.Errorf("busy %v: records of %d transactions went %d times", busy, n, sent)
			}
			if took > n*2*max(busy, settleLeast) || busy == 0 && took > 0 {
				t.Errorf("busy %v: %d transactions took %v", busy, n, took)
			}
			s.busy = 0 // and it forgets
			for range 300 {
				s.transaction(t, &p)
			}
			if p.settle > time.Millisecond {
				t.Errorf("busy %v no more: it still waits %v", busy, p.settle)
			}
		})
	}
}

// What is refused long after the last transaction is refused for another reason, and is no cause to wait.
func TestARefusalAfterARestIsNoCauseToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{ended: time.Now()}
		time.Sleep(time.Minute)
		s := slow{busy: time.Minute + time.Second}
		if sent := s.transaction(t, &p); sent < 2 || p.settle != 0 {
			t.Errorf("sent %d times, and waits %v from now on", sent, p.settle)
		}
	})
}

func TestTheWaitBetweenTransactionsEnds(t *testing.T) {
	p := pace{ended: time.Now(), settle: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.begin(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
