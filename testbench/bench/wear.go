package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"millrace/broker/disk"
	"millrace/broker/partition"
)

// loop is an ext4 filesystem in a file on a loop device, whose counters see every byte and every flush.
type loop struct {
	image, device, dir string
	mounted            bool
}

// newLoop makes and mounts one. It needs root.
func (b *bench) newLoop(name string) (l *loop, err error) {
	l = &loop{image: filepath.Join(b.dir, name+".ext4"), dir: filepath.Join(b.dir, name+".mnt")}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return l, err
	}
	for _, args := range [][]string{
		{"truncate", "-s", "2G", l.image},
		// Nothing left to be written in the background.
		{"mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", l.image},
	} {
		if _, err := tool(args...); err != nil {
			return l, err
		}
	}
	if l.device, err = tool("losetup", "-f", "--show", l.image); err != nil {
		return l, err
	}
	if _, err = tool("mount", "-t", "ext4", l.device, l.dir); err != nil {
		return l, err
	}
	l.mounted = true
	return l, nil
}

// close takes everything away again.
func (l *loop) close() error {
	var errs []error
	if l.mounted {
		_, err := tool("umount", l.dir)
		errs = append(errs, err)
	}
	if l.device != "" {
		_, err := tool("losetup", "-d", l.device)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(l.image), os.Remove(l.dir))...)
}

// tool runs an administrator's program and returns what it prints.
func tool(args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath("/sbin/" + args[0]); cmd.Err != nil && err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// written are the bytes the device was given and the flushes it was asked for, after everything on it is synced.
func (l *loop) written() (bytes, flushes int64, err error) {
	d, err := os.Open(l.dir)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return 0, 0, err
	}
	raw, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.device), "stat"))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 16 {
		return 0, 0, fmt.Errorf("%s counts no flushes", l.device)
	}
	sectors, err := strconv.ParseInt(fields[6], 10, 64)
	if err != nil {
		return 0, 0, err
	}
	flushes, err = strconv.ParseInt(fields[15], 10, 64)
	return sectors * 512, flushes, err
}

// wearRun is one server under readings from 50 sources.
type wearRun struct {
	what     string
	peer     *peer
	interval time.Duration // as the goal says it; the run's is shorter by speed
	json     bool
	speed    int     // times as fast as the goal says
	perByte  float64 // limit of device bytes per payload byte
	flushes  float64 // limit of flushes per record, 0 without one
	loop     *loop
	server   *server

	records, payload, bytes, flushed int64
	frames, zeros, batches           int64 // of Millrace's journal
	checkpoints                      uint64
	failed                           error
}

const (
	wearSources = 50
	wearRate    = 100 // readings a second, as the goal says it
	wearValue   = 200 // bytes of a reading
)

// wearConfig routes every source to a topic of its own, or all to one that is compressed.
func wearConfig(bytesMax string, interval time.Duration, json bool) string {
	config := fmt.Sprintf("[journal]\ncommit.interval.ms = %d\nbytes.max = %q\n", interval.Milliseconds(), bytesMax)
	if json {
		return config + "[topic.\"*\"]\ncompression.type = \"zstd\"\n"
	}
	return config + "[[mqtt.route]]\nfilter = \"s/{n}\"\ntopic = \"s.{n}\"\n"
}

