package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// packetOutputs are the values of -o for what a vWire's packets do.
var packetOutputs = []string{"table", "json", "yaml"}

// onVWire is a command about one vWire, whose work can take as long as its flags say.
func (a *adminFlag) onVWire(cmd *cobra.Command, id string, fn func(context.Context, highwirev1.PacketsClient) error) error {
	return a.connect(cmd.Context(), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		err := fn(ctx, highwirev1.NewPacketsClient(conn))
		if status.Code(err) == codes.NotFound {
			return withNearest(ctx, highwirev1.NewInspectClient(conn), id, err)
		}
		return err
	})
}

func newTrace() *cobra.Command {
	var admin adminFlag
	var count uint32
	var timeout time.Duration
	var output string
	cmd := &cobra.Command{
		Use:   "vwire ID",
		Short: "Show which way a vWire's packets go through VPP",
		Long: `Lets VPP's packet tracer record what enters it, and shows the packets that go by an interface of the vWire: each with the nodes
of VPP's graph that handled it, in order, and the interfaces they speak of. A packet that VPP drops says why.

VPP has one tracer: what others have recorded with it is cleared. Packets of a direct path do not come to VPP; see them with
'highwire pcap'. ID may be cut short where only one vWire begins so.`,
		Example: "  highwire trace vwire client-0\n  highwire trace vwire client-0 --count 100 --timeout 1m -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(packetOutputs, output):
				return usagef("-o %q: want %s", output, strings.Join(packetOutputs, ", "))
			case count == 0 || timeout <= 0:
				return usagef("--count and --timeout must be more than 0")
			}
			return admin.onVWire(cmd, args[0], func(ctx context.Context, c highwirev1.PacketsClient) error {
				stream, err := c.Trace(ctx, &highwirev1.TraceRequest{Id: args[0], Count: count, Timeout: durationpb.New(timeout)})
				if err != nil {
					return err
				}
				return showTraces(cmd.OutOrStdout(), cmd.ErrOrStderr(), output, timeout, stream)
			})
		},
		ValidArgsFunction: admin.completeVWires,
	}
	flags := cmd.Flags()
	admin.add(flags)
	flags.Uint32Var(&count, "count", 10, "packets to show at most")
	flags.DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for them")
	flags.StringVarP(&output, "output", "o", "table", strings.Join(packetOutputs, ", "))
	return group("trace", "Show which way packets go", cmd)
}

// showTraces writes packets as they come, or as one list in the end.
func showTraces(w, errs io.Writer, output string, timeout time.Duration, stream grpc.ServerStreamingClient[highwirev1.TracedPacket]) error {
	var all []*highwirev1.TracedPacket
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		all = append(all, p)
		if output == "table" {
			if err := showTrace(w, len(all), p); err != nil {
				return err
			}
		}
	}
	if output != "table" {
		return encode(w, output, all)
	}
	if len(all) == 0 {
		fmt.Fprintf(errs, "no packet of the vWire has come to VPP within %v\n", timeout)
	}
	return nil
}

// showTrace is a line about the packet and one for each node.
func showTrace(w io.Writer, number int, p *highwirev1.TracedPacket) error {
	way := fmt.Sprintf("%s > %s", orUnknown(p.GetFrom()), orUnknown(p.GetTo()))
	if p.GetDropped() != "" {
		way = fmt.Sprintf("%s, dropped: %s", orUnknown(p.GetFrom()), p.GetDropped())
	}
	fmt.Fprintf(w, "packet %d  %s\n", number, way)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, h := range p.GetHops() {
		at := h.GetInterface()
		if h.GetEnd() != "" {
			at = fmt.Sprintf("%s (%s)", at, h.GetEnd())
		}
		detail, _, _ := strings.Cut(h.GetDetail(), "\n")
		fmt.Fprintf(t, "  +%s\t%s\t%s\t%s\n", h.GetAfter().AsDuration(), h.GetNode(), at, detail)
	}
	return t.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "?"
	}
	return s
}
