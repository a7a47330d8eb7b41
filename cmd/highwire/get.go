package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
	"highwire/mechanisms"
)

func newGet() *cobra.Command {
	return group("get", "List the vWires, services, endpoints, interfaces or nodes that an agent knows",
		listing[*highwirev1.VWire]{name: "vwires", what: "the vWires of the node", columns: vwireColumns,
			list: func(ctx context.Context, c highwirev1.InspectClient) ([]*highwirev1.VWire, error) {
				r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
				return r.GetVwires(), err
			}}.command(),
		listing[*registryapi.NetworkService]{name: "services", what: "the network services", columns: serviceColumns,
			list: func(ctx context.Context, c highwirev1.InspectClient) ([]*registryapi.NetworkService, error) {
				r, err := c.ListServices(ctx, &highwirev1.ListServicesRequest{})
				return r.GetServices(), err
			}}.command(),
		listing[*registryapi.NetworkServiceEndpoint]{name: "endpoints", what: "the endpoints", columns: endpointColumns,
			list: func(ctx context.Context, c highwirev1.InspectClient) ([]*registryapi.NetworkServiceEndpoint, error) {
				r, err := c.ListEndpoints(ctx, &highwirev1.ListEndpointsRequest{})
				return r.GetEndpoints(), err
			}}.command(),
		listing[*highwirev1.Interface]{name: "interfaces", what: "VPP's interfaces, of vWires or not", columns: interfaceColumns,
			list: func(ctx context.Context, c highwirev1.InspectClient) ([]*highwirev1.Interface, error) {
				r, err := c.ListInterfaces(ctx, &highwirev1.ListInterfacesRequest{})
				return r.GetInterfaces(), err
			}}.command(),
		listing[*highwirev1.Node]{name: "nodes", what: "this node and those that its vWires reach", columns: nodeColumns,
			list: func(ctx context.Context, c highwirev1.InspectClient) ([]*highwirev1.Node, error) {
				r, err := c.ListNodes(ctx, &highwirev1.ListNodesRequest{})
				return r.GetNodes(), err
			}}.command(),
		newGetDevices(),
	)
}

var vwireColumns = []column[*highwirev1.VWire]{
	{title: "ID", cell: (*highwirev1.VWire).GetId},
	{title: "SERVICE", cell: (*highwirev1.VWire).GetService},
	{title: "STATE", cell: stateCell},
	{title: "CLIENT", cell: func(v *highwirev1.VWire) string { return endCell(v.GetClient()) }},
	{title: "ENDPOINT", cell: func(v *highwirev1.VWire) string { return endCell(v.GetEndpoint()) }},
	{title: "PAYLOAD", cell: (*highwirev1.VWire).GetPayload},
	{title: "FROM CLIENT", wide: true, cell: func(v *highwirev1.VWire) string { return flowCell(v, v.GetClient().GetCounters()) }},
	{title: "FROM ENDPOINT", wide: true, cell: func(v *highwirev1.VWire) string { return flowCell(v, v.GetEndpoint().GetCounters()) }},
	{title: "DROPS", wide: true, cell: func(v *highwirev1.VWire) string {
		if v.GetCountedBy() == "" {
			return ""
		}
		return dropsCell(v.GetClient().GetCounters(), v.GetEndpoint().GetCounters())
	}},
	{title: "AGE", cell: func(v *highwirev1.VWire) string { return age(v.GetCreated()) }},
	{title: "ERROR", wide: true, cell: (*highwirev1.VWire).GetError},
}

var serviceColumns = []column[*registryapi.NetworkService]{
	{title: "NAME", cell: (*registryapi.NetworkService).GetName},
	{title: "PAYLOAD", cell: (*registryapi.NetworkService).GetPayload},
	{title: "MATCHES", cell: func(s *registryapi.NetworkService) string { return fmt.Sprint(len(s.GetMatches())) }},
}

var endpointColumns = []column[*registryapi.NetworkServiceEndpoint]{
	{title: "NAME", cell: (*registryapi.NetworkServiceEndpoint).GetName},
	{title: "SERVICES", cell: func(e *registryapi.NetworkServiceEndpoint) string {
		return strings.Join(e.GetNetworkServiceNames(), ",")
	}},
	{title: "LABELS", cell: labelsCell},
	{title: "URL", cell: (*registryapi.NetworkServiceEndpoint).GetUrl},
	{title: "EXPIRES", cell: func(e *registryapi.NetworkServiceEndpoint) string { return expiresCell(e.GetExpirationTime()) }},
}