// wear is row 2. The readings come ten to sixty times as fast as the goal says and the commit interval is that much
// shorter, so that as many meet in a commit; journal.bytes.max is smaller than as shipped, so that there are
// checkpoints enough. All runs go on at once, each on a device of its own.
func (b *bench) wear() (err error) {
	if os.Getuid() != 0 {
		b.say("ROW SKIPPED: 2 needs root, for loop devices")
		b.table.add("2", "wear", "skipped: needs root", "")
		return nil
	}
	speed, bytesMax := either(b, 10, 20), either(b, "8MiB", "2MiB")
	ours := b.peers[0]
	runs := []*wearRun{
		{what: "one by one", peer: ours, perByte: 28, flushes: 1.1},
		{what: "every 100 ms", peer: ours, interval: 100 * time.Millisecond, perByte: 6},
		{what: "every 1 s", peer: ours, interval: time.Second, perByte: 3.5},
		{what: "every 1 s, JSON, one topic, zstd", peer: ours, interval: time.Second, json: true, perByte: 1.6},
	}
	for _, p := range b.named("nats", "kafka") {
		runs = append(runs, &wearRun{what: "one by one", peer: p})
	}
	defer func() {
		for _, r := range runs {
			if r.server != nil {
				err = errors.Join(err, r.server.end())
			}
			if r.loop != nil {
				err = errors.Join(err, r.loop.close())
			}
		}
	}()
	for i, r := range runs {
		if r.loop, err = b.newLoop(fmt.Sprintf("wear%d", i)); err != nil {
			return err
		}
		dir := filepath.Join(r.loop.dir, "server")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		limit := bytesMax
		r.speed = speed
		if r.json { // it is that much smaller when it is compressed
			limit, r.speed = "2MiB", 3*speed
		}
		if r.server, err = b.place(r.peer, dir, options{
			config: wearConfig(limit, r.interval/time.Duration(r.speed), r.json), figures: r.peer == ours,
		}); err != nil {
			return err
		}
		if err := r.server.start(); err != nil {
			return err
		}
		if err := r.server.await(); err != nil {
			return err
		}
	}
	span := either(b, 100*time.Second, 8*time.Second)
	var wg sync.WaitGroup
	for _, r := range runs {
		wg.Go(func() { r.failed = r.measure(wearRate*r.speed, span) })
	}
	wg.Wait()
	for _, r := range runs {
		if r.failed != nil {
			return fmt.Errorf("%s, %s: %w", r.peer.name, r.what, r.failed)
		}
		factor, flushes := float64(r.bytes)/float64(r.payload), float64(r.flushed)/float64(r.records)
		said := ""
		if r.perByte > 0 {
			goals := []goal{atMost("bytes per byte", factor, r.perByte)}
			if r.flushes > 0 {
				goals = append(goals, atMost("flushes", flushes, r.flushes))
			}
			said = verdict(goals...)
		}
		figure := fmt.Sprintf("%s %.2f bytes per payload byte, %.3f flushes a record (%d records", r.peer.name, factor, flushes, r.records)
		if r.peer == ours {
			figure += fmt.Sprintf(", %d checkpoints; of it journal frames %.2f, zeros ahead of them %.2f; batches %.2f", r.checkpoints,
				float64(r.frames)/float64(r.payload), float64(r.zeros)/float64(r.payload), float64(r.batches)/float64(r.payload))
		}
		b.table.add("2", "wear, 200 B × 50 sources, "+r.what, figure+")", said)
	}
	return nil
}

// settle publishes until everything is there that is made once: topics and their files, and of Millrace the first
// checkpoint, which writes every partition's leader epochs and names, and lets go the journal's first files, ahead of
// which zeros were written.
func (r *wearRun) settle(publish func(time.Duration) error) error {
	first, err := r.lastCheckpoint()
	if err != nil {
		return err
	}
	for begin := time.Now(); ; {
		if err := publish(time.Second); err != nil {
			return err
		}
		last, err := r.lastCheckpoint()
		if err != nil || last > first || !r.server.options.figures {
			return err
		}
		if time.Since(begin) > time.Minute {
			return errors.New("no checkpoint in a minute")
		}
	}
}

// measure publishes for as long as span and reads the device's counters before and after.
func (r *wearRun) measure(rate int, span time.Duration) error {
	publish, err := r.publisher(rate)
	if err != nil {
		return err
	}
	if err := r.settle(publish); err != nil {
		return err
	}
	bytes, flushes, err := r.loop.written()
	if err != nil {
		return err
	}
	r.records, r.payload = 0, 0
	if err := r.readJournal(); err != nil {
		return err
	}
	before, err := r.lastCheckpoint()
	if err != nil {
		return err
	}
	if err := publish(span); err != nil {
		return err
	}
	after, err := r.lastCheckpoint()
	if err != nil {
		return err
	}
	r.checkpoints = after - before
	if r.bytes, r.flushed, err = r.loop.written(); err != nil {
		return err
	}
	r.bytes, r.flushed = r.bytes-bytes, r.flushed-flushes
	r.frames, r.zeros, r.batches = -r.frames, -r.zeros, -r.batches
	return r.readJournal()
}

// readJournal adds the counters of Millrace's journal to what was read before.
func (r *wearRun) readJournal() error {
	if !r.server.options.figures {
		return nil
	}
	resp, err := http.Get("http://" + r.server.http + "/metrics")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	for name, to := range map[string]*int64{
		"frame": &r.frames, "zero": &r.zeros, "inline": &r.batches,
	} {
		_, rest, ok := strings.Cut(string(body), "\nmillrace_journal_"+name+"_bytes_total ")
		if !ok {
			return fmt.Errorf("no %s bytes among the figures", name)
		}
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseFloat(line, 64)
		if err != nil {
			return err
		}
		*to += int64(n)
	}
	return nil
}

