package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience is how long a command waits for a broker that does not answer.
const patience = 10 * time.Second

// endpoint is the broker a command talks to.
type endpoint struct {
	bootstrap []string
	login     login
	changed   func(flag string) bool
}

func (e *endpoint) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringSliceVarP(&e.bootstrap, "bootstrap-server", "b", []string{"127.0.0.1:9092"}, "the broker's Kafka address")
	e.login.flags(cmd.PersistentFlags())
	e.changed = cmd.PersistentFlags().Changed
}

func (e *endpoint) client(ctx context.Context, options ...kgo.Opt) (*kgo.Client, error) {
	who, err := e.login.options(e.changed)
	if err != nil {
		return nil, err
	}
	options = append(append([]kgo.Opt{
		kgo.SeedBrokers(e.bootstrap...), kgo.ClientID("millrace-cli"),
		kgo.RetryTimeout(patience), kgo.RecordDeliveryTimeout(patience),
	}, who...), options...)
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, coded{err, exitUsage}
	}
	ping, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Ping(ping); err != nil {
		client.Close()
		return nil, fail(exitFailed, "no answer from %v: %w", e.bootstrap, err)
	}
	return client, nil
}

// admin runs fn with an administrative client.
func (e *endpoint) admin(ctx context.Context, fn func(context.Context, *kadm.Client) error) error {
	client, err := e.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return answered(fn(ctx, kadm.NewClient(client)))
}

// answered gives an error of the broker its exit code.
func answered(err error) error {
	var code coded
	switch {
	case err == nil, errors.As(err, &code):
		return err
	case missing(err), errors.Is(err, kerr.GroupIDNotFound):
		return coded{err, exitMissing}
	}
	return coded{err, exitFailed}
}

func missing(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)
}

// explained is the broker's error with what it says of it.
func explained(err error, message string) error {
	if message == "" {
		return answered(err)
	}
	return answered(fmt.Errorf("%w: %s", err, message))
}

// spoken is an error in other words.
type spoken struct {
	error
	words string
}

func (s spoken) Error() string { return s.words }
func (s spoken) Unwrap() error { return s.error }

// told is the broker's error about a topic: in the broker's words where it has some, else in Kafka's.
func told(topic string, err error, words string) error {
	var code *kerr.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &code):
		return answered(fmt.Errorf("%s: %w", topic, err))
	case missing(err):
		words = "there is no such topic; `millrace topic list` shows those there are"
	case words == "":
		words = strings.TrimSuffix(code.Description, ".")
	}
	if !strings.Contains(words, "'"+topic+"'") {
		words = topic + ": " + words
	}
	return answered(spoken{err, fmt.Sprintf("%s (%s)", words, code.Message)})
}
