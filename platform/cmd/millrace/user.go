package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"millrace/broker/auth"
)

func (c *command) user() *cobra.Command {
	var e endpoint
	parent := &cobra.Command{Use: "user", Short: "Add, list and delete users"}
	e.flags(parent)

	var from string
	var names []string
	var iterations int32
	add := &cobra.Command{
		Use: "add NAME", Short: "Add a user, or change a user's password", Args: cobra.ExactArgs(1),
		Long: "Add a user, or change a user's password, which is the first line of standard input, or of --new-password-file.\nThe broker keeps what it takes to check it and never sees the password itself.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var mechanisms []auth.Mechanism
			for _, name := range names {
				m, err := auth.ParseMechanism(name)
				if err != nil || !m.Scram() {
					return fail(exitUsage, "--mechanism %s: there are SCRAM-SHA-256 and SCRAM-SHA-512", name)
				}
				mechanisms = append(mechanisms, m)
			}
			if iterations < auth.IterationsMin || iterations > auth.IterationsMax {
				return fail(exitUsage, "--iterations %d: want %d to %d", iterations, auth.IterationsMin, auth.IterationsMax)
			}
			password, err := c.newPassword(from)
			if err != nil {
				return err
			}
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				return c.addUser(ctx, a, args[0], password, mechanisms, iterations)
			})
		},
	}
	add.Flags().StringVar(&from, "new-password-file", "", "the file with the new password; default: standard input")
	add.Flags().StringSliceVar(&names, "mechanism", []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}, "the mechanisms the user may log in with")
	add.Flags().Int32Var(&iterations, "iterations", auth.IterationsMin, "how much work guessing is; a login by PLAIN costs the broker as much")

	list := &cobra.Command{
		Use: "list", Short: "List the users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error {
				users, err := a.DescribeUserSCRAMs(ctx)
				if err != nil {
					return err
				}
				for _, u := range users.Sorted() {
					var words []string
					credentials := []map[string]any{}
					for _, i := range u.CredInfos {
						m := auth.Mechanism(i.Mechanism).String()
						words = append(words, m)
						credentials = append(credentials, map[string]any{"mechanism": m, "iterations": i.Iterations})
					}
					if err := c.show(map[string]any{"user": u.User, "credentials": credentials}, "%s  %s\n", u.User, strings.Join(words, " ")); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}

	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a user", Args: cobra.ExactArgs(1),
		Long: "Delete a user. Connections that are logged in stay, until connections.max.reauth.ms ends their login.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.admin(cmd.Context(), func(ctx context.Context, a *kadm.Client) error { return c.deleteUser(ctx, a, args[0]) })
		},
	}
	parent.AddCommand(add, list, del)
	return parent
}

// newPassword reads a password from a file or standard input.
func (c *command) newPassword(file string) (string, error) {
	var raw []byte
	var err error
	if file != "" {
		raw, err = readSmall(file)
	} else {
		raw, err = io.ReadAll(io.LimitReader(c.in, secretMax))
	}
	if err != nil {
		return "", coded{err, exitUsage}
	}
	if password := firstLine(raw); password != "" {
		return password, nil
	}
	return "", fail(exitUsage, "no password: it is the first line of standard input or of --new-password-file")
}

// addUser gives a user one credential after the other: Kafka takes one of a user in a request.
func (c *command) addUser(ctx context.Context, a *kadm.Client, user, password string, mechanisms []auth.Mechanism, iterations int32) error {
	for i, m := range mechanisms {
		r, err := a.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramMechanism(m), Iterations: iterations, Password: password}})
		if err == nil {
			if one := r[user]; one.Err != nil {
				err = explained(one.Err, one.ErrMessage)
			}
		}
		if err != nil && i > 0 {
			return fail(exitPartial, "%s can log in with %v and not with %v: %w", user, mechanisms[:i], m, err)
		}
		if err != nil {
			return err
		}
	}
	return c.show(map[string]any{"user": user, "added": true}, "added %s\n", user)
}

func (c *command) deleteUser(ctx context.Context, a *kadm.Client, user string) error {
	users, err := a.DescribeUserSCRAMs(ctx, user)
	if err != nil {
		return err
	}
	u := users[user]
	if errors.Is(u.Err, kerr.ResourceNotFound) {
		return fail(exitMissing, "there is no user %s", user)
	}
	if u.Err != nil {
		return explained(u.Err, u.ErrMessage)
	}
	for i, info := range u.CredInfos {
		r, err := a.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: user, Mechanism: info.Mechanism}}, nil)
		if err == nil {
			if one := r[user]; one.Err != nil {
				err = explained(one.Err, one.ErrMessage)
			}
		}
		if err != nil && i > 0 {
			return fail(exitPartial, "%d of %d credentials of %s were deleted: %w", i, len(u.CredInfos), user, err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", user, err)
		}
	}
	return c.show(map[string]any{"user": user, "deleted": true}, "deleted %s\n", user)
}
