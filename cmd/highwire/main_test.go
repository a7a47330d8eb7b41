package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
)

// execute runs a command line as main does.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, exitOK, "Exit codes"},
		{[]string{"bogus"}, exitUsage, "unknown command"},
		{[]string{"get", "bogus"}, exitUsage, "bogus"},
		{[]string{"get"}, exitUsage, "want one of devices, endpoints, services, vwires"},
		{[]string{"get", "vwires", "--bogus"}, exitUsage, "--bogus"},
		{[]string{"get", "vwires", "-o", "xml"}, exitUsage, "table, json, yaml"},
		{[]string{"describe", "vwire"}, exitUsage, "accepts 1 arg"},
		{[]string{"vppctl"}, exitUsage, "at least 1 arg"},
		{[]string{"demo", "--payload", "UDP"}, exitUsage, "ETHERNET or IP"},
		{[]string{"get", "vwires", "--admin", none}, exitNoAgent, "start one with 'highwire agent'"},
		{[]string{"vppctl", "--admin", none, "--", "show", "version"}, exitNoAgent, none},
		{[]string{"version", "--admin", none}, exitOK, "highwire"},
		{[]string{"completion", "bash"}, exitOK, "bash completion"},
	} {
		code, stdout, stderr := execute(t, c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire %s: exit %d, want %d saying %q:\n%s%s", strings.Join(c.args, " "), code, c.code, c.says, stdout, stderr)
		}
	}
}

// Every command says what it does and shows how.
func TestHelp(t *testing.T) {
	for _, c := range newRoot().Commands() {
		for _, leaf := range append(c.Commands(), c) {
			if leaf.Short == "" || !leaf.HasSubCommands() && leaf.Example == "" {
				t.Errorf("%s has no description or no example", leaf.CommandPath())
			}
		}
	}
}

// The README's table of the agent's flags is complete.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	newAgent().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(string(readme), "`--"+f.Name+"`") {
			t.Errorf("README.md does not name --%s", f.Name)
		}
	})
	for _, c := range newRoot().Commands() {
		if !strings.Contains(string(readme), "`highwire "+c.Name()) {
			t.Errorf("README.md does not name 'highwire %s'", c.Name())
		}
	}
}

func TestEnvironment(t *testing.T) {
	socket := serve(t, fake{})
	t.Setenv("HIGHWIRE_ADMIN", socket)
	if code, _, stderr := execute(t, "get", "vwires"); code != exitOK {
		t.Errorf("HIGHWIRE_ADMIN is not used: exit %d: %s", code, stderr)
	}
	if code, _, _ := execute(t, "get", "vwires", "--admin", socket+".none"); code != exitNoAgent {
		t.Errorf("the command line does not win over HIGHWIRE_ADMIN: exit %d", code)
	}
	t.Setenv("HIGHWIRE_STREAM", "soon")
	if code, _, stderr := execute(t, "demo"); code != exitUsage || !strings.Contains(stderr, "HIGHWIRE_STREAM") {
		t.Errorf("a bad variable: exit %d: %s", code, stderr)
	}
}

// fake is an agent's inspection service with one vWire, or none when empty.
type fake struct {
	highwirev1.UnimplementedInspectServer
	vwires []*highwirev1.VWire
}

func (f fake) ListVWires(context.Context, *highwirev1.ListVWiresRequest) (*highwirev1.ListVWiresResponse, error) {
	return &highwirev1.ListVWiresResponse{Vwires: f.vwires}, nil
}

