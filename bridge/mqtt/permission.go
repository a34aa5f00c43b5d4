package mqtt

import (
	"errors"
	"fmt"

	"millrace/broker/auth"
)

// ErrNotAuthorized is what a publish is refused with that its client may not make.
var ErrNotAuthorized = errors.New("not authorized")

// mayWrite says whether who, with the client identifier id, may publish to a topic: an entry about the Kafka topic its
// route leads to allows it, or one about a topic filter, and none denies it. Whoever may write may have the topic made.
func (s *Server) mayWrite(who *auth.Session, id, topic string) error {
	if s.cfg.Authorizer == nil {
		return nil
	}
	if !s.cfg.Authorizer.AllowedTopic(who, auth.Write, auth.Publication{Kafka: s.leads(topic, id), Topic: topic, Client: id}) {
		return fmt.Errorf("%w to publish to this topic", ErrNotAuthorized)
	}
	return nil
}

// leads is the Kafka topic of a publish, empty where there is none.
func (s *Server) leads(topic, id string) string {
	w := scratches.Get().(*scratch)
	defer scratches.Put(w)
	if s.cfg.Router.Route(topic, id, &w.target) != nil {
		return "" // the publish is refused for that
	}
	return w.target.Topic
}

// maySubscribe says whether there can be a message the client may read that matches the filter. Each message is looked at
// again when it is sent.
func (c *client) maySubscribe(filter string) bool {
	z := c.s.cfg.Authorizer
	return z == nil || z.MayMatch(&c.who, auth.Publication{Topic: filter, Client: c.id}, c.s.cfg.Log.Names(), func(topic string) bool {
		return c.s.cfg.Router.Reaches(filter, topic)
	})
}

// mayRead says whether the client may have a message of st.
func (c *client) mayRead(st *stream, m *message) bool {
	if c.s.cfg.Authorizer == nil {
		return true
	}
	topic := st.topic
	if topic == retainedTopic {
		topic = c.s.leads(m.topic, m.props.Client) // where its publish went
	}
	return c.mayReadIn(topic, m.topic)
}

// mayReadIn says whether the client may have a message of an MQTT topic that is in a Kafka topic, or in none.
func (c *client) mayReadIn(kafka, topic string) bool {
	return c.s.cfg.Authorizer.AllowedTopic(&c.who, auth.Read, auth.Publication{Kafka: kafka, Topic: topic, Client: c.id})
}
