package broker

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// States of a board that has its data directory.
const (
	Starting = "starting"
	Serving  = "serving"
	Stopping = "stopping"
)

// Status is a running board at a glance. Sizes are in bytes.
type Status struct {
	State   string    `json:"state"`
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`  // by the clock as it was at the start
	Uptime  float64   `json:"uptime"` // seconds, whatever the clock did

	Cluster   string `json:"cluster"`
	Node      int32  `json:"node"`
	Directory string `json:"directory"`

	// Dead is why the watchdogs are not fed, NotReady why no records are taken; empty where that is not so. What is dead
	// is not ready either.
	Dead     string `json:"dead,omitempty"`
	NotReady string `json:"not_ready,omitempty"`

	LastEnd End `json:"last_end"` // of the life before

	Listeners   Addresses   `json:"listeners"`
	Connections Connections `json:"connections"`
	Disk        Room        `json:"disk"`
	Memory      Room        `json:"memory"` // Used is what the kernel counts as resident

	Topics     int   `json:"topics"`
	Partitions int   `json:"partitions"`
	Offline    int   `json:"offline_partitions"`
	Records    int64 `json:"records"` // offsets that can be read
	Groups     int   `json:"groups"`
	// Lag is what groups have not read of the partitions they have offsets of, all together.
	Lag    int64 `json:"lag"`
	Queued int64 `json:"queued"` // bytes that wait for the disk

	Upstream []LinkStatus `json:"upstream"` // without their partitions

	Troubles []string `json:"troubles"` // the last warnings and errors
}

// Connections are those open now.
type Connections struct {
	Kafka int `json:"kafka"`
	MQTT  int `json:"mqtt"`
	HTTP  int `json:"http"`
}

// Room is something there is a limit of.
type Room struct {
	Limit   int64 `json:"limit"`
	Used    int64 `json:"used"`
	Free    int64 `json:"free"`
	Reserve int64 `json:"reserve,omitempty"` // of Free, kept from clients
}

// begun is what is known of a board before it serves.
func (b *Broker) begun(state string) Status {
	return Status{
		State: state, Version: b.config.Version, PID: os.Getpid(), Since: b.since.Round(0), Uptime: time.Since(b.since).Seconds(),
		Cluster: b.meta.ClusterID, Node: b.meta.NodeID, Directory: b.dir(), Upstream: []LinkStatus{}, Troubles: b.troubles(),
	}
}

// Status tells how the board is doing. It costs a look at every partition and every group.
func (b *Broker) Status() Status {
	s := b.begun(Serving)
	if err := b.vitals.Check(); err != nil {
		s.Dead = err.Error()
	}
	if err := b.takes(); err != nil {
		s.NotReady = err.Error()
	}
	s.Listeners, s.LastEnd = b.addresses, b.end
	s.Connections = Connections{Kafka: b.kafka.Connections(), MQTT: b.mqtt.Connections()}
	if b.http != nil {
		s.Connections.HTTP = b.http.Connections()
	}
	s.Disk = Room{Free: b.space.Free(), Reserve: b.space.Reserve()}
	if u, err := b.config.FS.Usage(b.dir()); err == nil {
		s.Disk = Room{Limit: u.Total, Used: u.Total - u.Free, Free: u.Free, Reserve: b.space.Reserve()}
	}
	s.Memory = Room{Limit: b.config.Settings.Memory.Limit, Used: resident()}
	s.Memory.Free = s.Memory.Limit - s.Memory.Used
	image := b.Image()
	s.Topics, s.Partitions, s.Offline = image.Len(), image.Partitions(), len(b.store.OfflinePartitions())
	for p := range b.store.All() {
		s.Records += p.High() - p.Start()
	}
	s.Queued = int64(b.journal.Stats().Queued)
	s.Groups, _ = b.groups.Groups()
	s.Lag = b.behind()
	s.Upstream = b.Links()
	for i := range s.Upstream {
		s.Upstream[i].List = []LinkPartition{}
	}
	return s
}

// behind is how far consumer groups are behind, all together. What is not known yet counts nothing.
func (b *Broker) behind() (n int64) {
	list, _ := b.groups.List() // while some are loading, the others
	for _, g := range list {
		offsets, err := b.groups.Offsets(g.ID, nil)
		if err != nil {
			continue
		}
		for _, o := range offsets {
			t := b.Image().Topic(o.Topic)
			if t == nil {
				continue
			}
			if p := b.store.Get(t.ID, o.Partition); p != nil {
				n += max(0, p.High()-max(o.Offset, p.Start()))
			}
		}
	}
	return n
}

// resident is what the kernel counts as this process's memory, in bytes; 0 where it does not say.
func resident() int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

func (b *Broker) troubles() []string {
	if b.config.Logs == nil {
		return []string{}
	}
	return b.config.Logs.Troubles()
}
