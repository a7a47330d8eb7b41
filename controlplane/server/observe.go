package server

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// count puts counters into what is shown; without any nothing is.
func count(v *highwirev1.VWire, c forwarder.Counters) {
	if c.By == forwarder.ByNobody {
		return
	}
	v.CountedBy = string(c.By)
	v.Client.Counters, v.Endpoint.Counters = describeCounters(c.Client), describeCounters(c.Endpoint)
}

func describeCounters(c stats.Counters) *highwirev1.Counters {
	out := &highwirev1.Counters{RxPackets: c.RxPackets, RxBytes: c.RxBytes, TxPackets: c.TxPackets, TxBytes: c.TxBytes}
	for _, l := range c.Losses() {
		if l.Count > 0 {
			if out.Drops == nil {
				out.Drops = map[string]uint64{}
			}
			out.Drops[l.Reason] = l.Count
		}
	}
	return out
}

// ListInterfaces lists all interfaces of VPP.
func (i *Inspect) ListInterfaces(ctx context.Context, _ *highwirev1.ListInterfacesRequest) (*highwirev1.ListInterfacesResponse, error) {
	if i.Interfaces == nil {
		return nil, errNoDataplane
	}
	list, err := i.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	// Without counters the rest is still worth seeing.
	_, snapshot, _ := i.counters(ctx)
	answer := &highwirev1.ListInterfacesResponse{}
	for _, s := range list {
		out := &highwirev1.Interface{
			SwIfIndex: s.Index, Name: s.Name, Type: s.Type, Admin: s.Admin, Link: s.Link, Mtu: s.MTU, Mac: s.MAC.String(),
		}
		out.Vwire, out.Side, _ = strings.Cut(s.End, ":")
		if snapshot != nil && int(s.Index) < len(snapshot.Interfaces) {
			out.Counters = describeCounters(snapshot.Interfaces[s.Index].Counters)
		}
		answer.Interfaces = append(answer.Interfaces, out)
	}
	return answer, nil
}

func (i *Inspect) counters(ctx context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) {
	if i.Counters == nil {
		return nil, nil, nil
	}
	return i.Counters(ctx)
}

// Dataplane tells how VPP fares: buffers, vector rate, errors.
func (i *Inspect) Dataplane(ctx context.Context, _ *highwirev1.DataplaneRequest) (*highwirev1.DataplaneResponse, error) {
	_, s, err := i.counters(ctx)
	if err != nil {
		return nil, err
	}
	answer := &highwirev1.DataplaneResponse{VectorRate: s.VectorRate}
	for _, p := range s.Pools {
		answer.Pools = append(answer.Pools, &highwirev1.BufferPool{Name: p.Name, Available: p.Available, Cached: p.Cached, Used: p.Used})
	}
	for _, e := range s.Errors {
		answer.Errors = append(answer.Errors, &highwirev1.ErrorCounter{Node: e.Node, Name: e.Name, Count: e.Count})
	}
	return answer, nil
}

// ListNodes lists this node and those that its vWires lead to or come from: hops beside ours that are neither the client nor
// the endpoint.
func (i *Inspect) ListNodes(context.Context, *highwirev1.ListNodesRequest) (*highwirev1.ListNodesResponse, error) {
	self := &highwirev1.Node{Name: i.Name, SpiffeId: i.SPIFFEID(), Self: true, Version: i.AgentVersion, Dataplane: i.DataplaneVersion()}
	others := map[string]*highwirev1.Node{}
	for _, c := range i.Connections() {
		self.Vwires++
		path, own := describePath(c.Connection), int(c.Connection.GetPath().GetIndex())
		for at, mechanism := range map[int]string{own - 1: c.Connection.GetMechanism().GetType(), own + 1: c.Endpoint.GetType()} {
			if at <= 0 || at >= len(path)-1 {
				continue
			}
			n := others[path[at].Name]
			if n == nil {
				n = &highwirev1.Node{Name: path[at].Name, SpiffeId: path[at].SpiffeId}
				others[n.Name] = n
			}
			n.Vwires++
			if !slices.Contains(n.Mechanisms, mechanism) {
				n.Mechanisms = append(n.Mechanisms, mechanism)
				slices.Sort(n.Mechanisms)
			}
		}
	}
	answer := &highwirev1.ListNodesResponse{Nodes: []*highwirev1.Node{self}}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		answer.Nodes = append(answer.Nodes, others[name])
	}
	return answer, nil
}

