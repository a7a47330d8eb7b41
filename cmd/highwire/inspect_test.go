package main

import (
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
)

// Times are printed in the local zone.
func init() { time.Local = time.UTC }

var update = flag.Bool("update", false, "write golden files anew")

// golden compares what was printed with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
	}
}

// fake is an agent's inspection service that answers what a test says.
type fake struct {
	highwirev1.UnimplementedInspectServer
	vwires []*highwirev1.VWire
	diff   *highwirev1.DiffResponse
}

func (f fake) ListVWires(context.Context, *highwirev1.ListVWiresRequest) (*highwirev1.ListVWiresResponse, error) {
	return &highwirev1.ListVWiresResponse{Vwires: f.vwires}, nil
}

var (
	moment = timestamppb.New(time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC))
	events = []*highwirev1.Event{
		{Seq: 1, Time: moment, Kind: "vpp-connected", Text: "25.10"},
		{Seq: 2, Time: moment, Kind: "changed", Vwire: "client-0", Steps: []string{"+ interface client-0:client: tap nsm-1", "+ up client-0:client: up"}},
		{Seq: 3, Time: moment, Kind: "requested", Vwire: "client-0", Text: "not refreshed: client c, service s, endpoint e", Took: durationpb.New(1234567), Error: "VPP refused"},
	}
	step = &highwirev1.Step{
		Action: "create", Object: &highwirev1.Object{Kind: "up", Name: "client-0:client", Text: "up"}, Messages: []string{`sw_interface_set_flags {"flags":1}`},
	}
)

