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
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newDescribe() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var watch watchFlag
	var over time.Duration
	vwire := &cobra.Command{
		Use:   "vwire ID",
		Short: "Show a vWire: its ends, path, dataplane, counters, differences and last events",
		Long: `Shows all that the agent knows of a vWire: its ends and the path of its request with everybody's identity, what the
dataplane holds for it and what of that is not as wanted, its counters and how fast they grow, and what happened to it last. ID may
be cut short where only one vWire begins so. -o wide also shows the steps of plans that were carried out.`,
		Example:           "  highwire describe vwire client-0\n  highwire describe vwire client-0 --rate 5s\n  highwire describe vwire client-0 -o yaml",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: admin.completeVWires,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			return watch.run(cmd, func(ctx context.Context, w io.Writer) error {
				return admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) error {
					d, err := c.DescribeVWire(ctx, &highwirev1.DescribeVWireRequest{Id: args[0], RateOver: durationpb.New(over)})
					if status.Code(err) == codes.NotFound {
						return withNearest(ctx, c, args[0], err)
					}
					if err != nil {
						return err
					}
					if !output.table() {
						return encodeOne(w, output.format, d)
					}
					return describe(w, d, output.wide())
				})
			})
		},
	}
	admin.add(vwire.Flags())
	output.add(vwire.Flags())
	watch.add(vwire)
	vwire.Flags().DurationVar(&over, "rate", 500*time.Millisecond, "over which time to measure rates, at most 10s; 0 for no rates")
	return group("describe", "Show one thing of an agent in full", vwire)
}

// completeVWires completes ids of vWires; without an agent there is nothing to complete.
func (a *adminFlag) completeVWires(cmd *cobra.Command, args []string, _ string) (ids []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if fromEnvironment(cmd) != nil { // flags are not looked at before a completion
		return nil, cobra.ShellCompDirectiveError
	}
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

// sheet writes indented "name: value" lines in two columns.
type sheet struct{ *tabwriter.Writer }

func newSheet(w io.Writer) sheet { return sheet{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

// line writes nothing for an empty value.
func (s sheet) line(indent int, name, value string) {
	if value != "" {
		fmt.Fprintf(s, "%s%s:\t%s\n", strings.Repeat("  ", indent), name, value)
	}
}

// describe writes a vWire for people.
func describe(w io.Writer, d *highwirev1.Description, wide bool) error {
	v, s := d.GetVwire(), newSheet(w)
	s.line(0, "vWire", v.GetId())
	s.line(0, "Service", v.GetService())
	s.line(0, "State", v.GetState())
	s.line(0, "Error", v.GetError())
	s.line(0, "Datapath", map[string]string{"vpp": "through VPP", "direct": "direct, without VPP"}[v.GetDatapath()])
	s.line(0, "Payload", v.GetPayload())
	if v.GetMtu() != 0 {
		s.line(0, "MTU", fmt.Sprint(v.GetMtu()))
	}
	if v.GetCreated() != nil {
		s.line(0, "Age", age(v.GetCreated()))
	}
	if v.GetExpires() != nil {
		s.line(0, "Expires", expiresCell(v.GetExpires()))
	}
	for _, end := range []struct {
		title string
		*highwirev1.End
	}{{"Client", v.GetClient()}, {"Endpoint", v.GetEndpoint()}} {
		fmt.Fprintf(s, "%s:\t%s\n", end.title, end.GetName())
		s.line(1, "Mechanism", end.GetMechanism())
		s.line(1, "Interface", end.GetInterface())
		s.line(1, "MAC", end.GetMac())
		for _, key := range slices.Sorted(maps.Keys(end.GetTunnel())) {
			s.line(1, key, end.GetTunnel()[key])
		}
		s.line(1, "Namespace", end.GetNamespace())
		s.line(1, "Addresses", strings.Join(end.GetAddresses(), ", "))
		s.line(1, "Routes", strings.Join(end.GetRoutes(), ", "))
	}
	fmt.Fprintln(s, "Path:")
	for i, hop := range v.GetPath() {
		value := strings.TrimSpace(hop.GetId() + "  " + hop.GetSpiffeId())
		if hop.GetExpires() != nil {
			value += "  expires " + expiresCell(hop.GetExpires())
		}
		s.line(1, fmt.Sprintf("%d %s", i, hop.GetName()), value)
	}
	describeObjects(s, d)
	describeCounters(s, d)
	if len(d.GetEvents()) > 0 {
		fmt.Fprintln(s, "Events:")
		for _, e := range d.GetEvents() {
			s.line(1, e.GetTime().AsTime().Local().Format(time.TimeOnly), eventText(e))
			if wide {
				for _, step := range e.GetSteps() {
					fmt.Fprintf(s, "    %s\n", step)
				}
			}
		}
	}
	return s.Flush()
}

func describeObjects(s sheet, d *highwirev1.Description) {
	fmt.Fprintln(s, "Dataplane:")
	for _, o := range d.GetVwire().GetObjects() {
		text := o.GetText()
		if o.SwIfIndex != nil {
			text += fmt.Sprintf("  (sw_if_index %d)", o.GetSwIfIndex())
		}
		if !o.GetRealized() {
			text += "  MISSING"
		}
		s.line(1, o.GetKind()+" "+o.GetName(), text)
	}
	switch {
	case d.GetNotCompared() != "":
		s.line(0, "Differences", "unknown: "+d.GetNotCompared())
	case len(d.GetDifferences()) == 0:
		s.line(0, "Differences", "none: VPP holds what is wanted")
	default:
		fmt.Fprintln(s, "Differences:")
		for _, x := range d.GetDifferences() {
			s.line(1, x.GetKind()+" "+x.GetName(), differenceText(x))
		}
	}
}

func describeCounters(s sheet, d *highwirev1.Description) {
	v := d.GetVwire()
	switch {
	case v.GetCountedBy() == "" && v.GetDatapath() == "direct":
		s.line(0, "Counters", "none: packets pass through memory of the peers, which nobody else can count")
		return
	case v.GetCountedBy() == "":
		return
	}
	fmt.Fprintf(s, "Counters:\tof %s\n", map[string]string{"vpp": "VPP", "kernel": "the kernel (direct)"}[v.GetCountedBy()])
	for _, end := range []struct {
		name     string
		counters *highwirev1.Counters
		rate     *highwirev1.Rate
	}{{"client", v.GetClient().GetCounters(), d.GetClientRate()}, {"endpoint", v.GetEndpoint().GetCounters(), d.GetEndpointRate()}} {
		c, r := end.counters, end.rate
		s.line(1, "from "+end.name, fmt.Sprintf("%d packets, %s%s", c.GetRxPackets(), bytesText(float64(c.GetRxBytes())), rateText(r, r.GetRxPackets(), r.GetRxBytes())))
		s.line(1, "to "+end.name, fmt.Sprintf("%d packets, %s%s", c.GetTxPackets(), bytesText(float64(c.GetTxBytes())), rateText(r, r.GetTxPackets(), r.GetTxBytes())))
		if drops := dropsCell(c); drops != "0" {
			s.line(1, "lost at "+end.name, drops)
		}
	}
}

func rateText(r *highwirev1.Rate, packets, bytes float64) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("  (%.0f packets/s, %s)", packets, bitsText(bytes*8))
}

// bitsText is a rate in bits a second in a unit that suits it.
func bitsText(n float64) string {
	units := []string{"b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"}
	u := 0
	for ; n >= 1000 && u < len(units)-1; u++ {
		n /= 1000
	}
	if u == 0 {
		return fmt.Sprintf("%.0f b/s", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[u])
}
