package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
)

// entries are the flags that say which access control entries are meant.
type entries struct {
	allow, deny, operations, hosts []string
	topics, groups, transactions   []string
	topicFilters                   []string
	cluster, prefixed              bool
}

func (f *entries) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.allow, "allow", nil, "who may: a user's name, User:NAME, or *; may repeat")
	cmd.Flags().StringArrayVar(&f.deny, "deny", nil, "who may not; may repeat")
	cmd.Flags().StringSliceVar(&f.operations, "operation", nil, "read, write, create, delete, alter, describe, cluster-action, describe-configs, alter-configs, idempotent-write or all")
	cmd.Flags().StringSliceVar(&f.hosts, "host", nil, "from where: an address; default: from everywhere")
	cmd.Flags().StringSliceVar(&f.topics, "topic", nil, "a topic, or * for all; may repeat")
	cmd.Flags().StringArrayVar(&f.topicFilters, "topic-filter", nil, "an MQTT topic filter, in which %c stands for the client id and %u for the user; may repeat")
	cmd.Flags().StringArrayVar(&f.groups, "group", nil, "a consumer group; may repeat")
	cmd.Flags().StringArrayVar(&f.transactions, "transactional-id", nil, "a transactional id; may repeat")
	cmd.Flags().BoolVar(&f.cluster, "cluster", false, "the cluster")
	cmd.Flags().BoolVar(&f.prefixed, "prefixed", false, "the names are beginnings of names")
}

// aclOperations are the operations by their names on the command line.
var aclOperations = map[string]auth.Operation{
	"all": auth.All, "read": auth.Read, "write": auth.Write, "create": auth.Create, "delete": auth.Delete, "alter": auth.Alter, "describe": auth.Describe,
	"cluster-action": auth.ClusterAction, "describe-configs": auth.DescribeConfigs, "alter-configs": auth.AlterConfigs, "idempotent-write": auth.IdempotentWrite,
}

var aclTypes = map[auth.ResourceType]string{
	auth.Topic: "topic", auth.Group: "group", auth.Cluster: "cluster", auth.TransactionalID: "transactional-id",
}

func principalNamed(name string) string {
	if strings.Contains(name, ":") {
		return name
	}
	return "User:" + name
}

// resources are those the flags name.
func (f *entries) resources() (all []auth.Resource) {
	for _, of := range []struct {
		kind  auth.ResourceType
		names []string
	}{{auth.Topic, f.topics}, {auth.Group, f.groups}, {auth.TransactionalID, f.transactions}} {
		for _, n := range of.names {
			all = append(all, auth.Resource{Type: of.kind, Name: n})
		}
	}
	for _, n := range f.topicFilters {
		all = append(all, auth.Resource{Type: auth.Topic, Name: auth.FilterMark + n})
	}
	if f.cluster {
		all = append(all, auth.Resource{Type: auth.Cluster, Name: auth.ClusterName})
	}
	return all
}

