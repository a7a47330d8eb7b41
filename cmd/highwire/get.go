package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
	"highwire/mechanisms"
)

func newGet() *cobra.Command {
	return group("get", "List the vWires, services or endpoints that an agent knows",
		newList("vwires", "the vWires of the node", "ID\tSERVICE\tSTATE\tCLIENT\tENDPOINT\tPAYLOAD\tAGE", vwireRow,
			func(ctx context.Context, c highwirev1.InspectClient) ([]*highwirev1.VWire, error) {
				r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
				return r.GetVwires(), err
			}),
		newList("services", "the network services", "NAME\tPAYLOAD\tMATCHES", serviceRow,
			func(ctx context.Context, c highwirev1.InspectClient) ([]*registryapi.NetworkService, error) {
				r, err := c.ListServices(ctx, &highwirev1.ListServicesRequest{})
				return r.GetServices(), err
			}),
		newList("endpoints", "the endpoints", "NAME\tSERVICES\tLABELS\tURL\tEXPIRES", endpointRow,
			func(ctx context.Context, c highwirev1.InspectClient) ([]*registryapi.NetworkServiceEndpoint, error) {
				r, err := c.ListEndpoints(ctx, &highwirev1.ListEndpointsRequest{})
				return r.GetEndpoints(), err
			}),
		newGetDevices(),
	)
}

// newList is "get NAME": list asks the agent, row renders one answer under the header.
func newList[T proto.Message](name, what, header string, row func(T) string,
	list func(context.Context, highwirev1.InspectClient) ([]T, error),
) *cobra.Command {
	return newListOf(name, what, header, row, func(ctx context.Context, conn grpc.ClientConnInterface) ([]T, error) {
		return list(ctx, highwirev1.NewInspectClient(conn))
	})
}

// newListOf is newList for any service of the admin socket.
func newListOf[T proto.Message](name, what, header string, row func(T) string,
	list func(context.Context, grpc.ClientConnInterface) ([]T, error),
) *cobra.Command {
	var admin adminFlag
	var output string
	cmd := &cobra.Command{
		Use:     name,
		Short:   "List " + what,
		Example: fmt.Sprintf("  highwire get %s\n  highwire get %s -o json", name, name),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(outputs, output) {
				return usagef("-o %q: want %s", output, strings.Join(outputs, ", "))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), inspectWithin)
			defer cancel()
			return admin.connect(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
				items, err := list(ctx, conn)
				if err != nil {
					return err
				}
				if output != "table" {
					return encode(cmd.OutOrStdout(), output, items)
				}
				return table(cmd.OutOrStdout(), header, items, row)
			})
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "table", strings.Join(outputs, ", "))
	return cmd
}

func table[T any](w io.Writer, header string, items []T, row func(T) string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, header)
	for _, item := range items {
		fmt.Fprintln(t, row(item))
	}
	return t.Flush()
}

func vwireRow(v *highwirev1.VWire) string {
	state := v.GetState()
	if v.GetDatapath() == "direct" {
		state += " (direct)"
	}
	return strings.Join([]string{v.GetId(), v.GetService(), state, endCell(v.GetClient()), endCell(v.GetEndpoint()),
		v.GetPayload(), age(v.GetCreated())}, "\t")
}

// endCell is an end in one table cell: who, by which mechanism, where. The long name of a memif's socket is left to describe.
// A tunnel is between the node that asked and the one that answered.
func endCell(e *highwirev1.End) string {
	where := e.GetInterface()
	switch {
	case e.GetMechanism() == mechanisms.Memif:
		where = ""
	case len(e.GetTunnel()) > 0:
		where = e.GetTunnel()[mechanisms.ParamSrcIP] + ">" + e.GetTunnel()[mechanisms.ParamDstIP]
	}
	words := slices.Concat([]string{e.GetName(), strings.ToLower(e.GetMechanism()), where}, e.GetAddresses())
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}

func serviceRow(s *registryapi.NetworkService) string {
	return fmt.Sprintf("%s\t%s\t%d", s.GetName(), s.GetPayload(), len(s.GetMatches()))
}

func endpointRow(e *registryapi.NetworkServiceEndpoint) string {
	var labels []string
	for service, of := range e.GetNetworkServiceLabels() {
		for key, value := range of.GetLabels() {
			labels = append(labels, service+":"+key+"="+value)
		}
	}
	slices.Sort(labels)
	expires := "never"
	if e.GetExpirationTime() != nil {
		expires = "in " + short(time.Until(e.GetExpirationTime().AsTime()))
	}
	return strings.Join([]string{e.GetName(), strings.Join(e.GetNetworkServiceNames(), ","), strings.Join(labels, ","), e.GetUrl(), expires}, "\t")
}

// age is how long ago t was.
func age(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return short(time.Since(t.AsTime()))
}

// short is a duration in its largest unit or two: 12s, 3m, 4h, 9d.
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
