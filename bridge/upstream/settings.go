package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// followMax is how many topics are asked about at once.
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
	excluded := func(name string) bool {
		return slices.ContainsFunc(l.cfg.ExcludeSettings, func(p string) bool { return catalog.Matches(p, name) })
	}
	for name := range all {
		if excluded(name) { // it is ours to change only as a copy
			all = maps.Clone(all)
			maps.DeleteFunc(all, func(name, _ string) bool { return excluded(name) })
			break
		}
	}
	return all
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
	l.hintNews = true // without it the link would not know that the topic is its own
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
	f.retry = time.Time{}
	mine := map[string]string{} // the local name by that upstream
	made := map[string]madeTopic{}
	for _, to := range ln.table.targets {
		if m, is := f.made[to.name]; is && to.have > 0 && m.id == to.id {
			mine[to.name], made[to.name] = to.local, m
		}
	}
	ln.mu.Unlock()
	var list []Setting
	for _, name := range slices.Sorted(maps.Keys(mine)) {
		list = differ(list, name, made[name].settings, ln.settings(mine[name]))
	}
	reason := ""
	for first := 0; first < len(list); {
		end := first
		for topics := 0; end < len(list); end++ {
			if end == first || list[end].Topic != list[end-1].Topic {
				topics++
			}
			if topics > followMax {
				break
			}
		}
		ln.mu.Lock()
		f.retry = now.Add(holdMax) // should the peer not answer, it is not asked again with every connection
		ln.mu.Unlock()
		if err := ln.session.Follow(ctx, list[first:end]); err != nil {
			return fmt.Errorf("settings upstream: %w", err)
		}
		reason = or(reason, ln.followed(list[first:end]))
		first = end
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if reason == "" {
		f.retry = time.Time{}
	} else if reason != f.reason {
		ln.log.Warn("settings of topics upstream do not follow", "reason", reason)
	}
	f.reason = reason
	return nil
}

// differ adds the settings of a topic in which what is wanted is not what was set last.
func differ(list []Setting, topic string, was, want map[string]string) []Setting {
	of := func(m map[string]string, name string) *string {
		if v, is := m[name]; is {
			return &v
		}
		return nil
	}
	names := maps.Clone(want)
	if names == nil {
		names = map[string]string{}
	}
	maps.Copy(names, was)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if s := (Setting{Topic: topic, Name: name, Was: of(was, name), Want: of(want, name)}); !alike(s.Was, s.Want) {
			list = append(list, s)
		}
	}
	return list
}

func alike(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// followed takes over what became of settings, and says of the first that are not as they should be why.
func (l *Link) followed(list []Setting) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var why []string
	for i := range list {
		s := &list[i]
		if m, is := l.follows.made[s.Topic]; is && s.Err == nil && alike(s.Is, s.Want) {
			m.settings = maps.Clone(m.settings)
			if s.Want == nil {
				delete(m.settings, s.Name)
			} else {
				if m.settings == nil {
					m.settings = map[string]string{}
				}
				m.settings[s.Name] = *s.Want
			}
			l.follows.made[s.Topic] = m
			l.hintNews = true
			l.log.Info("a setting upstream follows the board's", "topic", s.Topic, "setting", s.Name, "value", or(m.settings[s.Name], "default"))
			continue
		}
		if s.Err != nil {
			why = append(why, fmt.Sprintf("%s of %s: %v", s.Name, s.Topic, s.Err))
		} else {
			why = append(why, fmt.Sprintf("%s of %s was changed there by somebody else", s.Name, s.Topic))
		}
	}
	const shown = 3
	if n := len(why); n > shown {
		why = append(why[:shown], fmt.Sprintf("and %d more", n-shown))
	}
	return strings.Join(why, "; ")
}
