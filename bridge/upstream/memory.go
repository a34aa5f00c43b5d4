package upstream

import (
	"encoding/hex"
	"encoding/json"
	"time"
)

// Memory keeps a few KiB for a link over a restart of the board: how far each partition was delivered. It is for Needed
// alone, so that a board that begins without a link does not hold what was delivered for what was not. Nothing that is sent
// depends on it: it may be lost, or old. What Load returns has to be what Store was given, or nothing.
type Memory interface {
	Load() ([]byte, error)
	Store(p []byte) error
}

const (
	// memoryMax is the most that is read, in bytes.
	memoryMax = 2 << 20
	// memoryWhenDown and memoryWhenUp are how often it is written at most: when a connection has ended, and in one.
	memoryWhenDown = 10 * time.Minute
	memoryWhenUp   = time.Hour
)

// remembered is one partition.
type remembered struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	ID        string `json:"id"`
	From      int64  `json:"from"`
}

// remember reads what is kept. What is wrong with it is logged, and does no harm.
func (l *Link) remember() {
	if l.env.Memory == nil {
		return
	}
	p, err := l.env.Memory.Load()
	var list []remembered
	if err == nil && len(p) > 0 && len(p) <= memoryMax {
		err = json.Unmarshal(p, &list)
	}
	if err != nil {
		l.log.Warn("what was delivered is not remembered: all is held until the cursors are read", "error", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table.hints = make(map[cursorID]shown, len(list))
	for _, r := range list {
		var id [16]byte
		if parseID(&id, r.ID) && r.From >= 0 {
			l.table.hints[cursorID{Live, r.Topic, r.Partition}] = shown{id, r.From}
		}
	}
}

// keep writes down how far everything is delivered, when that is news and was not written for a while.
func (l *Link) keep(least time.Duration) {
	if l.env.Memory == nil {
		return
	}
	l.mu.Lock()
	now := time.Now()
	if !l.known || l.count.Transactions == l.keptAt || now.Sub(l.kept) < least {
		l.mu.Unlock()
		return
	}
	l.kept, l.keptAt = now, l.count.Transactions
	list := make([]remembered, 0, len(l.table.all))
	for _, p := range l.table.all {
		if s := p.shown.Load(); s.from > 0 {
			list = append(list, remembered{p.topic, p.index, hex.EncodeToString(s.id[:]), s.from})
		}
	}
	l.mu.Unlock()
	p, err := json.Marshal(list)
	if err == nil {
		err = l.env.Memory.Store(p)
	}
	if err != nil {
		l.log.Warn("what was delivered is not written down", "error", err)
	}
}
