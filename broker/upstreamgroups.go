package broker

import "millrace/bridge/upstream"

// linkGroups are the board's consumer groups as a link has them.
type linkGroups struct{ b *Broker }

// Names implements upstream.Groups. After a start it has what is not known yet read: it is there the next time.
func (g linkGroups) Names() []string {
	list, _ := g.b.groups.List()
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].ID
	}
	return names
}

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
