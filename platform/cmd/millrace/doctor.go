package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/platform/config"
	"millrace/platform/doctor"
)

func (c *command) doctor() *cobra.Command {
	var at place
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look at the machine: flash, filesystem, clock, memory, limits; say what to change", Args: cobra.NoArgs,
		Long: "Look at the machine: flash, filesystem, clock, memory, limits, and say what to change. It changes nothing.\n\n" +
			"Exit codes: 0 all is well, 5 there are warnings, 1 something is bad: records can be lost, or the broker will not serve.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := at.settings()
			if err != nil {
				return err
			}
			findings := examine(cmd.Context(), cfg)
			if err := c.findings(findings); err != nil {
				return err
			}
			switch doctor.Worst(findings) {
			case doctor.Bad:
				return fail(exitFailed, "this machine is not fit for the board as it is")
			case doctor.Warn:
				return fail(exitPartial, "there are warnings")
			}
			return nil
		},
	}
	at.flags(cmd)
	return cmd
}

func (c *command) findings(all []doctor.Finding) error {
	for _, f := range all {
		text := fmt.Sprintf("%-4s  %-10s  %s\n", f.State, f.Check, f.Text)
		if f.Change != "" {
			text += fmt.Sprintf("%18s> %s\n", "", f.Change)
		}
		if err := c.show(f, "%s", text); err != nil {
			return err
		}
	}
	return nil
}

// examine looks at this machine for a board of that configuration.
func examine(ctx context.Context, cfg *config.Config) []doctor.Finding {
	b := doctor.New(cfg.Broker.LogDirs)
	b.Memory, b.Reserve = cfg.Memory.Limit, cfg.Flash.ReserveBytes
	b.Connections = cfg.Broker.MaxConnections + cfg.HTTP.MaxConnections + mqttConnections(cfg)
	for i := range cfg.Upstreams {
		u := &cfg.Upstreams[i]
		b.Links = append(b.Links, doctor.Link{Name: u.Name, Servers: u.Servers, TLS: u.TLS(), Metered: u.Metered, Files: u.Files(), Secrets: u.Secrets()})
	}
	b.Watchdog = cfg.Watchdog.Device != "" || cfg.Watchdog.GPIO != ""
	if raw, err := broker.Ask(ctx, cfg.Broker.LogDirs, "status"); err == nil {
		var status broker.Status
		if json.Unmarshal(raw, &status) == nil {
			b.PID = status.PID
		}
	}
	return b.Examine()
}

// mqttConnections is how many there may be: as many as memory.limit allows where the file does not say.
func mqttConnections(cfg *config.Config) int {
	if cfg.MQTT.MaxConnections > 0 {
		return cfg.MQTT.MaxConnections
	}
	const each = 48 << 20 / 2000 // 2,000 clients at 48 MiB
	return int(cfg.Memory.Limit / each)
}
