package broker

import (
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/platform/config"
)

// What a link wants the peer to wait for the end of a transaction gets to the client, through all that lies between.
func TestThePatienceOfALinkReachesTheClient(t *testing.T) {
	way := &reach{u: &config.Upstream{Servers: []string{"127.0.0.1:1"}}, now: time.Now}
	remote := upstream.Remote(&line{kafka: way}) // as the engine has it
	for _, want := range []time.Duration{time.Minute, 427 * time.Second} {
		if want != time.Minute { // else what it is without
			remote.(upstream.Patient).Patience(want)
		}
		if c, err := way.config(); err != nil || c.TransactionTimeout != want {
			t.Errorf("the client has %v, %v, want %v", c.TransactionTimeout, err, want)
		}
	}
}
