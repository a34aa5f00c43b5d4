// Package logbook stands between the program and whoever keeps its log: a level for each component, a bound on how often
// one message is repeated, a bound on the bytes of a day, and the last lines in memory for who asks.
//
// Whoever keeps the log may keep it on flash, and a client that does one thing wrong does it a thousand times a second:
// without bounds it would fill the disk and wear it out. What is left out is counted, and said in one line a minute later.
package logbook

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Component is the attribute that names which part of the program a line is of.
const Component = "component"

const (
	// lineMax bounds a line in memory, in bytes; what is longer is cut.
	lineMax = 4 << 10
	// troublesMax is how many warnings and errors are kept beside the rest, so that chatter does not push them out.
	troublesMax = 8
	// tellAfter is how long what is left out is counted before it is told.
	tellAfter = time.Minute
)

// Settings are what a running program can change.
type Settings struct {
	Level slog.Level
	// Components have levels of their own, by name.
	Components map[string]slog.Level
	// Rate is how many lines a minute one message of one component may be repeated: so many at once, and then evenly. 0: any.
	Rate int
	// Budget is how many bytes of lines are written in any 24 hours; 0: any. Below half of what is saved up, only warnings
	// and errors are written.
	Budget int64
}

// Book is one log. Its methods are safe for concurrent use.
type Book struct {
	settings atomic.Pointer[Settings]
	out      slog.Handler
	text     slog.Handler // writes to scratch, under mu

	mu       sync.Mutex
	scratch  bytes.Buffer
	recent   ring
	troubles [][]byte // the newest last
	limits   limits
	left     left
	timer    *time.Timer // runs while something is left out that was not told
	closed   bool
}

// left counts what was left out since it was last told.
type left struct {
	repeated, costly int64
	worst            key // the message left out most often
}

// New begins a log that is written to out, which must take every level, and whose last bytes, at most keep, stay in
// memory.
func New(out slog.Handler, keep int, s Settings) *Book {
	b := &Book{out: out, recent: ring{max: max(keep, 2*lineMax)}}
	b.text = slog.NewTextHandler(&b.scratch, &slog.HandlerOptions{Level: slog.LevelDebug - 100})
	b.limits.known = make(map[key]*bucket)
	b.Configure(s)
	return b
}

// Configure puts settings in force for the next line.
func (b *Book) Configure(s Settings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings.Store(&s)
	b.limits.configure(s, time.Now())
}

// Handler is where lines go in.
func (b *Book) Handler() slog.Handler { return &handler{book: b, out: b.out, text: b.text} }

// Recent are the last lines, the oldest first, those included that the budget kept back.
func (b *Book) Recent() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.recent.lines)
}

// Troubles are the last warnings and errors, the oldest first.
func (b *Book) Troubles() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]string, len(b.troubles))
	for i, line := range b.troubles {
		all[i] = string(bytes.TrimSuffix(line, []byte("\n")))
	}
	return all
}

// Close tells what was left out and not told. Lines may come after it; nothing waits for anything any more.
func (b *Book) Close() {
	b.mu.Lock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
	b.mu.Unlock()
	b.tell()
}

// enabled says whether lines of a component and level are wanted.
func (b *Book) enabled(component string, level slog.Level) bool {
	s := b.settings.Load()
	if own, ok := s.Components[component]; ok {
		return level >= own
	}
	return level >= s.Level
}

// take decides about one line. out says whether it is written: the caller does that without the lock, so that a reader of
// standard error that has stopped keeps nobody from Recent.
func (b *Book) take(ctx context.Context, component string, text slog.Handler, r slog.Record) (out bool, err error) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	k := key{component, clip(r.Message)}
	if dropped := b.limits.repeat(k, now); dropped > 0 {
		b.left.repeated++
		if w := b.limits.known[b.left.worst]; w == nil || w.dropped <= dropped {
			b.left.worst = k
		}
		b.later()
		return false, nil
	}
	line, err := b.render(ctx, text, r)
	if err != nil {
		return false, err
	}
	b.keep(line, r.Level)
	if !b.limits.afford(int64(len(line)), r.Level, now) {
		b.left.costly++
		b.later()
		return false, nil
	}
	return true, nil
}

func (b *Book) render(ctx context.Context, text slog.Handler, r slog.Record) ([]byte, error) {
	b.scratch.Reset()
	if err := text.Handle(ctx, r); err != nil {
		return nil, err
	}
	return b.scratch.Bytes(), nil
}

func (b *Book) keep(line []byte, level slog.Level) {
	if len(line) > lineMax {
		line = append(line[:lineMax-1:lineMax-1], '\n')
	}
	b.recent.add(line)
	if level < slog.LevelWarn {
		return
	}
	if len(b.troubles) == troublesMax {
		copy(b.troubles, b.troubles[1:])
		b.troubles = b.troubles[:troublesMax-1]
	}
	b.troubles = append(b.troubles, bytes.Clone(line))
}

// later sees to it that what is left out is told. The lock is held.
func (b *Book) later() {
	if b.timer == nil && !b.closed {
		b.timer = time.AfterFunc(tellAfter, b.tell)
	}
}

// tell writes the line that says what was left out, or, where even that is more than the budget has, tries later.
func (b *Book) tell() {
	now := time.Now()
	b.mu.Lock()
	b.timer = nil
	if b.left.repeated+b.left.costly == 0 {
		b.mu.Unlock()
		return
	}
	r := slog.NewRecord(now, slog.LevelWarn, "log lines were left out", 0)
	r.AddAttrs(slog.String(Component, "log"))
	if b.left.repeated > 0 {
		r.AddAttrs(slog.Int64("repeated", b.left.repeated), slog.String("most", b.left.worst.String()))
	}
	if b.left.costly > 0 {
		r.AddAttrs(slog.Int64("over_budget", b.left.costly))
	}
	line, err := b.render(context.Background(), b.text, r)
	if err != nil || !b.limits.afford(int64(len(line)), slog.LevelWarn, now) {
		b.later()
		b.mu.Unlock()
		return
	}
	b.keep(line, slog.LevelWarn)
	b.left = left{}
	b.limits.told()
	b.mu.Unlock()
	_ = b.out.Handle(context.Background(), r) // there is nowhere to say it
}

// handler is one door to the book, with the attributes of a logger.
type handler struct {
	book      *Book
	out, text slog.Handler
	component string
	grouped   bool // what is added now is in a group
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return h.book.enabled(h.component, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	out, err := h.book.take(ctx, h.component, h.text, r)
	if err != nil || !out {
		return err
	}
	return h.out.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.out, next.text = h.out.WithAttrs(attrs), h.text.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == Component && !h.grouped {
			next.component = a.Value.Resolve().String()
		}
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.out, next.text, next.grouped = h.out.WithGroup(name), h.text.WithGroup(name), true
	return &next
}
