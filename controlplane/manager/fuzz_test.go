package manager_test

import (
	"context"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/manager"
)

// FuzzRequest sends any Request at all over a real socket: nothing panics, one that is refused leaves nothing behind, and one
// that is answered can be closed.
func FuzzRequest(f *testing.F) {
	dir, err := os.MkdirTemp("", "hw")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &mesh{t: f, dir: dir, ca: f.TempDir()}
	a := m.agent(m.source("agent"), newPlane(), func(c *manager.Config) { c.FileWait = 5 * time.Millisecond })
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))

	good := c.request("nsc-0", "web", "nsm-1")
	full := proto.CloneOf(good)
	full.Connection.Labels, full.Connection.Payload = map[string]string{"a": "b"}, "IP"
	full.Connection.Mechanism = full.MechanismPreferences[0]
	full.Connection.State, full.Connection.NetworkServiceEndpointName = connection.State_RESELECT_REQUESTED, "nse-a"
	full.Connection.Path.PathSegments = append(full.Connection.Path.PathSegments, &connection.PathSegment{Name: "manager-1", Id: "x"}, &connection.PathSegment{Name: "nse-a", Id: "y", Metrics: map[string]string{"m": "1"}})
	full.Connection.Context = &connectioncontext.ConnectionContext{
		IpContext: &connectioncontext.IPContext{
			SrcIpAddrs: []string{"10.0.0.1/32", "fd00::1/128"}, DstIpAddrs: []string{"10.0.0.2/32"}, SrcIpRequired: true,
			SrcRoutes:        []*connectioncontext.Route{{Prefix: "10.1.0.0/16", NextHop: "10.0.0.2"}},
			ExcludedPrefixes: []string{"10.2.0.0/16"}, IpNeighbors: []*connectioncontext.IpNeighbor{{Ip: "10.0.0.9", HardwareAddress: "02:00:00:00:00:01"}},
			Policies:           []*connectioncontext.PolicyRoute{{From: "10.0.0.1/32", Proto: "6", DstPort: "80-90", Routes: []*connectioncontext.Route{{Prefix: "0.0.0.0/0"}}}},
			ExtraPrefixRequest: []*connectioncontext.ExtraPrefixRequest{{PrefixLen: 24, RequiredNumber: 1, RequestedNumber: 1, AddrFamily: &connectioncontext.IpFamily{}}},
		},
		DnsContext:      &connectioncontext.DNSContext{Configs: []*connectioncontext.DNSConfig{{DnsServerIps: []string{"10.0.0.53"}}}},
		EthernetContext: &connectioncontext.EthernetContext{SrcMac: "02:00:00:00:00:02"}, MTU: 1400,
	}
	memif := proto.CloneOf(good)
	memif.MechanismPreferences[0].Type = "MEMIF"
	memif.MechanismPreferences[0].Parameters["socketfile"] = "@x"
	for _, r := range []*networkservice.NetworkServiceRequest{good, full, memif, {}, {Connection: &connection.Connection{}}} {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &networkservice.NetworkServiceRequest{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		var answer *connection.Connection
		c := *c
		c.t = t
		_ = c.on(func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
			api := networkservice.NewNetworkServiceClient(conn)
			var err error
			if answer, err = api.Request(ctx, r, opts...); err != nil {
				answer = nil
				// Closing it must do no harm either, whatever it is.
				_, _ = api.Close(ctx, r.GetConnection(), opts...)
				return nil
			}
			if _, err := api.Close(ctx, answer, opts...); err != nil {
				t.Errorf("what was answered cannot be closed: %v", err)
			}
			return nil
		})
		a.nothing(t)
		open := 0
		for len(nse) > 0 {
			switch e := <-nse; e.Kind {
			case endpoint.Opened:
				open++
			case endpoint.Closed:
				open--
			}
		}
		if open != 0 {
			t.Errorf("%d connections are left at the endpoint", open)
		}
	})
}
