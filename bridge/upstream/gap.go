package upstream

import "encoding/json"

// The causes of a Gap, beside those a Witness tells.
const (
	// CauseRetention: the log let the records go before they were delivered.
	CauseRetention = "retention"
	// CauseDamage: the flash lost the records.
	CauseDamage = "damage"
	// CauseDecision: a person decided to leave them out.
	CauseDecision = "decision"
)

// Gap is what a record of the gap topic says: offsets of a local partition that will never come.
type Gap struct {
	Board     string `json:"board"`
	Link      string `json:"link"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
	Count     int64  `json:"count"` // of offsets
	Cause     string `json:"cause"`
	Time      int64  `json:"time"` // ms, as well as the board knew
}

// hole is a Gap within a draft: the offsets First to End-1.
type hole struct {
	Range
	cause string
}

func (h hole) record(cfg *Config, topic string, partition int32, now int64) (key, value []byte, err error) {
	value, err = json.Marshal(Gap{
		Board: cfg.Board, Link: cfg.Name, Topic: topic, Partition: partition,
		First: h.First, Last: h.End - 1, Count: h.End - h.First, Cause: h.cause, Time: now,
	})
	return []byte(cfg.Board), value, err
}
