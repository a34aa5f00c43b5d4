package broker

import (
	"context"
	"time"

	"millrace/bridge/feed"
	"millrace/bridge/route"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/hw/bus/sim"
	"millrace/platform/config"
)

// The simulated sensor of Config.Sim.
const (
	simBus     = "SIM0"
	simEvery   = 2 * time.Second
	simTimeout = time.Second
	simTopic   = "sensors.climate"
)

// openFeed starts to read the sensors.
func (b *Broker) openFeed(ctx context.Context) error {
	s := b.config.Settings
	buses := s.Buses
	sensors := s.Sensors
	if b.config.Sim {
		b.buses.Add(simBus, sim.Climate(b.config.Now))
		buses = append(buses[:len(buses):len(buses)], config.Bus{Name: simBus, Timeout: simTimeout})
		sensors = append(sensors[:len(sensors):len(sensors)], config.Sensor{
			Name: "cabinet", Driver: "bme280", Bus: simBus, Address: sim.ClimateAddress, Every: simEvery,
			Topic: simTopic, Format: "senml+json",
		})
	}
	if b.config.Sim {
		// Who tries the board reads before anything was written: the sensor's topic, and the one MQTT clients write to by
		// default.
		for _, name := range []string{simTopic, route.DefaultTopic} {
			if _, err := b.Ensure(ctx, name); err != nil {
				b.log.Warn("topic not made", "topic", name, "error", err) // a full disk, or they are not made unasked
			}
		}
	}
	if len(sensors) == 0 {
		return nil
	}
	sources := make([]feed.Source, len(sensors))
	for i, c := range sensors {
		sources[i] = feed.Source{
			Name: c.Name, Driver: c.Driver, Bus: c.Bus, Address: c.Address, Every: c.Every,
			Topic: c.Topic, Format: feed.Format(c.Format), Deadband: c.Deadband,
		}
	}
	var err error
	b.feed, err = feed.Start(feed.Config{
		Sources: sources,
		OpenBus: func(name string) (feed.Bus, error) { return b.buses.Open(name, busTimeout(buses, name)) },
		Append:  b.appendKeyed, Pulse: b.pulse, Now: b.config.Now, Stamp: b.clock.Now, Logger: b.log.With("component", "feed"),
	})
	if err != nil {
		return err
	}
	b.owns(b.feed.Close)
	return nil
}

// appendKeyed puts one record into a topic, at the partition its key belongs to; done is called once, when the record is
// durable or was refused.
func (b *Broker) appendKeyed(ctx context.Context, topic string, r record.Record, done func(error)) {
	list, err := b.Ensure(ctx, topic)
	if err != nil {
		done(err)
		return
	}
	p := list[record.PartitionForKey(r.Key, len(list))]
	p.AppendRecords([]record.Record{r}, partition.AppendOptions{Epoch: -1}, func(res partition.AppendResult) { done(res.Err) })
}
