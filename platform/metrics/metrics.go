// Package metrics writes figures in the Prometheus text exposition format, version 0.0.4. The values are read from their
// owners at the moment of the scrape, so nothing is kept here and a board nobody asks pays nothing.
//
// The format is a few lines; the libraries for it read the kernel's files, and complain to standard error, when the
// program starts, whatever command it is.
package metrics

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Writer writes one scrape. The first error of the writer beneath ends it; Err tells. Not safe for concurrent use.
type Writer struct {
	w    io.Writer
	last string // metric whose TYPE was written last: values of one metric follow each other
	err  error
}

// NewWriter begins a scrape.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Counter writes a value that only grows. labels are name, value, name, value …; an odd one is a mistake and panics.
func (m *Writer) Counter(name string, value float64, labels ...string) {
	m.write(name, "counter", value, labels)
}

// Gauge writes a value that may fall. labels are as for Counter.
func (m *Writer) Gauge(name string, value float64, labels ...string) {
	m.write(name, "gauge", value, labels)
}

// Err is the first error of the writer beneath.
func (m *Writer) Err() error { return m.err }

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m *Writer) write(name, kind string, value float64, labels []string) {
	if m.err != nil {
		return
	}
	if name != m.last {
		m.last = name
		if _, m.err = fmt.Fprintf(m.w, "# TYPE %s %s\n", name, kind); m.err != nil {
			return
		}
	}
	var text strings.Builder
	for i := 0; i < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		text.WriteByte(separator)
		text.WriteString(labels[i] + `="` + escape.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		text.WriteByte('}')
	}
	_, m.err = fmt.Fprintf(m.w, "%s%s %s\n", name, text.String(), strconv.FormatFloat(value, 'g', -1, 64))
}

// Process writes what every exporter says of its process, by the names of the official client libraries.
func (m *Writer) Process() {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		m.Counter("process_cpu_seconds_total", seconds(usage.Utime)+seconds(usage.Stime))
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				m.Gauge("process_resident_memory_bytes", float64(pages*int64(os.Getpagesize())))
			}
		}
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.Gauge("process_open_fds", float64(len(open)))
	}
	m.Gauge("go_goroutines", float64(runtime.NumGoroutine()))
}
