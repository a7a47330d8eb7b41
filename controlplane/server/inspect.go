package server

import (
	"context"
	"maps"
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/connection"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// Inspect answers the inspection service from what the parts know. An agent without a dataplane leaves CLI, Counters,
// Interfaces and Planner out; all other fields are needed by the calls that use them.
type Inspect struct {
	highwirev1.UnimplementedInspectServer
	// Name is our segment in the path of connections.
	Name string
	// AgentVersion is ours; DataplaneVersion says which dataplane is in use, SPIFFEID who we are.
	AgentVersion     string
	DataplaneVersion func() string
	SPIFFEID         func() string
	Connections      func() []manager.Connection
	VWires           func() []forwarder.Status
	// Registry lists services and endpoints; registry.Store is one.
	Registry interface {
		Services(ctx context.Context) ([]*registryapi.NetworkService, error)
		Endpoints(ctx context.Context) ([]*registryapi.NetworkServiceEndpoint, error)
	}
	// CLI runs one line of VPP's debug CLI.
	CLI func(ctx context.Context, line string) (string, error)
	// Counters of all vWires by id, and of VPP; nil shows none.
	Counters func(ctx context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error)
	// Interfaces of VPP.
	Interfaces func(ctx context.Context) ([]vppapi.InterfaceState, error)
	Events     *forwarder.Events
	Planner    Planner
}

var errNoDataplane = fault.New(fault.Unavailable, "this agent is a manager only and has no dataplane; ask its forwarder's")

// ListVWires lists all vWires of the node by id.
func (i *Inspect) ListVWires(ctx context.Context, _ *highwirev1.ListVWiresRequest) (*highwirev1.ListVWiresResponse, error) {
	known := map[string]manager.Connection{}
	for _, c := range i.Connections() {
		known[c.Connection.Id] = c
	}
	// Without counters the rest is still worth seeing.
	counters, _, _ := i.counters(ctx)
	answer := &highwirev1.ListVWiresResponse{}
	for _, s := range i.VWires() {
		v := describe(s, known[s.VWire.ID])
		count(v, counters[s.VWire.ID])
		answer.Vwires = append(answer.Vwires, v)
	}
	return answer, nil
}

// GetVWire shows the vWire with that id, or the only one whose id begins so. None is fault.NotFound,
// several are fault.Invalid.
func (i *Inspect) GetVWire(ctx context.Context, r *highwirev1.GetVWireRequest) (*highwirev1.VWire, error) {
	s, err := i.find(r.Id)
	if err != nil {
		return nil, err
	}
	var known manager.Connection
	for _, c := range i.Connections() {
		if c.Connection.Id == s.VWire.ID {
			known = c
		}
	}
	counters, _, _ := i.counters(ctx)
	v := describe(s, known)
	count(v, counters[s.VWire.ID])
	return v, nil
}

// ListServices lists the registry's network services.
func (i *Inspect) ListServices(ctx context.Context, _ *highwirev1.ListServicesRequest) (*highwirev1.ListServicesResponse, error) {
	services, err := i.Registry.Services(ctx)
	return &highwirev1.ListServicesResponse{Services: services}, err
}

// ListEndpoints lists the registry's endpoints.
func (i *Inspect) ListEndpoints(ctx context.Context, _ *highwirev1.ListEndpointsRequest) (*highwirev1.ListEndpointsResponse, error) {
	endpoints, err := i.Registry.Endpoints(ctx)
	return &highwirev1.ListEndpointsResponse{Endpoints: endpoints}, err
}

// RunCLI runs a line of VPP's debug CLI and returns what it prints.
func (i *Inspect) RunCLI(ctx context.Context, r *highwirev1.RunCLIRequest) (*highwirev1.RunCLIResponse, error) {
	if i.CLI == nil {
		return nil, errNoDataplane
	}
	text, err := i.CLI(ctx, r.Line)
	return &highwirev1.RunCLIResponse{Text: text}, err
}

// Version says which agent this is.
func (i *Inspect) Version(context.Context, *highwirev1.VersionRequest) (*highwirev1.VersionResponse, error) {
	return &highwirev1.VersionResponse{Version: i.AgentVersion, Dataplane: i.DataplaneVersion(), SpiffeId: i.SPIFFEID()}, nil
}

// describe joins what the forwarder and the manager know of a vWire; c is zero when the manager does not know it (any more).
func describe(s forwarder.Status, c manager.Connection) *highwirev1.VWire {
	v := &highwirev1.VWire{
		Id: s.VWire.ID, Service: c.Connection.GetNetworkService(), State: string(s.State),
		Client: describeEnd(s.VWire.Client), Endpoint: describeEnd(s.VWire.Endpoint),
		Payload: string(s.VWire.Client.Payload), Mtu: s.VWire.Client.MTU, Path: describePath(c.Connection),
	}
	if c.Connection != nil {
		v.Client.Name, v.Endpoint.Name = c.Owner.Name, c.Connection.NetworkServiceEndpointName
		v.Created, v.Expires = timestamppb.New(c.Created), timestamppb.New(c.Expires)
		if v.State == string(forwarder.Up) && c.Down {
			v.State = "degraded"
		}
	}
	if s.Err != nil {
		v.Error = s.Err.Error()
	}
	v.Datapath = datapath(s)
	for _, o := range s.Objects {
		object := &highwirev1.Object{Kind: o.Key.Kind.String(), Name: o.Key.Name, Text: o.Text, Realized: o.Realized}
		if o.HasIndex {
			object.SwIfIndex = &o.SwIfIndex
		}
		v.Objects = append(v.Objects, object)
	}
	return v
}

func datapath(s forwarder.Status) string {
	switch {
	case len(s.Objects) == 0:
		return ""
	case s.Direct():
		return "direct"
	}
	return "vpp"
}

func describeEnd(e mechanisms.End) *highwirev1.End {
	out := &highwirev1.End{Mechanism: e.Type, Interface: e.Params[mechanisms.ParamName], Namespace: e.Params[mechanisms.ParamInode], Mac: e.MAC}
	switch e.Type {
	case mechanisms.Memif:
		out.Interface = strconv.Quote(e.Params[mechanisms.ParamSocket])
	case mechanisms.VXLAN, mechanisms.WireGuard:
		out.Tunnel = maps.Clone(e.Params)
	}
	for _, a := range e.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	for _, r := range e.Routes {
		out.Routes = append(out.Routes, describeRoute(r.Prefix, r.Via))
	}
	return out
}

func describeRoute(prefix netip.Prefix, via netip.Addr) string {
	if !via.IsValid() {
		return prefix.String()
	}
	return prefix.String() + " via " + via.String()
}

func describePath(c *connection.Connection) []*highwirev1.Segment {
	var out []*highwirev1.Segment
	for _, s := range c.GetPath().GetPathSegments() {
		// A token that cannot be read has no subject; the segment is shown without one.
		subject, _ := identity.Subject(s.Token)
		out = append(out, &highwirev1.Segment{Name: s.Name, Id: s.Id, SpiffeId: subject, Expires: s.Expires})
	}
	return out
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fault.New(fault.Invalid, "address: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}
