package manager_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
)

// versions are endpoints of the service web that differ in their label.
func (m *mesh) versions(a *agent, names ...string) map[string]<-chan endpoint.Event {
	m.t.Helper()
	heard := map[string]<-chan endpoint.Event{}
	for _, v := range names {
		c := offer("nse-" + v)
		c.Labels = map[string]string{"version": v}
		heard[v], _ = m.endpoint(a, m.source("nse-"+v), c)
	}
	return heard
}

// route makes the service lead to one version only.
func (a *agent) route(t *testing.T, version string) {
	t.Helper()
	list, err := a.store.Services(context.Background())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	s := proto.CloneOf(list[0])
	s.Matches = []*registryapi.Match{{Routes: []*registryapi.Destination{{DestinationSelector: map[string]string{"version": version}}}}}
	if err := a.store.PutService(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// A service that leads elsewhere moves its live connections: the client has its new endpoint before the old one loses it, and
// the dataplane is never without the vWire.
func TestSteer(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nses := m.versions(a, "one", "two")
	a.route(t, "one")
	watcher := m.caller(a, m.source("watcher"))
	events := watcher.watch(t, &connection.MonitorScopeSelector{})
	urls, err := client.ParseServices("kernel://web/nsm-1")
	if err != nil {
		t.Fatal(err)
	}
	m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: urls})
	await(t, nses["one"], isEndpoint(endpoint.Opened))
	on := func(name string) func(*connection.ConnectionEvent) bool {
		return func(e *connection.ConnectionEvent) bool {
			for _, c := range e.Connections {
				if e.Type == connection.ConnectionEventType_DELETE {
					t.Error("the connection was closed")
				}
				if c.NetworkServiceEndpointName == name && c.State == connection.State_UP {
					return true
				}
			}
			return false
		}
	}
	await(t, events, on("nse-one"))
	for _, to := range []string{"two", "one"} {
		a.route(t, to)
		await(t, nses[to], isEndpoint(endpoint.Opened))
		await(t, events, on("nse-"+to))
		await(t, nses[map[string]string{"two": "one", "one": "two"}[to]], isEndpoint(endpoint.Closed))
		a.plane.mu.Lock()
		if len(a.plane.wires) != 1 || a.plane.deletes != 0 {
			t.Errorf("%d vWires, %d deleted", len(a.plane.wires), a.plane.deletes)
		}
		a.plane.mu.Unlock()
	}
}

// Where nothing fits any more the connection is closed; one whose client chose the endpoint itself stays.
func TestSteerCloses(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nses := m.versions(a, "one")
	c := m.caller(a, m.source("nsc"))
	events := c.watch(t, &connection.MonitorScopeSelector{})
	chosen := c.must(c.request("nsc-0", "web", "nsm-0"))
	named := c.request("nsc-1", "web", "nsm-1")
	named.Connection.NetworkServiceEndpointName = "nse-one"
	kept := c.must(named)
	a.route(t, "none")
	gone := await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_DELETE })
	if _, ok := gone.Connections[chosen.Path.PathSegments[1].Id]; !ok {
		t.Errorf("closed: %v", gone)
	}
	await(t, nses["one"], isEndpoint(endpoint.Closed))
	c.must(c.again(kept))
	if wires, _, _ := a.plane.counts(); wires != 1 {
		t.Errorf("%d vWires", wires)
	}
	if _, err := c.do(c.request("nsc-2", "web", "nsm-2")); err == nil {
		t.Error("a new one was let in")
	}
}
