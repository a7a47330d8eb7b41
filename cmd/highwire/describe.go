package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newDescribe() *cobra.Command {
	var admin adminFlag
	var output string
	vwire := &cobra.Command{
		Use:     "vwire ID",
		Short:   "Show a vWire: its ends, its path and what the dataplane holds for it",
		Long:    "Shows a vWire: its ends, its path and what the dataplane holds for it. ID may be cut short where only one vWire begins so.",
		Example: "  highwire describe vwire client-0\n  highwire describe vwire client-0 -o yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json", "yaml"}, output) {
				return usagef("-o %q: want text, json, yaml", output)
			}
			return admin.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
				v, err := c.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: args[0]})
				if status.Code(err) == codes.NotFound {
					return withNearest(ctx, c, args[0], err)
				}
				if err != nil {
					return err
				}
				if output != "text" {
					return encodeOne(cmd.OutOrStdout(), output, v)
				}
				return describe(cmd.OutOrStdout(), v)
			})
		},
		ValidArgsFunction: admin.completeVWires,
	}
	admin.add(vwire.Flags())
	vwire.Flags().StringVarP(&output, "output", "o", "text", "text, json, yaml")
	return group("describe", "Show one thing of an agent in full", vwire)
}

// completeVWires completes ids of vWires; without an agent there is nothing to complete.
func (a *adminFlag) completeVWires(cmd *cobra.Command, _ []string, _ string) (ids []string, _ cobra.ShellCompDirective) {
	_ = a.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
		r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
		for _, v := range r.GetVwires() {
			ids = append(ids, v.GetId())
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// withNearest adds the ids most like the one that was not found.
func withNearest(ctx context.Context, c highwirev1.InspectClient, id string, notFound error) error {
	r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
	if err != nil {
		return notFound
	}
	var ids []string
	for _, v := range r.GetVwires() {
		ids = append(ids, v.GetId())
	}
	if len(ids) == 0 {
		return status.Errorf(codes.NotFound, "no vWire %q; the agent has none at all", id)
	}
	slices.SortStableFunc(ids, func(a, b string) int { return distance(id, a) - distance(id, b) })
	return status.Errorf(codes.NotFound, "no vWire %q; nearest: %s", id, strings.Join(ids[:min(3, len(ids))], ", "))
}

// distance is Levenshtein's: the number of bytes to insert, delete or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// describe writes a vWire for people.
func describe(w io.Writer, v *highwirev1.VWire) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(indent int, name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s%s:\t%s\n", strings.Repeat("  ", indent), name, value)
		}
	}
	line(0, "vWire", v.GetId())
	line(0, "Service", v.GetService())
	line(0, "State", v.GetState())
	line(0, "Error", v.GetError())
	line(0, "Datapath", map[string]string{"vpp": "through VPP", "direct": "direct, without VPP"}[v.GetDatapath()])
	line(0, "Payload", v.GetPayload())
	if v.GetMtu() != 0 {
		line(0, "MTU", fmt.Sprint(v.GetMtu()))
	}
	if v.GetCreated() != nil {
		line(0, "Age", age(v.GetCreated()))
	}
	if v.GetExpires() != nil {
		line(0, "Expires", "in "+short(time.Until(v.GetExpires().AsTime())))
	}
	for _, end := range []struct {
		title string
		*highwirev1.End
	}{{"Client", v.GetClient()}, {"Endpoint", v.GetEndpoint()}} {
		fmt.Fprintf(t, "%s:\t%s\n", end.title, end.GetName())
		line(1, "Mechanism", end.GetMechanism())
		line(1, "Interface", end.GetInterface())
		line(1, "MAC", end.GetMac())
		for _, key := range slices.Sorted(maps.Keys(end.GetTunnel())) {
			line(1, key, end.GetTunnel()[key])
		}
		line(1, "Namespace", end.GetNamespace())
		line(1, "Addresses", strings.Join(end.GetAddresses(), ", "))
		line(1, "Routes", strings.Join(end.GetRoutes(), ", "))
	}
	fmt.Fprintln(t, "Path:")
	for i, s := range v.GetPath() {
		line(1, fmt.Sprintf("%d %s", i, s.GetName()), strings.TrimSpace(s.GetId()+"  "+s.GetSpiffeId()))
	}
	fmt.Fprintln(t, "Dataplane:")
	for _, o := range v.GetObjects() {
		text := o.GetText()
		if o.SwIfIndex != nil {
			text += fmt.Sprintf("  (sw_if_index %d)", o.GetSwIfIndex())
		}
		if !o.GetRealized() {
			text += "  MISSING"
		}
		line(1, o.GetKind()+" "+o.GetName(), text)
	}
	if len(v.GetCounters()) > 0 {
		fmt.Fprintln(t, "Counters:")
		for _, name := range slices.Sorted(maps.Keys(v.GetCounters())) {
			line(1, name, fmt.Sprint(v.GetCounters()[name]))
		}
	}
	return t.Flush()
}