// WatchEvents tells what has happened, and with Follow what happens until the client goes.
func (i *Inspect) WatchEvents(r *highwirev1.WatchEventsRequest, stream grpc.ServerStreamingServer[highwirev1.Event]) error {
	ctx := stream.Context()
	id := r.Vwire
	if id != "" {
		// One that is gone has events still.
		if v, err := i.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: id}); err == nil {
			id = v.Id
		} else if known, _ := i.Events.Since(0, id); len(known) == 0 {
			return err
		}
	}
	after := r.After
	if r.New {
		after = i.Events.Last()
	}
	send := func(e forwarder.Event) error { return stream.Send(describeEvent(e)) }
	if r.Follow {
		if err := i.Events.Follow(ctx, after, id, send); ctx.Err() == nil {
			return err
		}
		return nil
	}
	list, _ := i.Events.Since(after, id)
	for _, e := range list {
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

func describeEvent(e forwarder.Event) *highwirev1.Event {
	out := &highwirev1.Event{Seq: e.Seq, Time: timestamppb.New(e.Time), Kind: string(e.Kind), Vwire: e.VWire, Text: e.Text, Steps: e.Steps}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	if e.Took > 0 {
		out.Took = durationpb.New(e.Took)
	}
	return out
}

// Planner foresees what the forwarder would do; forwarder.Reconciler is one.
type Planner interface {
	PlanSet(ctx context.Context, v forwarder.VWire, anew bool) (forwarder.Preview, error)
	PlanResync(ctx context.Context) (forwarder.Preview, error)
	Compare(ctx context.Context) ([]forwarder.Difference, int, error)
}

// Plan tells what would be sent to VPP, and sends nothing.
func (i *Inspect) Plan(ctx context.Context, r *highwirev1.PlanRequest) (*highwirev1.PlanResponse, error) {
	if i.Planner == nil {
		return nil, errNoDataplane
	}
	var p forwarder.Preview
	var err error
	switch of := r.Of.(type) {
	case *highwirev1.PlanRequest_Vwire:
		v, err := i.find(of.Vwire)
		if err != nil {
			return nil, err
		}
		p, err = i.Planner.PlanSet(ctx, v.VWire, r.Anew)
		if err != nil {
			return nil, err
		}
	case *highwirev1.PlanRequest_Wanted:
		v, err := wanted(of.Wanted)
		if err != nil {
			return nil, err
		}
		if p, err = i.Planner.PlanSet(ctx, v, r.Anew); err != nil {
			return nil, err
		}
	default:
		if p, err = i.Planner.PlanResync(ctx); err != nil {
			return nil, err
		}
	}
	answer := &highwirev1.PlanResponse{Again: p.Again}
	for _, s := range p.Steps {
		answer.Steps = append(answer.Steps, &highwirev1.Step{
			Action: string(s.Action), Messages: s.Messages,
			Object: &highwirev1.Object{Kind: s.Object.Key().Kind.String(), Name: s.Object.Key().Name, Text: s.Object.String(), Realized: s.Action != forwarder.Create},
		})
	}
	return answer, nil
}

// wanted makes a vWire of one that is only thought of.
func wanted(w *highwirev1.WantedVWire) (forwarder.VWire, error) {
	end := func(side mechanisms.Side, e, far *highwirev1.WantedEnd) (mechanisms.End, error) {
		out := mechanisms.End{
			VWire: w.GetId(), Side: side, Type: e.GetMechanism(), Params: e.GetParameters(), Payload: mechanisms.Payload(w.GetPayload()), MTU: w.GetMtu(),
		}
		var err error
		if out.Addresses, err = prefixes(e.GetAddresses()); err == nil {
			out.Remote, err = prefixes(far.GetAddresses())
		}
		return out, err
	}
	v := forwarder.VWire{ID: w.GetId()}
	var err error
	if v.Client, err = end(mechanisms.Client, w.GetClient(), w.GetEndpoint()); err != nil {
		return v, err
	}
	v.Endpoint, err = end(mechanisms.Endpoint, w.GetEndpoint(), w.GetClient())
	return v, err
}

// Diff compares what is wanted with what VPP and the kernel hold now.
func (i *Inspect) Diff(ctx context.Context, r *highwirev1.DiffRequest) (*highwirev1.DiffResponse, error) {
	only := ""
	if r.Vwire != "" {
		s, err := i.find(r.Vwire)
		if err != nil {
			return nil, err
		}
		only = s.VWire.ID
	}
	if i.Planner == nil {
		return nil, errNoDataplane
	}
	list, compared, err := i.Planner.Compare(ctx)
	if err != nil {
		return nil, err
	}
	text := func(o vppapi.Object) string {
		if o == nil {
			return ""
		}
		return o.String()
	}
	answer := &highwirev1.DiffResponse{Compared: uint32(compared)}
	for _, d := range list {
		if only == "" || d.VWire == only {
			answer.Differences = append(answer.Differences, &highwirev1.Difference{
				Vwire: d.VWire, Kind: d.Key.Kind.String(), Name: d.Key.Name, Want: text(d.Want), Have: text(d.Have),
			})
		}
	}
	return answer, nil
}

// find is the vWire with that id, or the only one whose id begins so. None is fault.NotFound, several are fault.Invalid.
func (i *Inspect) find(id string) (forwarder.Status, error) {
	var found []forwarder.Status
	for _, s := range i.VWires() {
		switch {
		case s.VWire.ID == id:
			return s, nil
		case strings.HasPrefix(s.VWire.ID, id):
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return forwarder.Status{}, fault.New(fault.Invalid, "%q is the beginning of several ids, among them %s and %s", id, found[0].VWire.ID, found[1].VWire.ID)
	}
	return forwarder.Status{}, fault.New(fault.NotFound, "there is no vWire %q on this node", id)
}
