package systemd

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// valueMax bounds one value of a line, in bytes. With fieldsMax it keeps a line far below what one datagram holds.
const (
	valueMax  = 4 << 10
	fieldsMax = 32
)

// StderrIsJournal says whether standard error is systemd's journal, which has fields where a line has text
// (systemd.exec(5), JOURNAL_STREAM).
func StderrIsJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return err == nil && is // what cannot be found out is no journal: lines are text then
}

// NewJournal returns a handler that sends lines to the journal, of every level: attributes are fields, "component" becomes
// COMPONENT, and they are in the message too, for who reads that alone. A line the journal does not take goes to otherwise.
// Safe for concurrent use.
func NewJournal(otherwise slog.Handler) slog.Handler { return &journalHandler{otherwise: otherwise} }

type journalHandler struct {
	otherwise slog.Handler
	attrs     []slog.Attr // with their whole names
	prefix    string      // of the names of attributes to come
}

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		attrs = flat(attrs, h.prefix, a)
		return true
	})
	fields := map[string]string{"SYSLOG_IDENTIFIER": "millrace"}
	var message strings.Builder
	message.WriteString(clipped(r.Message))
	for _, a := range attrs {
		value := clipped(a.Value.String())
		if message.Len() < 2*valueMax {
			message.WriteString(" " + a.Key + "=" + quoted(value))
		}
		if name := fieldName(a.Key); len(fields) < fieldsMax {
			fields[name] = value
		}
	}
	if err := journal.Send(message.String(), priority(r.Level), fields); err != nil {
		return h.otherwise.Handle(ctx, r)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.otherwise = h.otherwise.WithAttrs(attrs)
	next.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		next.attrs = flat(next.attrs, h.prefix, a)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.otherwise, next.prefix = h.otherwise.WithGroup(name), h.prefix+name+"."
	return &next
}

// flat appends an attribute, and of a group those in it.
func flat(list []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return list
	}
	if a.Value.Kind() != slog.KindGroup {
		return append(list, slog.Attr{Key: prefix + a.Key, Value: a.Value})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, in := range a.Value.Group() {
		list = flat(list, prefix, in)
	}
	return list
}

// fieldName is an attribute's name as the journal takes one: capitals, digits and underscores, no underscore first, and
// none of those that mean something else there.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	switch name {
	case "MESSAGE", "MESSAGE_ID", "PRIORITY", "ERRNO", "SYSLOG_IDENTIFIER", "OBJECT_PID", "TID", "UNIT", "USER_UNIT":
		return "MILLRACE_" + name
	}
	if name == "" || name[0] == '_' || name[0] >= '0' && name[0] <= '9' || len(name) > 48 {
		return "MILLRACE_" + name[:min(len(name), 48)]
	}
	return name
}

func clipped(s string) string {
	if len(s) > valueMax {
		return strings.ToValidUTF8(s[:valueMax], "") + "…"
	}
	return s
}

func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\r\"=") {
		return strconv.Quote(s)
	}
	return s
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
