package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"millrace/broker/disk"
	"millrace/broker/partition"
)

// Kafka's error codes that the door itself answers with; every other one comes from Config.Code.
const (
	codeOffsetOutOfRange     int16 = 1
	codeCorruptMessage       int16 = 2
	codeUnknownTopic         int16 = 3
	codeNotLeader            int16 = 6
	codeRequestTimedOut      int16 = 7
	codeBrokerNotAvailable   int16 = 8
	codeMessageTooLarge      int16 = 10
	codeInvalidTopic         int16 = 17
	codeTopicAuthorization   int16 = 29
	codeClusterAuthorization int16 = 31
	codeInvalidRequest       int16 = 42
	codeAuthentication       int16 = 58
)

// statuses are what HTTP calls Kafka's codes. What is not here is the server's fault.
var statuses = map[int16]int{
	codeOffsetOutOfRange: http.StatusRequestedRangeNotSatisfiable,
	codeUnknownTopic:     http.StatusNotFound,
	100:                  http.StatusNotFound, // UNKNOWN_TOPIC_ID: deleted meanwhile

	codeMessageTooLarge:      http.StatusRequestEntityTooLarge,
	codeInvalidTopic:         http.StatusBadRequest,
	32:                       http.StatusBadRequest, // INVALID_TIMESTAMP
	38:                       http.StatusBadRequest, // INVALID_REPLICATION_FACTOR
	40:                       http.StatusBadRequest, // INVALID_CONFIG
	codeInvalidRequest:       http.StatusBadRequest,
	44:                       http.StatusForbidden,  // POLICY_VIOLATION: too many topics
	87:                       http.StatusBadRequest, // INVALID_RECORD
	codeTopicAuthorization:   http.StatusForbidden,
	codeClusterAuthorization: http.StatusForbidden,
	codeAuthentication:       http.StatusUnauthorized,

	// Come again.
	5: http.StatusServiceUnavailable, codeNotLeader: http.StatusServiceUnavailable, codeBrokerNotAvailable: http.StatusServiceUnavailable,
	9: http.StatusServiceUnavailable, 19: http.StatusServiceUnavailable, 41: http.StatusServiceUnavailable, 56: http.StatusServiceUnavailable,
	codeRequestTimedOut: http.StatusGatewayTimeout,
}

// fault is an error that knows its answer.
type fault struct {
	status int
	code   int16
	text   string
	// start, high and next are told where they help to go on.
	start, high, next *int64
}

func (f *fault) Error() string { return f.text }

// errBusy is a request for which there is no memory now.
var errBusy = &fault{status: http.StatusServiceUnavailable, code: codeRequestTimedOut, text: "no memory for this request now"}

// bad is a fault of the request.
func bad(status int, format string, args ...any) *fault {
	return &fault{status: status, code: codeInvalidRequest, text: fmt.Sprintf(format, args...)}
}

// faultOf finds the answer to an error.
func (s *Server) faultOf(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	code := s.config.Code(err)
	f = &fault{status: statuses[code], code: code, text: err.Error()}
	switch {
	case errors.Is(err, partition.ErrDiskFull), errors.Is(err, disk.ErrFull):
		f.status = http.StatusInsufficientStorage
	case f.status == 0:
		f.status = http.StatusInternalServerError
	}
	return f
}

// problem is the one shape of errors.
type problem struct {
	Code    int16  `json:"error_code"`
	Message string `json:"message"`
	Start   *int64 `json:"log_start_offset,omitempty"`
	High    *int64 `json:"high_watermark,omitempty"`
	Next    *int64 `json:"next_offset,omitempty"`
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, err error) {
	f := s.faultOf(err)
	if f.status == http.StatusInternalServerError {
		s.complain(slog.LevelWarn, "request failed", "err", f.text)
	}
	s.answer(w, f.status, problem{Code: f.code, Message: f.text, Start: f.start, High: f.high, Next: f.next})
}

// complain logs one line a second at most: whoever fails a thousand times must not fill the log, which lies on the same
// flash as the data.
func (s *Server) complain(level slog.Level, what string, args ...any) {
	now, last := time.Now().Unix(), s.complained.Load()
	if now == last || !s.complained.CompareAndSwap(last, now) {
		s.silent.Add(1)
		return
	}
	s.log.Log(context.Background(), level, what, append(args, "unlogged", s.silent.Swap(0))...)
}

// answer sends a small answer.
func (s *Server) answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("rest: " + err.Error()) // our own types
	}
	h := w.Header()
	h.Set("Content-Type", jsonType)
	switch status {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		h.Set("Retry-After", "1")
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="millrace", charset="UTF-8"`)
	}
	s.send(w, status, append(text, '\n'))
}
