// Package metrics writes figures in the Prometheus text exposition format, version 0.0.4. The values are read from their
// owners at the moment of the scrape, so nothing is kept here and a board nobody asks pays nothing. dashboard.json is a
// Grafana dashboard of them, README.md lists them all.
//
// The format is a few lines; the libraries for it read the kernel's files, and complain to standard error, when the
// program starts, whatever command it is.
package metrics

import (
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// pieceSize is how much text is gathered before it is written, in bytes.
const pieceSize = 4 << 10

// Writer writes one scrape, in pieces: Flush writes the last and tells the first error of the writer beneath, which ends
// the scrape. Values of one metric follow each other; the help of the first counts. Not safe for concurrent use.
type Writer struct {
	w    io.Writer
	buf  []byte
	last string // metric whose HELP and TYPE were written last
	err  error
}

// NewWriter begins a scrape.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, buf: make([]byte, 0, pieceSize+1024)} }

// Counter writes a value that only grows; its name ends in _total. help is one sentence. labels are name, value, name,
// value …; an odd one is a mistake and panics.
func (m *Writer) Counter(name, help string, value float64, labels ...string) {
	m.family(name, "counter", help)
	m.sample(name, "", value, labels, "")
}

// Gauge writes a value that may fall. The rest is as for Counter.
func (m *Writer) Gauge(name, help string, value float64, labels ...string) {
	m.family(name, "gauge", help)
	m.sample(name, "", value, labels, "")
}

// Histogram writes how many observations lie at or below each bound, all of them, and their sum. counts are those of each
// bucket alone, one more than bounds: the last is of what lies above all bounds. Bounds ascend.
func (m *Writer) Histogram(name, help string, bounds []float64, counts []int64, sum float64, labels ...string) {
	m.family(name, "histogram", help)
	all := int64(0)
	for i, n := range counts {
		all += n
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i], 'g', -1, 64)
		}
		m.sample(name, "_bucket", float64(all), labels, le)
	}
	m.sample(name, "_sum", sum, labels, "")
	m.sample(name, "_count", float64(all), labels, "")
}

// Flush writes what is left and returns the first error of the writer beneath.
func (m *Writer) Flush() error {
	if m.err == nil && len(m.buf) > 0 {
		_, m.err = m.w.Write(m.buf)
	}
	m.buf = m.buf[:0]
	return m.err
}

func (m *Writer) family(name, kind, help string) {
	if name == m.last {
		return
	}
	m.last = name
	m.buf = append(m.buf, "# HELP "...)
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, ' ')
	m.buf = escape(m.buf, help, false)
	m.buf = append(m.buf, "\n# TYPE "...)
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, ' ')
	m.buf = append(m.buf, kind...)
	m.buf = append(m.buf, '\n')
}

// sample writes one line; le is the last label where it is not empty.
func (m *Writer) sample(name, suffix string, value float64, labels []string, le string) {
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, suffix...)
	opened := byte('{')
	for i := 0; i < len(labels); i += 2 {
		m.buf = append(m.buf, opened)
		m.label(labels[i], labels[i+1])
		opened = ','
	}
	if le != "" {
		m.buf = append(m.buf, opened)
		m.label("le", le)
		opened = ','
	}
	if opened == ',' {
		m.buf = append(m.buf, '}')
	}
	m.buf = append(m.buf, ' ')
	if whole := int64(value); float64(whole) == value { // 1.5e+06 is as valid, and harder to read
		m.buf = strconv.AppendInt(m.buf, whole, 10)
	} else {
		m.buf = strconv.AppendFloat(m.buf, value, 'g', -1, 64)
	}
	m.buf = append(m.buf, '\n')
	if len(m.buf) >= pieceSize {
		_ = m.Flush() // it is told at the end
	}
}

func (m *Writer) label(name, value string) {
	m.buf = append(m.buf, name...)
	m.buf = append(m.buf, '=', '"')
	m.buf = escape(m.buf, value, true)
	m.buf = append(m.buf, '"')
}

// escape appends s with backslashes and line feeds escaped, and in a label's value the quotes too. What is not UTF-8
// becomes U+FFFD: a scraper refuses a scrape with it.
func escape(dst []byte, s string, label bool) []byte {
	for _, r := range s {
		switch {
		case r == '\\':
			dst = append(dst, `\\`...)
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '"' && label:
			dst = append(dst, `\"`...)
		case r < 0x80:
			dst = append(dst, byte(r))
		default:
			dst = append(dst, string(r)...)
		}
	}
	return dst
}

// Process writes what every exporter says of its process, by the names of the official client libraries.
func (m *Writer) Process() {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		m.Counter("process_cpu_seconds_total", "CPU time the process has used.", seconds(usage.Utime)+seconds(usage.Stime))
	}
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(statm)); len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				m.Gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.", float64(pages*int64(os.Getpagesize())))
			}
		}
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.Gauge("process_open_fds", "Open files and connections.", float64(len(open)))
	}
	m.Gauge("go_goroutines", "Goroutines.", float64(runtime.NumGoroutine()))
}
