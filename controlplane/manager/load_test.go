package manager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
)

// Many at once, twice each, some of them given up half-way.
func TestManyAtOnce(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	c.timeout = patience
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			id := fmt.Sprintf("nsc-%d", i)
			answer, err := c.do(c.request(id, "web", id))
			if err != nil {
				t.Error(err)
				return
			}
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					if _, err := c.do(c.again(proto.CloneOf(answer))); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			if i%2 == 0 {
				if err := c.close(answer); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, s := range a.plane.List() {
		for _, address := range s.VWire.Client.Addresses {
			if seen[address.String()] {
				t.Errorf("address %s is given twice", address)
			}
			seen[address.String()] = true
		}
	}
	if wires, _, _ := a.plane.counts(); wires != 20 || len(a.manager.Snapshot()) != 20 {
		t.Errorf("%d vWires, %d connections, want 20", wires, len(a.manager.Snapshot()))
	}
	if n := a.spaces.len(); n != 0 {
		t.Errorf("%d namespaces are held", n)
	}
}

// Trap 10: files come with every refresh and Close, and must not pile up. Not parallel: it counts the process's files.
func TestTrap10FilesDoNotPileUp(t *testing.T) {
	m := &mesh{t: t, dir: t.TempDir(), ca: t.TempDir()}
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := open()
	for i := range 30 {
		answer.Mechanism.Parameters["name"] = fmt.Sprintf("nsm-%d", i) // so that the file is used each time
		answer = c.must(c.again(answer))
	}
	// Connections close on their own time.
	deadline := time.Now().Add(patience)
	for open() > before+5 {
		if time.Now().After(deadline) {
			t.Fatalf("%d files were open, now there are %d", before, open())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Two services in one namespace get different addresses, also from endpoints that do not know of each other.
func TestSeveralServices(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	for _, name := range []string{"web", "dns"} {
		m.endpoint(a, m.source("nse-"+name), endpoint.Config{Name: "nse-" + name, Services: []string{name}, Pools: pools("10.7.0.0/24")})
	}
	services, err := client.ParseServices("kernel://web/nsm-1,kernel://dns/nsm-2")
	if err != nil {
		t.Fatal(err)
	}
	nsc, _ := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: services})
	seen := map[string]bool{}
	for range 2 {
		e := await(t, nsc, func(e client.Event) bool {
			if e.Kind == client.Failed {
				t.Error(e.Err)
			}
			return e.Kind == client.Connected
		})
		seen[e.Connection.Context.IpContext.SrcIpAddrs[0]] = true
	}
	if len(seen) != 2 {
		t.Errorf("both services got %v", seen)
	}
}

// Over TCP everything works but what needs a file, and that is said at once.
func TestTCP(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	c.target = a.tcp
	for _, service := range []string{"", "networkservice.NetworkService", "connection.MonitorConnection", "registry.NetworkServiceRegistry", "registry.NetworkServiceEndpointRegistry"} {
		err := c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
			answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
			if err == nil && answer.Status != healthpb.HealthCheckResponse_SERVING {
				err = errors.New(answer.Status.String())
			}
			return err
		})
		if err != nil {
			t.Errorf("health of %q: %v", service, err)
		}
	}
	if _, err := c.do(c.request("nsc-0", "web", "nsm-1")); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "unix socket") {
		t.Errorf("a namespace over TCP: %v", err)
	}
	a.nothing(t)
}

// A caller that gives up leaves nothing behind, or a whole connection.
func TestGivenUp(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	for i := range 30 {
		c.timeout = time.Duration(i) * 500 * time.Microsecond
		id := fmt.Sprintf("nsc-%d", i)
		_ = c.on(func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
			_, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, c.request(id, "web", id), opts...)
			return err
		})
	}
	c.timeout = patience
	last := c.must(c.request("last", "web", "last"))
	if err := c.close(last); err != nil {
		t.Fatal(err)
	}
	// What the manager holds, the dataplane and the endpoint hold too.
	a.stop()
	if wires, held := a.plane.List(), a.manager.Snapshot(); len(wires) != len(held) {
		t.Errorf("%d vWires for %d connections", len(wires), len(held))
	}
	if n := a.spaces.len(); n != 0 {
		t.Errorf("%d namespaces are held", n)
	}
	open := 0
	for len(nse) > 0 {
		switch e := <-nse; e.Kind {
		case endpoint.Opened:
			open++
		case endpoint.Closed:
			open--
		}
	}
	if held := len(a.manager.Snapshot()); open < held {
		t.Errorf("the endpoint has %d connections, the manager %d", open, held)
	}
}

// Trap 13: state belongs to connections, not to transport connections; every call here has one of its own. And trap 6: a
// monitor stays open while others come and go.
func TestMonitorOutlivesOthers(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	all := &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{}}} // nsmctl's
	events := c.watch(t, all)
	first := c.must(c.request("nsc-0", "web", "nsm-1"))
	c.watch(t, all)
	c.must(c.again(first))
	if err := c.close(first); err != nil {
		t.Fatal(err)
	}
	await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_DELETE })
}

// A client that was killed finds its connection by the monitor before it asks (§5.2), and goes on with it.
func TestAdoption(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	source := m.source("nsc")
	killed := m.caller(a, source)
	answer := killed.must(killed.request("nsc-0", "web", "nsm-1"))
	services, err := client.ParseServices("kernel://web/nsm-1")
	if err != nil {
		t.Fatal(err)
	}
	nsc, stop := m.client(a, source, client.Config{Name: "nsc", Services: services, Namespace: killed.namespace})
	e := await(t, nsc, func(e client.Event) bool { return e.Kind == client.Connected })
	if got, want := e.Connection.Path.PathSegments[1].Id, answer.Path.PathSegments[1].Id; got != want {
		t.Errorf("connection %s, want the former life's %s", got, want)
	}
	if wires, sets, _ := a.plane.counts(); wires != 1 || sets != 1 {
		t.Errorf("%d vWires were set %d times; the dataplane is not to be touched", wires, sets)
	}
	stop()
	// In another namespace the interface has to be made anew, for the same connection.
	answer = killed.must(killed.request("nsc-0", "web", "nsm-1"))
	nsc, _ = m.client(a, source, client.Config{Name: "nsc", Services: services})
	e = await(t, nsc, func(e client.Event) bool { return e.Kind == client.Connected })
	if got, want := e.Connection.Path.PathSegments[1].Id, answer.Path.PathSegments[1].Id; got != want {
		t.Errorf("connection %s, want the former life's %s", got, want)
	}
	if wires, sets, _ := a.plane.counts(); wires != 1 || sets != 3 {
		t.Errorf("%d vWires were set %d times, want 1 and 3", wires, sets)
	}
}