func (f fake) GetVWire(_ context.Context, r *highwirev1.GetVWireRequest) (*highwirev1.VWire, error) {
	for _, v := range f.vwires {
		if v.GetId() == r.GetId() {
			return v, nil
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
	Id: "client-0", Service: "icmp-responder", State: "up", Payload: "ETHERNET", Mtu: 1500, Datapath: "vpp",
	Client:   &highwirev1.End{Name: "client", Mechanism: "KERNEL", Interface: "nsm-1", Addresses: []string{"172.16.1.1/32"}, Routes: []string{"172.16.1.0/32"}},
	Endpoint: &highwirev1.End{Name: "nse-1", Mechanism: "KERNEL", Interface: "icmp-1a2b", Addresses: []string{"172.16.1.0/32"}},
	Path:     []*highwirev1.Segment{{Name: "client", Id: "client-0"}, {Name: "agent", Id: "ab12", SpiffeId: "spiffe://hw/agent"}},
	Objects: []*highwirev1.Object{
		{Kind: "interface", Name: "client-0:client", Text: "tap nsm-1", SwIfIndex: new(uint32), Realized: true},
		{Kind: "xconnect", Name: "client-0:client", Text: "l2 client to endpoint"},
	},
	Counters: map[string]uint64{"client rx packets": 12},
}

func TestInspect(t *testing.T) {
	other := &highwirev1.VWire{Id: "zebra", State: "failed", Error: "no VPP", Created: timestamppb.New(time.Now().Add(-3 * time.Minute))}
	direct := &highwirev1.VWire{Id: "near", State: "up", Datapath: "direct", Client: &highwirev1.End{Mechanism: "MEMIF", Interface: `"@a"`}}
	far := &highwirev1.VWire{Id: "sky", State: "up", Datapath: "vpp", Endpoint: &highwirev1.End{
		Name: "nse", Mechanism: "VXLAN", Tunnel: map[string]string{"src_ip": "192.0.2.1", "dst_ip": "192.0.2.2", "vni": "6"},
	}}
	t.Setenv("HIGHWIRE_ADMIN", serve(t, fake{vwires: []*highwirev1.VWire{sample, direct, far, other}}))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"get vwires", exitOK, `ID        SERVICE         STATE        CLIENT                             ENDPOINT                              PAYLOAD   AGE
client-0  icmp-responder  up           client kernel nsm-1 172.16.1.1/32  nse-1 kernel icmp-1a2b 172.16.1.0/32  ETHERNET  
near                      up (direct)  memif                                                                              
sky                       up                                              nse vxlan 192.0.2.1>192.0.2.2                   
zebra                     failed                                                                                          3m
`},
		{"get endpoints", exitOK, `NAME   SERVICES  LABELS             URL           EXPIRES
nse-1  icmp,web  web:app=x,web:v=2  inode://4/99  never
`},
		{"get endpoints -o json", exitOK, `"networkServiceNames": [`},
		{"get vwires -o yaml", exitOK, "- client:\n    addresses:\n    - 172.16.1.1/32\n"},
		{"describe vwire client-0", exitOK, `vWire:        client-0
Service:      icmp-responder
State:        up
Datapath:     through VPP
Payload:      ETHERNET
MTU:          1500
Client:       client
  Mechanism:  KERNEL
  Interface:  nsm-1
  Addresses:  172.16.1.1/32
  Routes:     172.16.1.0/32
Endpoint:     nse-1
  Mechanism:  KERNEL
  Interface:  icmp-1a2b
  Addresses:  172.16.1.0/32
Path:
  0 client:  client-0
  1 agent:   ab12  spiffe://hw/agent
Dataplane:
  interface client-0:client:  tap nsm-1  (sw_if_index 0)
  xconnect client-0:client:   l2 client to endpoint  MISSING
Counters:
  client rx packets:  12
`},
		{"describe vwire near", exitOK, "Datapath:     direct, without VPP\n"},
		{"describe vwire sky", exitOK, "  Mechanism:  VXLAN\n  dst_ip:     192.0.2.2\n  src_ip:     192.0.2.1\n  vni:        6\n"},
		{"describe vwire client-0 -o json", exitOK, `"swIfIndex": 0`},
		{"describe vwire clint-0", exitFailure, `no vWire "clint-0"; nearest: client-0, near, sky`},
		{"vppctl -- show interface", exitOK, "ran: show interface\n"},
		{"version", exitOK, "agent     v1 (spiffe://hw/agent)\ndataplane vpp v25.10\n"},
		// The fake does not implement it: the status's text alone is what people see.
		{"get services", exitFailure, "highwire: method ListServices not implemented\n"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("highwire %s: exit %d, want %d and\n%s\ngot\n%s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 90 * time.Second: "90s", 5 * time.Minute: "5m", 3 * time.Hour: "3h", 72 * time.Hour: "3d"} {
		if got := short(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	missing := filepath.Join(dir, "none.sock")
	check := func(in dataplane, mode, fails string) {
		t.Helper()
		err := in.resolve(t.Context())
		switch {
		case fails == "" && (err != nil || in.mode != mode):
			t.Errorf("%s, %v; want %s", in.mode, err, mode)
		case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
			t.Errorf("%s, %v; want an error with %q", in.mode, err, fails)
		}
	}
	check(dataplane{mode: auto, socket: missing}, pocket, "")
	check(dataplane{mode: auto, socket: missing, bin: filepath.Join(dir, "no-vpp")}, "", "--vpp-bin")
	check(dataplane{mode: spawn, socket: missing}, "", "--vpp-bin")
	check(dataplane{mode: external, socket: missing}, "", "--vpp-socket")
	check(dataplane{mode: "dpdk"}, "", "want auto")
	if err := os.WriteFile(filepath.Join(dir, "vpp"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	check(dataplane{mode: auto, socket: missing}, spawn, "")
	check(dataplane{mode: pocket, socket: missing}, pocket, "")
	check(dataplane{mode: auto, socket: serve(t, fake{})}, external, "")
}