// lastCheckpoint is the number of the server's last checkpoint, 0 before the first and of a server that makes none.
func (r *wearRun) lastCheckpoint() (last uint64, err error) {
	if !r.server.options.figures {
		return 0, nil
	}
	for n := range 2 {
		slot, err := partition.ReadSlot(disk.OS{}, filepath.Join(r.server.dir, "data"), n)
		switch {
		case errors.Is(err, partition.ErrSlot), errors.Is(err, fs.ErrNotExist): // being written, or not there yet
		case err != nil:
			return 0, err
		default:
			last = max(last, slot.Sequence)
		}
	}
	return last, nil
}

// value is the reading of a source: noise that does not compress, of its own each time, so that no two readings in a
// commit compress each other either; or SenML as a climate sensor's.
func (r *wearRun) value(source int, n int64) []byte {
	if !r.json {
		noise := make([]byte, wearValue)
		for i := 0; i < len(noise); i += 8 {
			binary.LittleEndian.PutUint64(noise[i:], rand.Uint64())
		}
		return noise
	}
	return senML(source, n)
}

// publisher opens the connections and returns what publishes for a time and waits for every acknowledgement.
func (r *wearRun) publisher(rate int) (func(time.Duration) error, error) {
	if r.peer.name == "kafka" {
		noise, err := payload(wearValue)
		if err != nil {
			return nil, err
		}
		k, err := connectKafka(r.server.kafka)
		if err != nil {
			return nil, err
		}
		if err := r.server.until(func() error { return k.create("wear", wearSources) }); err != nil {
			return nil, err
		}
		batch, err := oneRecord(noise)
		return r.oneByOne(func(source int) error {
			_, err := k.produce("wear", int32(source), batch)
			return err
		}), err
	}
	if r.peer.name == "nats" { // without a session that wants them nothing is kept
		away, err := connectMQTT(r.server.mqtt, "away", false)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(away.subscribe("s/#"), away.close()); err != nil {
			return nil, err
		}
	}
	if r.interval == 0 {
		c, err := connectMQTT(r.server.mqtt, "s", true)
		return r.oneByOne(func(source int) error {
			_, err := c.publish(fmt.Sprintf("s/%02d", source), r.value(source, 0))
			return err
		}), err
	}
	const clients = 10
	var conns [clients]*publisher
	for i := range conns {
		c, err := connectMQTT(r.server.mqtt, fmt.Sprintf("s%d", i), true)
		if err != nil {
			return nil, err
		}
		conns[i] = c
	}
	return func(span time.Duration) error {
		errs := make(chan error, clients)
		for i := range conns {
			go func() {
				errs <- r.stream(conns[i], i*wearSources/clients, wearSources/clients, rate/clients, span)
			}()
		}
		var all []error
		for range clients {
			all = append(all, <-errs)
		}
		return errors.Join(all...)
	}, nil
}

// oneByOne publishes as fast as one acknowledgement follows the other.
func (r *wearRun) oneByOne(publish func(source int) error) func(time.Duration) error {
	return func(span time.Duration) error {
		for begin, i := time.Now(), 0; time.Since(begin) < span; i++ {
			if err := publish(i % wearSources); err != nil {
				return err
			}
			r.records++
			r.payload += wearValue
		}
		return nil
	}
}

// stream publishes readings of some sources at a rate, and then waits for the acknowledgements it has not got yet.
func (r *wearRun) stream(c *publisher, source, sources, rate int, span time.Duration) error {
	window := make(chan struct{}, 64) // receive_maximum
	failed := make(chan error, 1)
	total := int(span.Seconds() * float64(rate))
	go func() {
		for range total {
			if _, err := c.expect(mqttPuback); err != nil {
				failed <- err
				return
			}
			<-window
		}
		failed <- nil
	}()
	begin := time.Now()
	for i := range total {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		select {
		case window <- struct{}{}:
		case err := <-failed:
			return err
		}
		s := source + i%sources
		value := r.value(s, int64(i))
		if err := c.write(fmt.Sprintf("s/%02d", s), value); err != nil {
			return err
		}
		atomic.AddInt64(&r.records, 1)
		atomic.AddInt64(&r.payload, int64(len(value)))
	}
	return <-failed
}
