package identity

import (
	"net"
	"os"
	"slices"
	"strings"
)

// Limits of what a certificate names: a board with more says so by hand.
const (
	dnsMax       = 16
	addressesMax = 16
)

// Names are what clients call a board.
type Names struct {
	// DNS are its names, the one it is known by first.
	DNS []string
	// Addresses are those it has.
	Addresses []net.IP
}

// Here asks the kernel for the names of this board: its host name, whole, short and as multicast DNS has it, and the
// addresses of its interfaces, as they are now. hosts are names and addresses more, such as those that listeners are at.
// Loopback is always there.
func Here(hosts ...string) Names {
	var n Names
	if host, err := os.Hostname(); err == nil {
		short, _, _ := strings.Cut(host, ".")
		n.add(short)
		n.add(host)
		if short != "localhost" {
			n.add(short + ".local")
		}
	}
	n.add("localhost")
	n.add("127.0.0.1")
	n.add("::1")
	for _, host := range hosts {
		n.add(host)
	}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if prefix, ok := a.(*net.IPNet); ok && prefix.IP.IsGlobalUnicast() {
				n.add(prefix.IP.String())
			}
		}
	}
	return n
}

// add takes a name or an address once. What no certificate can hold it leaves out.
func (n *Names) add(host string) {
	if ip := net.ParseIP(host); ip != nil {
		if !ip.IsUnspecified() && len(n.Addresses) < addressesMax && !slices.ContainsFunc(n.Addresses, ip.Equal) {
			n.Addresses = append(n.Addresses, ip)
		}
		return
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if nameable(host) && len(n.DNS) < dnsMax && !slices.Contains(n.DNS, host) {
		n.DNS = append(n.DNS, host)
	}
}

// nameable says whether a certificate can hold a host name: labels of 1 to 63 letters, digits, dashes and underscores.
func nameable(host string) bool {
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}

// common is the name that the certificate's subject has.
func (n Names) common() string {
	if len(n.DNS) == 0 {
		return "millrace"
	}
	return n.DNS[0][:min(len(n.DNS[0]), commonNameMax)]
}
