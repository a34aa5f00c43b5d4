package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// controlName is the socket in a data directory at which its broker tells its owner how it is: HTTP, whatever doors are
// open and whoever may use them. Who may open it, its mode says: the owner, and root.
const controlName = "control.sock"

const (
	// controlAtOnce bounds the connections that are served together; more wait.
	controlAtOnce = 4
	// controlTimeout bounds each question and each answer.
	controlTimeout = 10 * time.Second
	// controlMax bounds an answer, in bytes, as its reader takes it.
	controlMax = 64 << 20
)

// control is that door. What it shows of the board it shows while the board serves.
type control struct {
	// state is changed with the lock held for writing, so that no answer is being made when the board begins to close.
	mu    sync.RWMutex
	state string
}

func (c *control) turn(state string) {
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
}

func (c *control) serving() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.state == Serving
}

// openControl opens the door. A filesystem that has no room for a socket, or knows none, costs the door and nothing else.
func (b *Broker) openControl(context.Context) error {
	b.control.turn(Starting)
	logger := b.log.With("component", "control")
	l, err := listenControl(b.dir())
	if err != nil {
		logger.Warn("`millrace status` and `millrace support` will get no answer", "err", err)
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		b.control.mu.RLock()
		s := b.begun(b.control.state)
		if s.State == Serving {
			s = b.Status()
		}
		b.control.mu.RUnlock()
		tell(w, "application/json", func(to io.Writer) error { return json.NewEncoder(to).Encode(s) })
	})
	mux.HandleFunc("GET /logs", func(w http.ResponseWriter, _ *http.Request) {
		tell(w, "text/plain; charset=utf-8", func(to io.Writer) error {
			if b.config.Logs == nil {
				return nil
			}
			_, err := to.Write(b.config.Logs.Recent())
			return err
		})
	})
	for path, show := range map[string]func(io.Writer) error{
		"/metrics": b.writeMetrics,
		"/catalog": func(to io.Writer) error { return json.NewEncoder(to).Encode(NewOutline(b.Image())) },
		"/config":  b.showSettings,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			tell(w, "text/plain; charset=utf-8", func(to io.Writer) error {
				return b.whileServing(func() error { return show(to) })
			})
		})
	}
	b.handleLinks(mux)
	server := &http.Server{
		Handler: mux, ReadTimeout: controlTimeout, WriteTimeout: controlTimeout, MaxHeaderBytes: 4 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	server.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("the control socket has ended", "err", err)
		}
	}()
	b.owns(func() error {
		// An answer that is being written is finished, or cut off.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
		if err := os.Remove(filepath.Join(b.dir(), controlName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			logger.Warn("the socket is left; the next start removes it", "err", err)
		}
		return nil
	})
	return nil
}

// whileServing looks at the board while it serves, and keeps it from beginning to close meanwhile.
func (b *Broker) whileServing(look func() error) error {
	b.control.mu.RLock()
	defer b.control.mu.RUnlock()
	if b.control.state != Serving {
		return fmt.Errorf("the board is %s", b.control.state)
	}
	return look()
}

func (b *Broker) showSettings(to io.Writer) error {
	b.settingsMu.Lock()
	s := b.settings
	b.settingsMu.Unlock()
	return s.Show(to)
}

// tell answers with what is made first and then sent, so that a slow reader holds up nothing.
func tell(w http.ResponseWriter, kind string, show func(io.Writer) error) {
	var answer bytes.Buffer
	if err := show(&answer); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = answer.WriteTo(w) // whoever asked is gone
}

// listenControl makes the socket, in place of one that a killed process left: the directory's lock is held. It is reached
// through the directory's descriptor, for a socket's name has room for 107 bytes only.
func listenControl(dir string) (net.Listener, error) {
	name := filepath.Join(dir, controlName)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	at, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: within(at), Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false) // its name is good only while at is open
		if err = os.Chmod(name, 0o600); err != nil {
			err = errors.Join(err, l.Close())
		}
	}
	if err := errors.Join(err, at.Close()); err != nil {
		return nil, err
	}
	f := &few{Listener: l, open: make(chan struct{}, controlAtOnce), closed: make(chan struct{})}
	f.end = sync.OnceFunc(func() { close(f.closed) })
	return f, nil
}

func within(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName) }

// few is a listener of which few connections are open at once.
type few struct {
	net.Listener
	open   chan struct{} // holds one for each
	closed chan struct{}
	end    func() // closes closed
}

