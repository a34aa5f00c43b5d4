package config

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Names are what {serial} {mac} {node} stand for on this board. An empty one is not known: using it is an error.
type Names struct {
	Serial string // of the board
	MAC    string // of its first network interface, as 02-42-ac-11-00-02
	Node   string // its host name
}

// placeholder is {word}, where a word is what a name or a route's capture can be called.
var placeholder = regexp.MustCompile(`\{[A-Za-z][A-Za-z0-9_.]*\}`)

// expand fills in the names in a string or a list of strings. Braces around other words are an error, except in routes,
// where they are captures.
func (n Names) expand(v any, captures bool) (any, error) {
	if list, ok := v.([]any); ok {
		out := make([]any, len(list))
		for i, element := range list {
			var err error
			if out[i], err = n.expand(element, captures); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	s, ok := v.(string)
	if !ok {
		return v, nil
	}
	known := map[string]string{"{serial}": n.Serial, "{mac}": n.MAC, "{node}": n.Node}
	var problem error
	out := placeholder.ReplaceAllStringFunc(s, func(word string) string {
		value, ours := known[word]
		switch {
		case ours && value == "":
			problem = fmt.Errorf("%s is not known on this board", word)
		case !ours && !captures:
			problem = fmt.Errorf("%s stands for nothing; there are {serial}, {mac} and {node}", word)
		case !ours:
			return word
		}
		return value
	})
	return out, problem
}

// BoardNames asks the kernel. What it cannot say stays empty.
func BoardNames() Names {
	var n Names
	if host, err := os.Hostname(); err == nil {
		n.Node, _, _ = strings.Cut(host, ".")
	}
	for _, file := range []string{"/proc/device-tree/serial-number", "/sys/class/dmi/id/product_serial"} {
		if b, err := os.ReadFile(file); err == nil {
			if n.Serial = strings.Trim(string(b), "\x00 \n"); n.Serial != "" {
				break
			}
		}
	}
	n.MAC = firstMAC()
	return n
}

// firstMAC is the hardware address of the interface that the kernel found first.
func firstMAC() string {
	all, err := net.Interfaces()
	if err != nil {
		return ""
	}
	at := slices.IndexFunc(all, func(i net.Interface) bool {
		return i.Flags&net.FlagLoopback == 0 && len(i.HardwareAddr) == 6
	})
	if at < 0 {
		return ""
	}
	return strings.ReplaceAll(all[at].HardwareAddr.String(), ":", "-")
}
