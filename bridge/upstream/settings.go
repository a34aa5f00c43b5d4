package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"millrace/broker/catalog"
)

// Setting is one setting of a topic upstream that is to follow the board's.
type Setting struct {
	Topic, Name string
	// Was is what the link has set it to last, Want what it is to be; nil is the peer's default.
	Was, Want *string

	// Is is what it is upstream afterwards. It is not Want where somebody else had changed it, or for Err.
	Is  *string
	Err error
}

// followMax is how many settings are asked about at once.
const followMax = 256

// madeTopic is a topic upstream that the link has made, and what it has set there last. It is not changed but replaced.
type madeTopic struct {
	id       [16]byte
	settings map[string]string
}

// following is what a link knows of settings upstream. Link.mu guards what is not atomic.
type following struct {
	// made are the topics that the link has made, by name, of a cluster.
	made    map[string]madeTopic
	cluster string
	// changed says that settings of the board may have changed.
	changed atomic.Bool
	// retry is when those are looked at again that could not be changed; zero: never.
	retry time.Time
	// reason is why some are not as they are on the board, "" for nothing.
	reason string
}

// Changed tells a link that settings of topics may have changed. It does not wait.
func (l *Link) Changed() {
	l.follows.changed.Store(true)
	l.kick(int(Live))
}

// settings are those that a topic's copy is to have.
func (l *Link) settings(topic string) map[string]string {
	all := l.env.Log.Configs(topic)
	if len(l.cfg.ExcludeSettings) == 0 {
		return all
	}
	list := map[string]string{}
	for name, value := range all {
		if !slices.ContainsFunc(l.cfg.ExcludeSettings, func(p string) bool { return catalog.Matches(p, name) }) {
			list[name] = value
		}
	}
	return list
}

// madeLocked notes that the link has just made a topic.
func (l *Link) madeLocked(t *Topic) {
	f := &l.follows
	if len(f.made) >= 2*l.cfg.Partitions { // most are of topics that came and went
		there := map[string]bool{}
		for _, to := range l.table.targets {
			there[to.name] = true
		}
		maps.DeleteFunc(f.made, func(name string, _ madeTopic) bool { return !there[name] })
	}
	f.made[t.Name] = madeTopic{t.ID, t.Configs}
	l.madeNews = true // without it the link would not know that the topic is its own
}

// ofClusterLocked forgets what was made in another cluster.
func (l *Link) ofClusterLocked(cluster string) {
	if f := &l.follows; f.cluster != cluster {
		f.cluster = cluster
		clear(f.made)
	}
}

// follow has settings of topics upstream follow those of the board: of topics that the link has made, and where they are what it
// has set them to, so that it never has its way with somebody else. Where nothing has changed it asks nothing. What the peer
// refuses is told, and tried again after holdMax.
func (ln *lane) follow(ctx context.Context) error {
	ln.mu.Lock()
	f := &ln.follows
	now := time.Now()
	again := !f.retry.IsZero() && !now.Before(f.retry)
	if changed := f.changed.Swap(false); !ln.cfg.FollowSettings || !changed && !again {
		ln.mu.Unlock()
		return nil
	}
	var list []Setting
	for _, to := range ln.table.targets {
		if m, is := f.made[to.name]; is && to.have > 0 && m.id == to.id {
			list = differ(list, to.name, m.settings, ln.settings(to.local))
		}
	}
	f.retry = now.Add(holdMax) // should the peer not answer, it is not asked again with every connection
	ln.mu.Unlock()
	for some := range slices.Chunk(list, followMax) {
		if err := ln.session.Follow(ctx, some); err != nil {
			return fmt.Errorf("settings upstream: %w", err)
		}
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	reason, left := "", 0
	for i := range list {
		if why := ln.followedLocked(&list[i]); why != "" {
			reason = or(reason, why)
			left++
		}
	}
	switch {
	case left == 0:
		f.retry = time.Time{}
	case left > 1:
		reason = fmt.Sprintf("%s; and %d more", reason, left-1)
	}
	if reason != "" && reason != f.reason {
		ln.log.Warn("settings of topics upstream do not follow", "reason", reason)
	}
	f.reason = reason
	return nil
}

// differ adds the settings of a topic in which what is wanted is not what was set last.
func differ(list []Setting, topic string, was, want map[string]string) []Setting {
	for name, value := range want {
		old, is := was[name]
		if !is {
			list = append(list, Setting{Topic: topic, Name: name, Want: &value})
		} else if old != value {
			list = append(list, Setting{Topic: topic, Name: name, Was: &old, Want: &value})
		}
	}
	for name, old := range was {
		if _, is := want[name]; !is {
			list = append(list, Setting{Topic: topic, Name: name, Was: &old})
		}
	}
	return list
}

func alike(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// followedLocked takes over what became of a setting, and says why it is not as it should be.
func (l *Link) followedLocked(s *Setting) (why string) {
	m, is := l.follows.made[s.Topic]
	switch {
	case s.Err != nil:
		return s.Name + " of " + s.Topic + ": " + s.Err.Error()
	case !alike(s.Is, s.Want):
		return s.Name + " of " + s.Topic + " was changed there by somebody else"
	case !is:
		return ""
	}
	settings := map[string]string{}
	maps.Copy(settings, m.settings)
	if s.Want == nil {
		delete(settings, s.Name)
	} else {
		settings[s.Name] = *s.Want
	}
	l.follows.made[s.Topic] = madeTopic{m.id, settings}
	l.madeNews = true
	l.log.Info("a setting upstream follows the board's", "topic", s.Topic, "setting", s.Name, "value", or(settings[s.Name], "default"))
	return ""
}
