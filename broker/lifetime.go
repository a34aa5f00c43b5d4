package broker

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"time"

	"millrace/broker/disk"
	"millrace/broker/wear"
	"millrace/hw/storage"
)

const (
	// wearFile keeps what was written to the device over all starts. Losing it costs a forecast, no data.
	wearFile = "wear.json"
	// wearSave is how much is written before the file is, in bytes: a board at rest does not write for it.
	// wearSaveStop is the same for a stop.
	wearSave, wearSaveStop = 256 << 20, 16 << 20
	// wearFileMax bounds what is read of it.
	wearFileMax = 4 << 10
)

// lifetime forecasts how long the flash and the free space will last.
type lifetime struct {
	log       *slog.Logger
	fs        disk.FS
	file      string
	device    *storage.Flash // nil: there is none, and only the free space is looked at
	boot      string
	endurance int64
	free      func() int64
	due       chan struct{} // of one: the file is to be written

	mu      sync.Mutex
	ledger  *wear.Ledger
	saved   int64 // of the ledger's Written
	wear    storage.Wear
	written wear.Trend
	used    wear.Trend // of the free space, the less there is the more
}

// openLifetime begins to look after a device, nil where there is none.
func (b *Broker) openLifetime(device *storage.Flash) {
	l := &lifetime{
		log: b.log.With("component", "flash"), fs: b.config.FS, file: filepath.Join(b.dir(), wearFile), device: device,
		boot: b.config.Boot, endurance: b.config.Settings.Flash.Endurance, free: b.space.Free, due: make(chan struct{}, 1),
	}
	b.lifetime = l
	if device != nil {
		l.open()
	}
	l.step(b.pulse.Now())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.run(ctx)
	}()
	b.owns(func() error {
		stop()
		<-ended
		l.mu.Lock()
		enough := l.ledger != nil && l.ledger.Written-l.saved >= wearSaveStop
		l.mu.Unlock()
		if enough {
			l.save()
		}
		return nil
	})
}

// open reads what is known of the device. Without it everything begins anew.
func (l *lifetime) open() {
	text, err := readChecked(l.fs, l.file, wearFileMax)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("what was written to the device before is not known; counted from now on", "file", l.file, "err", err)
	}
	l.ledger = wear.OpenLedger(text, l.device.String())
	l.saved = l.ledger.Written
	l.wear = l.device.Wear()
	if worn := l.wear.Worn(); worn >= 9 || l.wear.PreEOL >= storage.PreEOLWarning {
		l.log.Warn("the device says that its life is nearly over: replace it", "device", l.device.String(), "life.used.percent", worn*10, "pre.eol", l.wear.PreEOL)
	}
}

// step is called on the board's slow tick. It reads the kernel's memory and does not wait for the disk.
func (l *lifetime) step(nowMS int64) {
	now := time.Duration(nowMS) * time.Millisecond
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used.Add(now, -l.free())
	if l.device == nil {
		return
	}
	c, err := l.device.Counters()
	if err != nil {
		return // flash says so
	}
	l.wear = l.device.Wear()
	l.ledger.Add(l.boot, c.Written, l.wear.Worn())
	l.written.Add(now, l.ledger.Written)
	if l.ledger.Written-l.saved >= wearSave {
		select {
		case l.due <- struct{}{}:
		default: // it is asked for already
		}
	}
}

func (l *lifetime) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.due:
			l.save()
		}
	}
}

// save writes the file. What cannot be written is only a forecast.
func (l *lifetime) save() {
	l.mu.Lock()
	text, written := appendChecksum(l.ledger.Text()), l.ledger.Written
	l.saved = written // a failure too: not tried again with every step
	l.mu.Unlock()
	err := writeWhole(l.fs, l.file, text, 0o640)
	if err == nil {
		err = l.fs.SyncDir(filepath.Dir(l.file), pointMetaDir)
	}
	if err != nil {
		l.log.Warn("what was written to the device is not kept for its forecast", "file", l.file, "err", err)
	}
}

// outlook is what a lifetime tells. NaN: nothing tells it.
type outlook struct {
	device   *storage.Flash // nil: none
	wear     storage.Wear
	written  int64   // to the whole device, as far as it was seen
	flashEnd float64 // days until the device's life is over
	diskEnd  float64 // days until clients' writes are refused
}

// outlook forecasts. reserve is the free space below which clients are refused, mayGrow how much all partitions may still
// grow before retention holds them; negative: without end.
func (l *lifetime) outlook(reserve, mayGrow int64) outlook {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := outlook{device: l.device, wear: l.wear, flashEnd: math.NaN(), diskEnd: math.NaN()}
	left := l.free() - reserve
	if mayGrow >= 0 && mayGrow <= left {
		o.diskEnd = math.Inf(1)
	} else if perDay, ok := l.used.PerDay(); ok || left <= 0 {
		o.diskEnd = wear.DaysUntil(float64(left), perDay)
	}
	if l.device == nil {
		return o
	}
	o.written = l.ledger.Written
	if left, ok := l.ledger.Left(l.endurance); ok {
		if perDay, ok := l.written.PerDay(); ok {
			o.flashEnd = wear.DaysUntil(left, perDay)
		}
	}
	return o
}
