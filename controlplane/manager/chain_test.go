package manager_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/endpoint"
)

// One service whose matches make a chain of it: each hop asks for the same service again with its own labels, and the path tells
// who was passed. A refresh goes all the way and touches no dataplane, the end of one hop is heard at the beginning, and closing
// leaves nothing.
func TestChain(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	c := m.caller(a, m.source("nsc"))
	selects := func(source, destination string) *registryapi.Match {
		match := &registryapi.Match{Routes: []*registryapi.Destination{{DestinationSelector: map[string]string{"app": destination}}}}
		if source != "" {
			match.SourceSelector = map[string]string{"app": source}
		}
		return match
	}
	err := c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		_, err := registryapi.NewNetworkServiceRegistryClient(conn).Register(ctx, &registryapi.NetworkService{
			Name: "web", Payload: "ETHERNET", Matches: []*registryapi.Match{selects("ids", "server"), selects("firewall", "ids"), selects("", "firewall")},
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	joined := make(chan string, 10)
	for _, app := range []string{"firewall", "ids"} {
		labels := map[string]string{"app": app}
		m.endpoint(a, m.source(app), endpoint.Config{Name: app, Services: []string{"web"}, Labels: labels, Next: &endpoint.Next{
			Service: "web", Labels: labels,
			Join: func(_ *connection.Connection, from, to string) (func(), error) {
				if from == to || from[0] != '@' || to[0] != '@' {
					t.Errorf("%s joins %s and %s", app, from, to)
				}
				joined <- app
				return func() { joined <- "end " + app }, nil
			},
		}})
	}
	_, stop := m.endpoint(a, m.source("server"), endpoint.Config{
		Name: "server", Services: []string{"web"}, Labels: map[string]string{"app": "server"}, Pools: pools("10.7.0.0/24"), Mechanisms: []string{"MEMIF"},
		Memif: func(*connection.Connection, string) (func(), error) { return func() {}, nil },
	})

	events := c.watch(t, &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Name: "nsc"}, {Name: "manager-1"}}})
	r := c.request("nsc-0", "web", "nsm-1")
	r.MechanismPreferences[0].Type = "MEMIF"
	answer := c.must(r)
	var names []string
	for _, s := range answer.Path.PathSegments {
		names = append(names, s.Name)
	}
	if want := "[nsc manager-1 firewall manager-1 ids manager-1 server]"; fmt.Sprint(names) != want {
		t.Errorf("path %v, want %s", names, want)
	}
	if ip := answer.Context.IpContext; len(ip.SrcIpAddrs) != 1 || len(ip.DstIpAddrs) != 1 {
		t.Errorf("addresses %v", ip)
	}
	if got := []string{<-joined, <-joined}; !slices.Equal(got, []string{"ids", "firewall"}) {
		t.Errorf("joined in the order %v; the far hop first", got)
	}
	answer = c.must(c.again(answer))
	if wires, sets, _ := a.plane.counts(); wires != 3 || sets != 3 {
		t.Errorf("%d vWires were set %d times, want 3 and 3", wires, sets)
	}

	stop() // without a word to anybody
	await(t, events, func(e *connection.ConnectionEvent) bool {
		for _, shown := range e.Connections {
			if shown.Path.Index == 1 && shown.State == connection.State_DOWN {
				return true
			}
		}
		return false
	})
	if err := c.close(answer); err != nil {
		t.Fatal(err)
	}
	if got := []string{<-joined, <-joined}; !slices.Equal(got, []string{"end firewall", "end ids"}) {
		t.Errorf("ended in the order %v", got)
	}
	a.nothing(t)
}
