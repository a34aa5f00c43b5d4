package broker

import "millrace/bridge/upstream"

// linkGroups are the board's consumer groups as a link has them.
type linkGroups struct{ b *Broker }

// Names implements upstream.Groups.
func (g linkGroups) Names() []string { return g.b.groups.Names(nil) }

// Offsets implements upstream.Groups. A group that is not loaded yet has none.
func (g linkGroups) Offsets(name string) []upstream.GroupOffset {
	list, err := g.b.groups.Offsets(name, nil)
	if err != nil {
		return nil
	}
	all := make([]upstream.GroupOffset, len(list))
	for i := range list {
		o := &list[i]
		all[i] = upstream.GroupOffset{Topic: o.Topic, ID: o.TopicID, Partition: o.Partition, Offset: o.Offset}
	}
	return all
}
