package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"highwire/controlplane/api/connection"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// foresight is a Planner that says what a test wants, and keeps what it was asked.
type foresight struct {
	set  forwarder.VWire
	anew bool
	err  error
}

func (f *foresight) PlanSet(_ context.Context, v forwarder.VWire, anew bool) (forwarder.Preview, error) {
	f.set, f.anew = v, anew
	up := vppapi.Up{Name: v.ID + ":client"}
	return forwarder.Preview{Steps: []forwarder.Step{{Action: forwarder.Create, Object: up, Messages: []string{"m"}}}, Again: true}, f.err
}

func (f *foresight) PlanResync(context.Context) (forwarder.Preview, error) {
	return forwarder.Preview{}, f.err
}

func (f *foresight) Compare(context.Context) ([]forwarder.Difference, int, error) {
	up := vppapi.Up{Name: "w-1:client"}
	return []forwarder.Difference{{VWire: "w-1", Key: up.Key(), Want: up}, {VWire: "w-2", Key: up.Key(), Have: up}}, 7, f.err
}

// observed is an Inspect of a node that has a vWire from another node's client, w-1, and one more.
func observed(f *foresight) *Inspect {
	path := &connection.Path{Index: 2, PathSegments: []*connection.PathSegment{{Name: "nsc"}, {Name: "far"}, {Name: "here"}, {Name: "nse"}}}
	reads := uint64(0)
	return &Inspect{
		Name: "here", AgentVersion: "v1", DataplaneVersion: func() string { return "25.10" }, SPIFFEID: func() string { return "spiffe://t/here" },
		Connections: func() []manager.Connection {
			return []manager.Connection{{
				Connection: &connection.Connection{Id: "w-1", Path: path, Mechanism: &connection.Mechanism{Type: "VXLAN"}}, Endpoint: &connection.Mechanism{Type: "KERNEL"},
			}}
		},
		VWires: func() []forwarder.Status {
			return []forwarder.Status{{VWire: forwarder.VWire{ID: "w-1"}, State: forwarder.Up}, {VWire: forwarder.VWire{ID: "w-2"}}}
		},
		Counters: func(context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) {
			reads += 10
			c := stats.Counters{RxPackets: reads, RxBytes: 100 * reads, Drops: reads}
			return map[string]forwarder.Counters{"w-1": {By: forwarder.ByVPP, Client: c}}, &stats.Snapshot{
				Interfaces: []stats.Interface{{}, {Counters: c}}, Pools: []stats.Pool{{Name: "p", Available: 1, Cached: 2, Used: 3}}, Errors: []stats.Error{{Node: "n", Name: "e", Count: 4}},
			}, nil
		},
		Interfaces: func(context.Context) ([]vppapi.InterfaceState, error) {
			return []vppapi.InterfaceState{{Index: 1, Name: "host-a", End: "w-1:client", Admin: true}, {Index: 9, Name: "other"}}, f.err
		},
		Events: forwarder.NewEvents(), Planner: f,
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	f := &foresight{}
	i := observed(f)
	ctx := t.Context()

	nodes, err := i.ListNodes(ctx, nil)
	want := []*highwirev1.Node{
		{Name: "here", SpiffeId: "spiffe://t/here", Self: true, Vwires: 1, Version: "v1", Dataplane: "25.10"},
		{Name: "far", Vwires: 1, Mechanisms: []string{"VXLAN"}},
	}
	if err != nil || len(nodes.Nodes) != 2 || !proto.Equal(nodes.Nodes[0], want[0]) || !proto.Equal(nodes.Nodes[1], want[1]) {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	interfaces, err := i.ListInterfaces(ctx, nil)
	if err != nil || interfaces.Interfaces[0].Vwire != "w-1" || interfaces.Interfaces[0].Side != "client" || interfaces.Interfaces[0].Counters.RxPackets == 0 || interfaces.Interfaces[1].Counters != nil {
		t.Errorf("interfaces %v, %v", interfaces, err)
	}
	dataplane, err := i.Dataplane(ctx, nil)
	if err != nil || dataplane.Pools[0].Used != 3 || dataplane.Errors[0].Count != 4 {
		t.Errorf("dataplane %v, %v", dataplane, err)
	}

	i.Events.Add(forwarder.Event{Kind: forwarder.Changed, VWire: "w-1", Err: errors.New("x"), Took: time.Second})
	d, err := i.DescribeVWire(ctx, &highwirev1.DescribeVWireRequest{Id: "w-1", RateOver: durationpb.New(time.Millisecond)})
	if err != nil || len(d.Differences) != 1 || d.Differences[0].Want == "" || len(d.Events) != 1 || d.Events[0].Error != "x" || d.ClientRate.GetRxPackets() <= 0 || d.Vwire.CountedBy != "vpp" {
		t.Errorf("description %v, %v", d, err)
	}
	if d, err := i.DescribeVWire(ctx, &highwirev1.DescribeVWireRequest{Id: "w-2"}); err != nil || d.ClientRate != nil || d.Vwire.CountedBy != "" {
		t.Errorf("description of what nobody counts %v, %v", d, err)
	}

	p, err := i.Plan(ctx, &highwirev1.PlanRequest{Of: &highwirev1.PlanRequest_Vwire{Vwire: "w-1"}, Anew: true})
	if err != nil || !p.Again || p.Steps[0].Action != "create" || p.Steps[0].Object.Name != "w-1:client" || f.set.ID != "w-1" || !f.anew {
		t.Errorf("plan %v, %v", p, err)
	}
	_, err = i.Plan(ctx, &highwirev1.PlanRequest{Of: &highwirev1.PlanRequest_Wanted{Wanted: &highwirev1.WantedVWire{
		Id: "new", Payload: "IP", Mtu: 9, Client: &highwirev1.WantedEnd{Mechanism: "KERNEL", Addresses: []string{"10.0.0.1/32"}}, Endpoint: &highwirev1.WantedEnd{Mechanism: "MEMIF", Parameters: map[string]string{"a": "b"}},
	}}})
	if c := f.set.Client; err != nil || c.Name() != "new:client" || c.Type != "KERNEL" || c.MTU != 9 || c.Payload != mechanisms.IP || len(c.Addresses) != 1 || f.set.Endpoint.Remote[0] != c.Addresses[0] || f.set.Endpoint.Params["a"] != "b" {
		t.Errorf("wanted %+v, %v", f.set, err)
	}
	for _, r := range []*highwirev1.PlanRequest{
		{Of: &highwirev1.PlanRequest_Vwire{Vwire: "w"}}, {Of: &highwirev1.PlanRequest_Wanted{Wanted: &highwirev1.WantedVWire{Client: &highwirev1.WantedEnd{Addresses: []string{"x"}}}}},
	} {
		if _, err := i.Plan(ctx, r); !fault.Is(err, fault.Invalid) {
			t.Errorf("plan %v: %v", r, err)
		}
	}
	diff, err := i.Diff(ctx, &highwirev1.DiffRequest{})
	if err != nil || diff.Compared != 7 || len(diff.Differences) != 2 || diff.Differences[1].Have == "" || diff.Differences[1].Want != "" {
		t.Errorf("diff %v, %v", diff, err)
	}

	// Without VPP a description is shown for what it is worth.
	f.err = fault.New(fault.Unavailable, "no VPP")
	if d, err := i.DescribeVWire(ctx, &highwirev1.DescribeVWireRequest{Id: "w-1"}); err != nil || !strings.Contains(d.NotCompared, "no VPP") {
		t.Errorf("description without VPP %v, %v", d, err)
	}
	for name, err := range map[string]error{
		"plan": second(i.Plan(ctx, &highwirev1.PlanRequest{})), "diff": second(i.Diff(ctx, &highwirev1.DiffRequest{})), "interfaces": second(i.ListInterfaces(ctx, nil)),
	} {
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s without VPP: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestRateOf(t *testing.T) {
	t.Parallel()
	before := &highwirev1.Counters{RxPackets: 10, RxBytes: 100, Drops: map[string]uint64{"drop": 1}}
	after := &highwirev1.Counters{RxPackets: 30, RxBytes: 500, TxPackets: 2, Drops: map[string]uint64{"drop": 2, "punt": 3}}
	if got, want := RateOf(before, after, 2*time.Second), (&highwirev1.Rate{RxPackets: 10, RxBytes: 200, TxPackets: 1, Drops: 2}); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// A new interface counts from zero.
	if got := RateOf(after, before, time.Second); got.RxPackets != 10 || got.Drops != 1 {
		t.Errorf("after a reset: %v", got)
	}
	if RateOf(before, nil, time.Second) != nil || RateOf(before, after, 0) != nil {
		t.Error("a rate of nothing")
	}
}
