package vm

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"time"
)

// Line is a line of the console and when it came.
type Line struct {
	At   time.Time
	Text string
}

// Console keeps what one life of a board writes to its serial line, which a few thousand lines bound. Its methods may be
// called at the same time.
type Console struct {
	mu    sync.Mutex
	lines []Line
	part  []byte        // of the next line
	more  chan struct{} // closed and made anew with every line
	ended bool
}

const linesKept = 10_000

func newConsole() *Console { return &Console{more: make(chan struct{})} }

// Write never fails.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = append(c.part, p...)
	for {
		text, rest, whole := bytes.Cut(c.part, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		if len(c.lines) < linesKept {
			c.lines = append(c.lines, Line{time.Now(), strings.TrimSpace(string(text))})
		}
		c.part = rest
		c.wake()
	}
}

func (c *Console) wake() {
	close(c.more)
	c.more = make(chan struct{})
}

// end says that the board is off.
func (c *Console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wake()
}

// Has says whether a line so far has the text in it.
func (c *Console) Has(text string) bool {
	_, err := c.await(text, 0)
	return err == nil
}

func (c *Console) await(text string, limit time.Duration) (Line, error) {
	late := time.NewTimer(limit)
	defer late.Stop()
	for seen := 0; ; {
		c.mu.Lock()
		lines, more, ended := c.lines, c.more, c.ended
		c.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if strings.Contains(lines[seen].Text, text) {
				return lines[seen], nil
			}
		}
		if ended {
			return Line{}, errors.New("the board is off")
		}
		select {
		case <-more:
		case <-late.C:
			return Line{}, errors.New("it is late")
		}
	}
}

// String is all of it.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s strings.Builder
	for _, line := range c.lines {
		s.WriteString(line.At.Format("15:04:05.0 ") + line.Text + "\n")
	}
	s.Write(c.part)
	return s.String()
}
