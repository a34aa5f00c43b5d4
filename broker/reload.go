package broker

import (
	"millrace/broker/catalog"
	"millrace/platform/config"
)

// configure puts the settings in force that a running board can take.
func (b *Broker) configure(s *config.Config) error {
	patterns := make([]catalog.Pattern, len(s.Topics))
	for i, t := range s.Topics {
		patterns[i] = catalog.Pattern{Match: t.Pattern, Config: t.Config}
	}
	var links []string
	for _, u := range s.Upstreams {
		if u.Direction == config.Up {
			links = append(links, u.Topics...)
		}
	}
	defaults, err := catalog.NewDefaults(patterns, links)
	if err != nil {
		return err
	}
	b.topics.defaults.Store(defaults)
	b.creation.Store(&creation{
		allowed:    s.Broker.AutoCreateTopics,
		partitions: int(s.Broker.NumPartitions), replication: int(s.Broker.ReplicationFactor),
	})
	if b.flash != nil {
		b.flash.configure(s)
	}
	return nil
}

// Reload takes from next what a running board can take. It tells the keys that are in force now and those that need a
// restart. After an error the old settings hold.
func (b *Broker) Reload(next *config.Config) (live, restart []string, err error) {
	b.settingsMu.Lock()
	defer b.settingsMu.Unlock()
	live, restart = config.Diff(b.settings, next)
	merged := config.Merge(b.settings, next)
	if err := b.configure(merged); err != nil {
		return nil, nil, err
	}
	b.settings = merged
	b.links.apply(merged)
	if b.certificates != nil { // the files may have changed where their names have not
		if err := b.certificates.load(merged); err != nil {
			b.log.Error("certificates not taken; the old ones stay", "err", err)
		} else {
			b.log.Info("certificates read", "sha256", b.certificates.fingerprint.Load())
		}
	}
	return live, restart, b.reconcile()
}
