package auth

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// damperMax is how many addresses are remembered; the one that failed longest ago gives way.
	damperMax = 1024
	// doublings is how often the delay doubles, and waitMax the longest wait for an answer: guesses of many connections
	// from one address queue up to it.
	doublings = 6
	waitMax   = 10 * time.Second
	// forgiven is after how long without a failure an address is forgotten.
	forgiven = 10 * time.Minute
)

// Damper slows guessing down: the answer to a failed login waits, each further failure from the same address longer.
// Logins that succeed never wait, so whoever shares an address with a guesser is not locked out. Safe for concurrent use.
type Damper struct {
	base time.Duration

	mu sync.Mutex
	// Invariant: at most damperMax.
	failed map[netip.Addr]*failures
}

type failures struct {
	count int
	last  time.Time
	// until is when the answers that are under way will all be sent.
	until time.Time
}

// NewDamper makes one whose first delay is base (`connection.failed.authentication.delay.ms`); 0 delays nothing.
func NewDamper(base time.Duration) *Damper {
	return &Damper{base: base, failed: make(map[netip.Addr]*failures)}
}

// Failed notes a failure and returns how long its answer is to wait.
func (d *Damper) Failed(host string, now time.Time) time.Duration {
	if d.base <= 0 {
		return 0
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return d.base
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() { // a site has 2^64 of them
		ip = netip.PrefixFrom(ip, 64).Masked().Addr()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failed[ip]
	if f == nil || now.Sub(f.last) > forgiven {
		if f == nil && len(d.failed) >= damperMax {
			d.forget()
		}
		f = &failures{until: now}
		d.failed[ip] = f
	}
	delay := d.base << min(f.count, doublings)
	f.count, f.last = f.count+1, now
	if f.until.Before(now) {
		f.until = now
	}
	f.until = f.until.Add(delay)
	if latest := now.Add(waitMax); f.until.After(latest) {
		f.until = latest
	}
	return f.until.Sub(now)
}

// forget drops the address that failed longest ago.
func (d *Damper) forget() {
	var oldest netip.Addr
	var at time.Time
	for ip, f := range d.failed {
		if at.IsZero() || f.last.Before(at) {
			oldest, at = ip, f.last
		}
	}
	delete(d.failed, oldest)
}