var interfaceColumns = []column[*highwirev1.Interface]{
	{title: "INDEX", cell: func(i *highwirev1.Interface) string { return fmt.Sprint(i.GetSwIfIndex()) }},
	{title: "NAME", cell: (*highwirev1.Interface).GetName},
	{title: "TYPE", cell: (*highwirev1.Interface).GetType},
	{title: "STATE", cell: func(i *highwirev1.Interface) string {
		switch {
		case i.GetAdmin() && i.GetLink():
			return "up"
		case i.GetAdmin():
			return "no link"
		}
		return "down"
	}},
	{title: "VWIRE", cell: (*highwirev1.Interface).GetVwire},
	{title: "SIDE", cell: (*highwirev1.Interface).GetSide},
	{title: "RX", cell: func(i *highwirev1.Interface) string {
		return packetsCell(i.GetCounters(), (*highwirev1.Counters).GetRxPackets)
	}},
	{title: "TX", cell: func(i *highwirev1.Interface) string {
		return packetsCell(i.GetCounters(), (*highwirev1.Counters).GetTxPackets)
	}},
	{title: "DROPS", cell: func(i *highwirev1.Interface) string { return dropsCell(i.GetCounters()) }},
	{title: "MTU", wide: true, cell: func(i *highwirev1.Interface) string { return fmt.Sprint(i.GetMtu()) }},
	{title: "MAC", wide: true, cell: (*highwirev1.Interface).GetMac},
	{title: "RX BYTES", wide: true, cell: func(i *highwirev1.Interface) string {
		return packetsCell(i.GetCounters(), (*highwirev1.Counters).GetRxBytes)
	}},
	{title: "TX BYTES", wide: true, cell: func(i *highwirev1.Interface) string {
		return packetsCell(i.GetCounters(), (*highwirev1.Counters).GetTxBytes)
	}},
}

var nodeColumns = []column[*highwirev1.Node]{
	{title: "NAME", cell: func(n *highwirev1.Node) string {
		if n.GetSelf() {
			return n.GetName() + " (this)"
		}
		return n.GetName()
	}},
	{title: "VWIRES", cell: func(n *highwirev1.Node) string { return fmt.Sprint(n.GetVwires()) }},
	{title: "BY", cell: func(n *highwirev1.Node) string { return strings.ToLower(strings.Join(n.GetMechanisms(), ",")) }},
	{title: "IDENTITY", cell: (*highwirev1.Node).GetSpiffeId},
	{title: "VERSION", wide: true, cell: (*highwirev1.Node).GetVersion},
	{title: "DATAPLANE", wide: true, cell: (*highwirev1.Node).GetDataplane},
}

func stateCell(v *highwirev1.VWire) string {
	if v.GetDatapath() == "direct" {
		return v.GetState() + " (direct)"
	}
	return v.GetState()
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

// flowCell is what an end has sent.
func flowCell(v *highwirev1.VWire, c *highwirev1.Counters) string {
	if c == nil {
		if v.GetDatapath() == "direct" {
			return "not counted (peers' memory)"
		}
		return ""
	}
	cell := fmt.Sprintf("%d packets, %s", c.GetRxPackets(), bytesText(float64(c.GetRxBytes())))
	if v.GetCountedBy() == "kernel" {
		cell += " (direct)"
	}
	return cell
}

func packetsCell(c *highwirev1.Counters, get func(*highwirev1.Counters) uint64) string {
	if c == nil {
		return ""
	}
	return fmt.Sprint(get(c))
}

// dropsCell are lost packets by reason, 0 for none.
func dropsCell(list ...*highwirev1.Counters) string {
	sum := map[string]uint64{}
	known := false
	for _, c := range list {
		known = known || c != nil
		for reason, n := range c.GetDrops() {
			sum[reason] += n
		}
	}
	var cells []string
	for _, reason := range slices.Sorted(maps.Keys(sum)) {
		cells = append(cells, fmt.Sprintf("%s %d", reason, sum[reason]))
	}
	if len(cells) == 0 && known {
		return "0"
	}
	return strings.Join(cells, ", ")
}

// bytesText is a number of bytes in a unit that suits it.
func bytesText(n float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	u := 0
	for ; n >= 1000 && u < len(units)-1; u++ {
		n /= 1000
	}
	if u == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[u])
}

func labelsCell(e *registryapi.NetworkServiceEndpoint) string {
	var labels []string
	for service, of := range e.GetNetworkServiceLabels() {
		for key, value := range of.GetLabels() {
			labels = append(labels, service+":"+key+"="+value)
		}
	}
	slices.Sort(labels)
	return strings.Join(labels, ",")
}

func expiresCell(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return "in " + short(time.Until(t.AsTime()))
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