func (f *entries) operation() ([]auth.Operation, error) {
	var ops []auth.Operation
	for _, name := range f.operations {
		op, ok := aclOperations[strings.ToLower(strings.ReplaceAll(name, "_", "-"))]
		if !ok {
			return nil, fail(exitUsage, "--operation %s: see --help", name)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// build makes the entries the flags say.
func (f *entries) build() ([]auth.ACL, error) {
	ops, err := f.operation()
	if err != nil {
		return nil, err
	}
	resources := f.resources()
	if len(resources) == 0 || len(ops) == 0 || len(f.allow)+len(f.deny) == 0 {
		return nil, fail(exitUsage, "an entry needs --allow or --deny, --operation, and one of --topic, --topic-filter, --group, --cluster, --transactional-id")
	}
	pattern, hosts := auth.Literal, f.hosts
	if f.prefixed {
		pattern = auth.Prefixed
	}
	if len(hosts) == 0 {
		hosts = []string{auth.Wildcard}
	}
	var all []auth.ACL
	for _, r := range resources {
		a := auth.ACL{Type: r.Type, Name: r.Name, Pattern: pattern}
		if r.Type == auth.Cluster || strings.HasPrefix(r.Name, auth.FilterMark) {
			a.Pattern = auth.Literal
		}
		for _, a.Operation = range ops {
			for _, a.Host = range hosts {
				for _, w := range f.who() {
					a.Principal, a.Permission = auth.Principal(w.name), w.permission
					if err := a.Check(); err != nil {
						return nil, coded{err, exitUsage}
					}
					all = append(all, a)
				}
			}
		}
	}
	return all, nil
}

// who is somebody, and whether they may.
type who struct {
	name       string
	permission auth.Permission
}

func (f *entries) who() (all []who) {
	for _, n := range f.allow {
		all = append(all, who{principalNamed(n), auth.Allow})
	}
	for _, n := range f.deny {
		all = append(all, who{principalNamed(n), auth.Deny})
	}
	return all
}

// filters select the entries the flags name; what they do not say may be anything.
func (f *entries) filters() ([]auth.Filter, error) {
	ops, err := f.operation()
	if err != nil {
		return nil, err
	}
	list := []auth.Filter{{Type: auth.AnyResource, Pattern: auth.AnyPattern, Operation: auth.AnyOperation, Permission: auth.AnyPermission}}
	list = each(list, f.resources(), func(f *auth.Filter, r auth.Resource) { f.Type, f.Name = r.Type, &r.Name })
	list = each(list, ops, func(f *auth.Filter, op auth.Operation) { f.Operation = op })
	list = each(list, f.hosts, func(f *auth.Filter, host string) { f.Host = &host })
	list = each(list, f.who(), func(f *auth.Filter, w who) { f.Principal, f.Permission = &w.name, w.permission })
	if f.prefixed {
		for i := range list {
			list[i].Pattern = auth.Prefixed
		}
	}
	return list, nil
}

// each is every filter with every value, or the filters where there is none.
func each[T any](list []auth.Filter, values []T, set func(*auth.Filter, T)) []auth.Filter {
	if len(values) == 0 {
		return list
	}
	var out []auth.Filter
	for _, f := range list {
		for _, v := range values {
			one := f
			set(&one, v)
			out = append(out, one)
		}
	}
	return out
}

func (c *command) acl() *cobra.Command {
	var e endpoint
	parent := &cobra.Command{Use: "acl", Short: "Add, list and delete access control entries"}
	e.flags(parent)
	var added, listed, deleted entries
	add := &cobra.Command{
		Use: "add", Short: "Add entries", Args: cobra.NoArgs,
		Example: "  millrace acl add --allow ann --operation read,write --topic sensors. --prefixed\n" +
			"  millrace acl add --allow '*' --operation read,write --topic-filter 'devices/%c/#'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := added.build()
			if err != nil {
				return err
			}
			return e.ask(cmd.Context(), func(ctx context.Context, r kmsg.Requestor) error { return c.addACLs(ctx, r, all) })
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "List the entries that have all that is named", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters, err := listed.filters()
			if err != nil {
				return err
			}
			return e.ask(cmd.Context(), func(ctx context.Context, r kmsg.Requestor) error {
				for _, f := range filters {
					if err := c.listACLs(ctx, r, f); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	var every bool
	del := &cobra.Command{
		Use: "delete", Short: "Delete the entries that have all that is named", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters, err := deleted.filters()
			if err != nil {
				return err
			}
			if filters[0].Type == auth.AnyResource && filters[0].Principal == nil && !every {
				return fail(exitUsage, "name resources or users, or say --every")
			}
			return e.ask(cmd.Context(), func(ctx context.Context, r kmsg.Requestor) error { return c.deleteACLs(ctx, r, filters) })
		},
	}
	del.Flags().BoolVar(&every, "every", false, "all entries there are")
	added.flags(add)
	listed.flags(list)
	deleted.flags(del)
	parent.AddCommand(add, list, del)
	return parent
}

func (c *command) addACLs(ctx context.Context, r kmsg.Requestor, all []auth.ACL) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, a := range all {
		req.Creations = append(req.Creations, kmsg.CreateACLsRequestCreation{
			ResourceType: kmsg.ACLResourceType(a.Type), ResourceName: a.Name, ResourcePatternType: kmsg.ACLResourcePatternType(a.Pattern),
			Principal: string(a.Principal), Host: a.Host, Operation: kmsg.ACLOperation(a.Operation), PermissionType: kmsg.ACLPermissionType(a.Permission),
		})
	}
	resp, err := req.RequestWith(ctx, r)
	if err != nil {
		return err
	}
	good := 0
	for i, result := range resp.Results {
		if err := kerr.ErrorForCode(result.ErrorCode); err == nil {
			good++
			if err := c.entry(all[i], "added "); err != nil {
				return err
			}
		} else if bad := explained(err, message(result.ErrorMessage)); good > 0 {
			return fail(exitPartial, "%d of %d entries were added: %w", good, len(all), bad)
		} else {
			return bad
		}
	}
	return nil
}

func (c *command) listACLs(ctx context.Context, r kmsg.Requestor, f auth.Filter) error {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourceName, req.ResourcePatternType = kmsg.ACLResourceType(f.Type), f.Name, kmsg.ACLResourcePatternType(f.Pattern)
	req.Principal, req.Host, req.Operation, req.PermissionType = f.Principal, f.Host, kmsg.ACLOperation(f.Operation), kmsg.ACLPermissionType(f.Permission)
	resp, err := req.RequestWith(ctx, r)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return explained(err, message(resp.ErrorMessage))
	}
	for _, of := range resp.Resources {
		for _, a := range of.ACLs {
			if err := c.entry(auth.ACL{
				Type: auth.ResourceType(of.ResourceType), Pattern: auth.Pattern(of.ResourcePatternType), Name: of.ResourceName,
				Principal: auth.Principal(a.Principal), Host: a.Host, Operation: auth.Operation(a.Operation), Permission: auth.Permission(a.PermissionType),
			}, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *command) deleteACLs(ctx context.Context, r kmsg.Requestor, filters []auth.Filter) error {
	req := kmsg.NewPtrDeleteACLsRequest()
	for _, f := range filters {
		req.Filters = append(req.Filters, kmsg.DeleteACLsRequestFilter{
			ResourceType: kmsg.ACLResourceType(f.Type), ResourceName: f.Name, ResourcePatternType: kmsg.ACLResourcePatternType(f.Pattern),
			Principal: f.Principal, Host: f.Host, Operation: kmsg.ACLOperation(f.Operation), PermissionType: kmsg.ACLPermissionType(f.Permission),
		})
	}
	resp, err := req.RequestWith(ctx, r)
	if err != nil {
		return err
	}
	gone := 0
	for _, result := range resp.Results {
		for _, a := range result.MatchingACLs {
			gone++
			if err := c.entry(auth.ACL{
				Type: auth.ResourceType(a.ResourceType), Pattern: auth.Pattern(a.ResourcePatternType), Name: a.ResourceName,
				Principal: auth.Principal(a.Principal), Host: a.Host, Operation: auth.Operation(a.Operation), Permission: auth.Permission(a.PermissionType),
			}, "deleted "); err != nil {
				return err
			}
		}
		if err := kerr.ErrorForCode(result.ErrorCode); err != nil {
			bad := explained(err, message(result.ErrorMessage))
			if gone > 0 {
				return fail(exitPartial, "%d entries were deleted: %w", gone, bad)
			}
			return bad
		}
	}
	if gone == 0 {
		return fail(exitMissing, "there is no such entry")
	}
	return nil
}

// entry prints one.
func (c *command) entry(a auth.ACL, done string) error {
	operation := "?"
	for name, op := range aclOperations {
		if op == a.Operation {
			operation = name
		}
	}
	permission, pattern := "allow", "literal"
	if a.Permission == auth.Deny {
		permission = "deny"
	}
	name, resource := a.Name, aclTypes[a.Type]
	if filter, ok := strings.CutPrefix(name, auth.FilterMark); ok && a.Type == auth.Topic {
		name, resource = filter, "topic-filter"
	}
	if a.Pattern == auth.Prefixed {
		pattern, name = "prefixed", a.Name+"…"
	}
	return c.show(map[string]any{
		"permission": permission, "principal": a.Principal, "host": a.Host, "operation": operation,
		"resource": resource, "name": a.Name, "pattern": pattern,
	}, "%s%s %s from %s to %s %s %s\n", done, permission, a.Principal, a.Host, operation, resource, name)
}

func message(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// ask runs fn with a client for requests as they are.
func (e *endpoint) ask(ctx context.Context, fn func(context.Context, kmsg.Requestor) error) error {
	client, err := e.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return answered(fn(ctx, client))
}
