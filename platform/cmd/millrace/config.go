package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"millrace/bridge/route"
	"millrace/broker"
	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/hw/sensor"
	"millrace/hw/storage"
	"millrace/platform/config"
)

// checks is what the packages that use a value know about it.
func checks() config.Checks {
	settings := map[string]catalog.Setting{}
	var names []string
	for _, s := range catalog.TopicSettings() {
		settings[s.Name] = s
		names = append(names, s.Name)
	}
	return config.Checks{
		TopicKeys: names,
		Topic: func(key, value string) error {
			s := settings[key]
			return s.Check(value)
		},
		Routes: func(m *config.MQTT, wrong func(reverse bool, index int, err error)) {
			_, err := broker.NewRouter(m)
			var problems route.Problems
			if errors.As(err, &problems) {
				for _, p := range problems {
					wrong(p.Reverse, p.Index, p.Err)
				}
			}
		},
		Mapping: func(rule string) error {
			_, err := auth.ParseRules([]string{rule})
			return err
		},
		Component: func(name string) error {
			if slices.Contains(broker.Components, name) {
				return nil
			}
			return fmt.Errorf("there is no such part; there are %s", strings.Join(broker.Components, ", "))
		},
		Zone: broker.CheckZone, Window: broker.CheckWindow, Link: broker.CheckLink,
		Driver: sensor.Known,
		FRAM:   storage.Known,
	}
}

// load reads a file, or the defaults when there is none.
func load(file string) (*config.Config, error) {
	var c *config.Config
	var err error
	if file == "" {
		c, err = config.Parse("defaults", nil, config.BoardNames(), checks())
	} else {
		c, err = config.Load(file, config.BoardNames(), checks())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, coded{err, exitMissing}
	}
	if err != nil {
		return nil, coded{err, exitUsage}
	}
	return c, nil
}

func (c *command) config() *cobra.Command {
	var defaults bool
	show := &cobra.Command{
		Use: "show [FILE]", Short: "Print what a file means, defaults included", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if defaults && len(args) > 0 {
				return fail(exitUsage, "--defaults needs no file")
			}
			if defaults && c.format == "text" {
				_, err := c.out.Write(config.DefaultFile())
				return err
			}
			cfg, err := load(append(args, "")[0])
			if err != nil {
				return err
			}
			if c.format == "json" {
				return c.json(cfg.Values())
			}
			return cfg.Show(c.out)
		},
	}
	show.Flags().BoolVar(&defaults, "defaults", false, "print the complete commented file")
	check := &cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a file", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := load(args[0])
			if c.format == "json" {
				problems := []string{}
				if err != nil {
					problems = strings.Split(err.Error(), "\n") // a line each
				}
				if jsonErr := c.json(map[string]any{"file": args[0], "ok": err == nil, "problems": problems}); jsonErr != nil {
					return jsonErr
				}
				return err
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.out, "%s is good\n", args[0])
			return err
		},
	}
	return group("config", "Check or show the configuration", check, show)
}