func (f fake) DescribeVWire(_ context.Context, r *highwirev1.DescribeVWireRequest) (*highwirev1.Description, error) {
	for _, v := range f.vwires {
		if v.GetId() == r.GetId() {
			d := &highwirev1.Description{Vwire: v, NotCompared: "VPP is not there now", Events: events[1:]}
			if v == sample {
				d.ClientRate, d.EndpointRate = &highwirev1.Rate{RxPackets: 10, RxBytes: 1_000_000}, &highwirev1.Rate{TxPackets: 10, TxBytes: 1_000_000}
				d.NotCompared, d.Differences = "", f.diff.GetDifferences()
			}
			return d, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such vWire")
}

func (f fake) ListEndpoints(context.Context, *highwirev1.ListEndpointsRequest) (*highwirev1.ListEndpointsResponse, error) {
	return &highwirev1.ListEndpointsResponse{Endpoints: []*registryapi.NetworkServiceEndpoint{{
		Name: "nse-1", NetworkServiceNames: []string{"icmp", "web"}, Url: "inode://4/99",
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{"web": {Labels: map[string]string{"v": "2", "app": "x"}}},
	}}}, nil
}

func (f fake) ListInterfaces(context.Context, *highwirev1.ListInterfacesRequest) (*highwirev1.ListInterfacesResponse, error) {
	return &highwirev1.ListInterfacesResponse{Interfaces: []*highwirev1.Interface{
		{Name: "local0", Type: "local", Mac: "00:00:00:00:00:00", Counters: &highwirev1.Counters{}},
		{SwIfIndex: 7, Name: "host-hw1", Type: "af-packet", Admin: true, Link: true, Mtu: 9000, Mac: "02:fe:00:00:00:01", Vwire: "client-0", Side: "client",
			Counters: &highwirev1.Counters{RxPackets: 3, RxBytes: 4, TxPackets: 5, TxBytes: 6, Drops: map[string]uint64{"drop": 1}}},
		{SwIfIndex: 8, Name: "memif1/0", Type: "memif", Admin: true},
	}}, nil
}

func (f fake) ListNodes(context.Context, *highwirev1.ListNodesRequest) (*highwirev1.ListNodesResponse, error) {
	return &highwirev1.ListNodesResponse{Nodes: []*highwirev1.Node{
		{Name: "here", SpiffeId: "spiffe://hw/here", Self: true, Vwires: 2, Version: "v1", Dataplane: "25.10"},
		{Name: "there", SpiffeId: "spiffe://hw/there", Vwires: 1, Mechanisms: []string{"VXLAN", "WIREGUARD"}},
	}}, nil
}

func (f fake) WatchEvents(r *highwirev1.WatchEventsRequest, s grpc.ServerStreamingServer[highwirev1.Event]) error {
	for _, e := range events {
		if r.GetVwire() != "" && r.GetVwire() != e.GetVwire() {
			continue
		}
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func (f fake) Plan(_ context.Context, r *highwirev1.PlanRequest) (*highwirev1.PlanResponse, error) {
	if r.GetWanted().GetClient().GetMechanism() == "KERNEL" || r.GetVwire() != "" {
		return &highwirev1.PlanResponse{Steps: []*highwirev1.Step{step}, Again: true}, nil
	}
	return &highwirev1.PlanResponse{}, nil
}

func (f fake) Diff(_ context.Context, r *highwirev1.DiffRequest) (*highwirev1.DiffResponse, error) {
	if r.GetVwire() != "" {
		return nil, status.Error(codes.NotFound, "no such vWire")
	}
	return f.diff, nil
}

func (f fake) RunCLI(_ context.Context, r *highwirev1.RunCLIRequest) (*highwirev1.RunCLIResponse, error) {
	return &highwirev1.RunCLIResponse{Text: "ran: " + r.GetLine() + "\n"}, nil
}

func (f fake) Version(context.Context, *highwirev1.VersionRequest) (*highwirev1.VersionResponse, error) {
	return &highwirev1.VersionResponse{Version: "v1", Dataplane: "vpp v25.10", SpiffeId: "spiffe://hw/agent"}, nil
}

// serve offers the service on a socket that it returns.
func serve(t *testing.T, f fake) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	highwirev1.RegisterInspectServer(server, f)
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return socket
}

var sample = &highwirev1.VWire{
	Id: "client-0", Service: "icmp-responder", State: "up", Payload: "ETHERNET", Mtu: 1500, Datapath: "vpp", CountedBy: "vpp",
	Client: &highwirev1.End{Name: "client", Mechanism: "KERNEL", Interface: "nsm-1", Addresses: []string{"172.16.1.1/32"}, Routes: []string{"172.16.1.0/32"},
		Counters: &highwirev1.Counters{RxPackets: 1200, RxBytes: 1_530_000, TxPackets: 1, TxBytes: 64, Drops: map[string]uint64{"drop": 2, "rx_no_buffer": 1}}},
	Endpoint: &highwirev1.End{Name: "nse-1", Mechanism: "KERNEL", Interface: "icmp-1a2b", Addresses: []string{"172.16.1.0/32"},
		Counters: &highwirev1.Counters{TxPackets: 1197, TxBytes: 1_520_000}},
	Path: []*highwirev1.Segment{{Name: "client", Id: "client-0"}, {Name: "agent", Id: "ab12", SpiffeId: "spiffe://hw/agent"}},
	Objects: []*highwirev1.Object{
		{Kind: "interface", Name: "client-0:client", Text: "tap nsm-1", SwIfIndex: new(uint32), Realized: true},
		{Kind: "xconnect", Name: "client-0:client", Text: "l2 client to endpoint"},
	},
}

func TestInspect(t *testing.T) {
	other := &highwirev1.VWire{Id: "zebra", State: "failed", Error: "no VPP"}
	direct := &highwirev1.VWire{Id: "near", State: "up", Datapath: "direct", Client: &highwirev1.End{Mechanism: "MEMIF", Interface: `"@a"`}}
	kernel := &highwirev1.VWire{
		Id: "pair", State: "up", Datapath: "direct", CountedBy: "kernel",
		Client: &highwirev1.End{Mechanism: "KERNEL", Interface: "a", Counters: &highwirev1.Counters{RxPackets: 1, RxBytes: 2}}, Endpoint: &highwirev1.End{Counters: &highwirev1.Counters{}},
	}
	far := &highwirev1.VWire{Id: "sky", State: "up", Datapath: "vpp", Endpoint: &highwirev1.End{
		Name: "nse", Mechanism: "VXLAN", Tunnel: map[string]string{"src_ip": "192.0.2.1", "dst_ip": "192.0.2.2", "vni": "6"},
	}}
	f := fake{
		vwires: []*highwirev1.VWire{sample, direct, kernel, far, other},
		diff: &highwirev1.DiffResponse{Compared: 9, Differences: []*highwirev1.Difference{
			{Vwire: "client-0", Kind: "xconnect", Name: "client-0:client", Want: "l2 client to endpoint"},
			{Vwire: "client-0", Kind: "setting", Name: "client-0:client", Want: "mtu 1500", Have: "mtu 9000"},
			{Kind: "interface", Name: "old:client", Have: "tap nsm-9"},
		}},
	}
	t.Setenv("HIGHWIRE_ADMIN", serve(t, f))
	wanted := filepath.Join(t.TempDir(), "wanted.yaml")
	if err := os.WriteFile(wanted, []byte("id: trial\nclient: {mechanism: KERNEL}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		code   int
		golden string
	}{
		{"get vwires", exitOK, "get-vwires"},
		{"get vwires -o wide", exitOK, "get-vwires-wide"},
		{"get vwires -o json", exitOK, "get-vwires-json"},
		{"get endpoints", exitOK, "get-endpoints"},
		{"get endpoints -o yaml", exitOK, "get-endpoints-yaml"},
		{"get interfaces", exitOK, "get-interfaces"},
		{"get interfaces -o wide", exitOK, "get-interfaces-wide"},
		{"get interfaces -o json", exitOK, "get-interfaces-json"},
		{"get nodes", exitOK, "get-nodes"},
		{"get nodes -o wide", exitOK, "get-nodes-wide"},
		{"describe vwire client-0", exitOK, "describe"},
		{"describe vwire client-0 -o wide", exitOK, "describe-wide"},
		{"describe vwire client-0 -o json", exitOK, "describe-json"},
		{"describe vwire sky", exitOK, "describe-tunnel"},
		{"describe vwire near", exitOK, "describe-direct"},
		{"describe vwire pair", exitOK, "describe-kernel"},
		{"describe vwire clint-0", exitFailure, "describe-unknown"},
		{"events --no-follow", exitOK, "events"},
		{"events --no-follow -o yaml", exitOK, "events-yaml"},
		{"history client-0", exitOK, "history"},
		{"history client-0 -o json", exitOK, "history-json"},
		{"plan", exitOK, "plan-nothing"},
		{"plan client-0", exitOK, "plan"},
		{"plan client-0 --anew -o wide", exitOK, "plan-wide"},
		{"plan --file " + wanted + " -o json", exitOK, "plan-json"},
		{"plan --file " + wanted + ".none", exitFailure, ""},
		{"plan --file x y", exitUsage, ""},
		{"plan --anew", exitUsage, ""},
		{"diff", exitFailure, "diff"},
		{"diff -o json", exitFailure, "diff-json"},
		{"diff zebr", exitFailure, "diff-unknown"},
		{"graph", exitOK, "graph-dot"},
		{"graph --format mermaid", exitOK, "graph-mermaid"},
		{"graph -o json", exitOK, "graph-json"},
		{"graph --format svg", exitUsage, ""},
		{"vppctl -- show interface", exitOK, "vppctl"},
		{"version", exitOK, "version"},
		// The fake does not implement it: the status's text alone is what people see.
		{"get services", exitFailure, "unimplemented"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("highwire %s: exit %d, want %d:\n%s%s", c.args, code, c.code, stdout, stderr)
		}
		if c.golden != "" {
			golden(t, "inspect/"+c.golden, stdout+stderr)
		}
	}
	f.diff = &highwirev1.DiffResponse{Compared: 9}
	if code, stdout, _ := execute(t, "diff", "--admin", serve(t, f)); code != exitOK || stdout != "no difference: 9 objects are as wanted\n" {
		t.Errorf("no difference: exit %d: %s", code, stdout)
	}
}

// Ids complete; without an agent nothing does.
func TestCompletion(t *testing.T) {
	t.Setenv("HIGHWIRE_ADMIN", serve(t, fake{vwires: []*highwirev1.VWire{sample, {Id: "other"}}}))
	for _, verb := range []string{"describe vwire", "history", "events", "plan", "diff"} {
		code, stdout, stderr := execute(t, append([]string{"__complete"}, append(strings.Fields(verb), "")...)...)
		if code != exitOK || !strings.HasPrefix(stdout, "client-0\nother\n:4\n") {
			t.Errorf("completion of %s: exit %d: %s%s", verb, code, stdout, stderr)
		}
	}
	t.Setenv("HIGHWIRE_ADMIN", filepath.Join(t.TempDir(), "none"))
	if code, stdout, _ := execute(t, "__complete", "describe", "vwire", ""); code != exitOK || stdout != ":4\n" {
		t.Errorf("completion without an agent: exit %d: %s", code, stdout)
	}
}
