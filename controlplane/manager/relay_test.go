package manager_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/registry"
	"highwire/controlplane/server"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// forwarder starts one that works for the agent, and waits until it is registered there.
func (m *mesh) forwarder(a *agent, name string, labels map[string]string) (f *agent, stop func()) {
	m.t.Helper()
	source := m.source(name)
	f = &agent{source: source, plane: newPlane(), spaces: &spaces{held: map[mechanisms.Inode]int{}}, target: "unix://" + filepath.Join(m.dir, name+".sock")}
	directory := registry.NewAsked(registry.Peer{Target: a.target, Options: source.DialOptions()})
	pool := hop.NewPool(name, source.DialOptions()...)
	f.manager = manager.New(manager.Config{
		Name: name, Signer: source, Directory: directory, Dataplane: f.plane, Mechanisms: mechanisms.Set{kernel{}}, Namespaces: f.spaces,
		Pool: pool, FileWait: patience, Works: true,
	})
	s, err := server.New(server.Config{Source: source, Listen: []string{f.target}, Handler: f.manager})
	if err != nil {
		m.t.Fatal(err)
	}
	serving := run(m.t, s.Run)
	heard := make(chan endpoint.Event, 1000)
	registering := run(m.t, func(ctx context.Context) error {
		return endpoint.Register(ctx, endpoint.Config{
			Source: source, Target: a.target, Name: name, Services: []string{"forwarder"}, Labels: labels,
			Events: func(e endpoint.Event) { heard <- e },
		}, f.target[len("unix://"):])
	})
	stop = sync.OnceFunc(func() {
		registering()
		serving()
		f.manager.Shutdown()
		pool.Close()
		directory.Close()
	})
	m.t.Cleanup(stop)
	await(m.t, heard, isEndpoint(endpoint.Registered))
	return f, stop
}

// onlyManager is an agent without a dataplane.
func (m *mesh) onlyManager(source *identity.Source) *agent {
	return m.agent(source, newPlane(), func(c *manager.Config) { c.Dataplane, c.Forwarders = nil, "forwarder" })
}

var p2p = map[string]string{"p2p": "true"}

// A manager without a dataplane has a forwarder make the vWire: it gets the client's namespace and chooses the endpoint by the
// manager's registry, whose socket comes with the answer.
func TestForwarder(t *testing.T) {
	m := newMesh(t)
	a := m.onlyManager(m.source("agent"))
	f, _ := m.forwarder(a, "forwarder-1", p2p)
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	services, err := client.ParseServices("kernel://web/nsm-1")
	if err != nil {
		t.Fatal(err)
	}
	nsc, stop := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: services})
	up := await(t, nsc, isClient(client.Connected)).Connection
	var names []string
	for _, s := range up.Path.PathSegments {
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{"nsc", "manager-1", "forwarder-1", "nse-a"}) || up.NetworkServiceEndpointName != "nse-a" {
		t.Errorf("path %v to %s", names, up.NetworkServiceEndpointName)
	}
	if wires, _, _ := f.plane.counts(); wires != 1 {
		t.Errorf("the forwarder has %d vWires", wires)
	}
	stop()
	await(t, nse, isEndpoint(endpoint.Closed))
	if wires, _, _ := f.plane.counts(); wires != 0 || len(a.manager.Snapshot()) != 0 {
		t.Errorf("left: %d vWires, %v", wires, a.manager.Snapshot())
	}
}

// A forwarder that is lost takes its connections DOWN, and the next Request goes to another; a refresh stays where it is.
func TestForwarders(t *testing.T) {
	m := newMesh(t)
	a := m.onlyManager(m.source("agent"))
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	c.timeout = patience
	if _, err := c.do(c.request("nsc-0", "web", "nsm-1")); !fault.Is(hop.FromStatus(err), fault.Unavailable) {
		t.Errorf("without a forwarder: %v", err)
	}
	forwarders := map[string]*agent{}
	stops := map[string]func(){}
	for _, name := range []string{"forwarder-1", "forwarder-2"} {
		forwarders[name], stops[name] = m.forwarder(a, name, p2p)
	}
	m.forwarder(a, "other", map[string]string{"sriov": "true"})
	events := c.watch(t, &connection.MonitorScopeSelector{})
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	used := answer.Path.PathSegments[2].Name
	answer = c.must(c.again(answer))
	if now := answer.Path.PathSegments[2].Name; now != used {
		t.Errorf("a refresh went from %s to %s", used, now)
	}
	if wires, _, _ := forwarders[used].plane.counts(); wires != 1 {
		t.Errorf("%s has %d vWires", used, wires)
	}
	stops[used]()
	await(t, events, func(e *connection.ConnectionEvent) bool {
		for _, c := range e.Connections {
			if c.State == connection.State_DOWN {
				return true
			}
		}
		return false
	})
	answer = c.must(c.again(answer))
	if now := answer.Path.PathSegments[2].Name; now == used || forwarders[now] == nil {
		t.Errorf("after %s was lost: %s", used, now)
	}

	// A service says what its forwarder must be able to do.
	list, err := a.store.Services(context.Background())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	sriov := &registryapi.NetworkService{Name: "web", Payload: list[0].Payload, Matches: []*registryapi.Match{{
		Metadata: &registryapi.Metadata{Labels: map[string]string{"sriov": "true"}},
	}}}
	if err := a.store.PutService(context.Background(), sriov); err != nil {
		t.Fatal(err)
	}
	if got := c.must(c.request("nsc-1", "web", "nsm-2")).Path.PathSegments[2].Name; got != "other" {
		t.Errorf("sriov by %s", got)
	}
}