// Accept implements net.Listener.
func (f *few) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case f.open <- struct{}{}: // those before end by their timeouts
	case <-f.closed:
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return &taken{Conn: c, done: sync.OnceFunc(func() { <-f.open })}, nil
}

// Close implements net.Listener.
func (f *few) Close() error {
	f.end()
	return f.Listener.Close()
}

type taken struct {
	net.Conn
	done func()
}

// Close implements net.Conn.
func (c *taken) Close() error {
	defer c.done()
	return c.Conn.Close()
}

// ErrNotRunning is returned by Ask where no broker has the directory.
var ErrNotRunning = errors.New("no broker runs on the data directory")

// ErrSilent is returned by Ask where a broker has the directory and does not answer: it is stopped, or hangs, or is another
// user's.
var ErrSilent = errors.New("the broker does not answer")

// Ask puts a question to the broker that has a data directory: status (JSON of a Status), logs, metrics, catalog (JSON of
// an Outline), config, upstream (JSON of a list of LinkStatus). It changes nothing.
func Ask(ctx context.Context, dir, what string) ([]byte, error) {
	return say(ctx, dir, http.MethodGet, (&url.URL{Path: "/" + what}).EscapedPath(), controlTimeout)
}

// Decide tells the broker that has a data directory what a person has decided about a link: pause, resume, or resolve with
// topic, partition, and "to": accept, earliest, latest or an offset. The answer is JSON of a Decided. It returns ErrNoLink
// for what the broker does not have.
func Decide(ctx context.Context, dir, verb string, about url.Values) ([]byte, error) {
	return say(ctx, dir, http.MethodPost, (&url.URL{Path: "/upstream/" + verb, RawQuery: about.Encode()}).RequestURI(), decideTimeout+controlTimeout)
}

func say(ctx context.Context, dir, method, uri string, patience time.Duration) ([]byte, error) {
	if err := runsOn(dir); err != nil {
		return nil, err
	}
	c, err := call(ctx, dir, method, uri, patience)
	var body []byte
	if err == nil {
		defer c.close()
		body, err = c.whole()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrSilent, err)
	}
	if err := c.refused(method, strings.TrimPrefix(uri, "/"), body); err != nil {
		return nil, err
	}
	if len(body) > controlMax {
		return nil, fmt.Errorf("%s: more than %d bytes", strings.TrimPrefix(uri, "/"), controlMax)
	}
	return body, nil
}

// runsOn returns ErrNotRunning where no broker has the directory.
func runsOn(dir string) error {
	is, err := InUse(dir)
	if err == nil && !is {
		err = fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	return err
}

// conversation is a question, and an answer that begins.
type conversation struct {
	net.Conn
	answer *http.Response
	close  func()
}

// call asks by hand: the library's client can do much that a socket on this machine has no use for, and weighs a megabyte.
func call(ctx context.Context, dir, method, uri string, patience time.Duration) (_ *conversation, err error) {
	at, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: controlTimeout}
	c, err := d.DialContext(ctx, "unix", within(at))
	if err := errors.Join(err, at.Close()); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	talk := &conversation{Conn: c, close: func() {
		stop()
		_ = c.Close() // all was read, or nothing can be
	}}
	defer func() {
		if err != nil {
			talk.close()
		}
	}()
	if err = talk.patience(ctx, patience); err != nil {
		return nil, err
	}
	if _, err = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: board\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, uri); err != nil {
		return nil, err
	}
	talk.answer, err = http.ReadResponse(bufio.NewReader(c), nil)
	return talk, err
}

// patience is how long the rest may take from now on.
func (c *conversation) patience(ctx context.Context, d time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	return ctx.Err() // its end may have set the deadline just before
}

// whole is the answer.
func (c *conversation) whole() ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(c.answer.Body, controlMax+1))
	return body, errors.Join(err, c.answer.Body.Close())
}

// refused is the error that an answer stands for.
func (c *conversation) refused(method, what string, body []byte) error {
	switch {
	case c.answer.StatusCode == http.StatusNotFound && method == http.MethodPost:
		return fmt.Errorf("%w: %s", ErrNoLink, bytes.TrimSpace(body))
	case c.answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", what, bytes.TrimSpace(body))
	}
	return nil
}

// InUse says whether a process has the data directory open.
func InUse(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat(dir)
		return false, err
	}
	if err != nil {
		return false, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, f.Close()
	}
	return false, errors.Join(err, f.Close())
}
