package manager_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/registry"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// pools has one pool for each prefix.
func pools(list ...string) (out []endpoint.Pool) {
	for _, p := range prefixes(list...) {
		out = append(out, endpoint.Pool{p})
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func offer(name string) endpoint.Config {
	return endpoint.Config{Name: name, Services: []string{"web"}, Pools: pools("10.7.0.0/24", "2001:db8::/64")}
}

func isClient(kind client.EventKind) func(client.Event) bool {
	return func(e client.Event) bool { return e.Kind == kind }
}

func isEndpoint(kind endpoint.EventKind) func(endpoint.Event) bool {
	return func(e endpoint.Event) bool { return e.Kind == kind }
}

// One connection's whole life, with our own client and endpoint.
func TestLife(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	services, err := client.ParseServices("kernel://web/nsm-1?zone=a")
	if err != nil {
		t.Fatal(err)
	}
	nsc, stop := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: services})

	up := await(t, nsc, isClient(client.Connected))
	if up.Interface != "nsm-1" || up.Connection.NetworkServiceEndpointName != "nse-a" || up.Connection.Labels["zone"] != "a" || up.Connection.Payload != "IP" {
		t.Errorf("connected with %v", up.Connection)
	}
	list := a.plane.List()
	if len(list) != 1 {
		t.Fatalf("the dataplane has %d vWires", len(list))
	}
	v := list[0].VWire
	if v.Client.Params["name"] != "nsm-1" || v.Endpoint.Params["name"] == "" || v.Client.Params["inodeURL"] == v.Endpoint.Params["inodeURL"] {
		t.Errorf("ends %v and %v", v.Client, v.Endpoint)
	}
	if want := prefixes("10.7.0.3/32", "2001:db8::3/128"); !slices.Equal(v.Client.Addresses, want) || !slices.Equal(v.Endpoint.Remote, want) {
		t.Errorf("client has %v, want %v", v.Client.Addresses, want)
	}
	if want := []mechanisms.Route{{Prefix: netip.MustParsePrefix("10.7.0.2/32")}, {Prefix: netip.MustParsePrefix("2001:db8::2/128")}}; !slices.Equal(v.Client.Routes, want) {
		t.Errorf("client has routes %v, want %v", v.Client.Routes, want)
	}
	if n := a.spaces.len(); n != 0 {
		t.Errorf("%d namespaces are held after the Request", n)
	}
	stop()
	await(t, nse, isEndpoint(endpoint.Closed))
	if n, _, _ := a.plane.counts(); n != 0 {
		t.Errorf("%d vWires are left", n)
	}
	if n := len(a.manager.Snapshot()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// §7: what unmodified clients want of an answer.
func TestAnswer(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	for i, s := range answer.Path.PathSegments {
		if !s.Expires.IsValid() || !s.Expires.AsTime().After(time.Now()) {
			t.Errorf("trap 1: segment %d expires %v", i, s.Expires)
		}
	}
	if answer.Path.Index != 0 || answer.Id != "nsc-0" || len(answer.Path.PathSegments) != 3 {
		t.Errorf("trap 2: index %d, id %s, %d segments", answer.Path.Index, answer.Id, len(answer.Path.PathSegments))
	}
	if answer.Context.GetDnsContext() == nil || answer.Context.GetIpContext() == nil {
		t.Error("trap 7: a context is nil")
	}
	if p := answer.Mechanism.Parameters; p["inodeURL"] != c.inode.String() || p["name"] != "nsm-1" {
		t.Errorf("trap 8: mechanism %v", answer.Mechanism)
	}
	if answer.State != connection.State_UP {
		t.Errorf("state %s", answer.State)
	}
	// Without a name for the interface one is made, and kept.
	unnamed := c.must(c.request("nsc-1", "web", ""))
	name := unnamed.Mechanism.Parameters["name"]
	if !strings.HasPrefix(name, "web-") || len(name) > 15 {
		t.Errorf("interface is named %q", name)
	}
	if again := c.must(c.again(unnamed)); again.Mechanism.Parameters["name"] != name {
		t.Errorf("refreshed, it is named %q", again.Mechanism.Parameters["name"])
	}
	// Trap 12.
	if err := c.close(c.request("unknown", "web", "x").Connection); err != nil {
		t.Errorf("trap 12: close of an unknown connection: %v", err)
	}
}

func TestRefresh(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	first := c.must(c.request("nsc-0", "web", "nsm-1"))
	second := c.must(c.again(first))
	if wires, sets, records := a.plane.counts(); wires != 1 || sets != 1 || records != 1 {
		t.Errorf("after a refresh: %d vWires, %d sets, %d records", wires, sets, records)
	}
	if first.Path.PathSegments[1].Id != second.Path.PathSegments[1].Id || first.Path.PathSegments[2].Id != second.Path.PathSegments[2].Id {
		t.Error("the refresh changed ids")
	}
	if !proto.Equal(first.Context, second.Context) {
		t.Errorf("the refresh changed the context from %v to %v", first.Context, second.Context)
	}

	// Another interface name is a changed request, not a refresh.
	renamed := proto.CloneOf(second)
	renamed.Mechanism.Parameters["name"] = "nsm-2"
	renamed = c.must(c.again(renamed))
	if _, sets, _ := a.plane.counts(); sets != 2 || a.plane.List()[0].VWire.Client.Params["name"] != "nsm-2" {
		t.Errorf("renamed: %d sets, vWire %v", sets, a.plane.List()[0].VWire.Client)
	}

	// When the dataplane refuses a change, the former state stands.
	a.plane.failWith(fault.New(fault.Unavailable, "VPP is away"))
	worse := proto.CloneOf(renamed)
	worse.Mechanism.Parameters["name"] = "nsm-3"
	if _, err := c.do(c.again(worse)); status.Code(err) != codes.Unavailable {
		t.Errorf("refused change: %v", err)
	}
	a.plane.failWith(nil)
	if got := a.manager.Snapshot(); len(got) != 1 || got[0].Connection.Mechanism.Parameters["name"] != "nsm-2" {
		t.Errorf("after a refused change: %v", got)
	}
	c.must(c.again(renamed))
}

func TestLabelsChange(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	first := c.must(c.request("nsc-0", "web", "nsm-1"))
	first.Labels = map[string]string{"zone": "b"}
	if second := c.must(c.again(first)); second.Labels["zone"] != "b" || second.NetworkServiceEndpointName != "nse-a" {
		t.Errorf("after other labels: %v", second)
	}
	await(t, nse, isEndpoint(endpoint.Opened))
	select {
	case e := <-nse:
		t.Errorf("the endpoint saw %v of a connection that goes on", e.Kind)
	default:
	}
}

func TestRollback(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	a.plane.failWith(fault.New(fault.Exhausted, "no more buffers"))
	_, err := c.do(c.request("nsc-0", "web", "nsm-1"))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no more buffers") {
		t.Errorf("error is %v", err)
	}
	await(t, nse, isEndpoint(endpoint.Closed))
	a.nothing(t)
	a.plane.failWith(nil)
	c.must(c.request("nsc-0", "web", "nsm-1"))
}

// nothing is left of any connection.
func (a *agent) nothing(t testing.TB) {
	t.Helper()
	if wires, _, _ := a.plane.counts(); wires != 0 {
		t.Errorf("%d vWires are left", wires)
	}
	if n := len(a.manager.Snapshot()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if n := a.spaces.len(); n != 0 {
		t.Errorf("%d namespaces are held", n)
	}
}

func TestExpiry(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc", identity.WithTokenLifetime(3*time.Second)))
	c.timeout = time.Second
	events := c.watch(t, &connection.MonitorScopeSelector{})
	c.must(c.request("nsc-0", "web", "nsm-1"))
	await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_DELETE })
	await(t, nse, isEndpoint(endpoint.Closed))
	a.nothing(t)
}

// watch monitors until the test ends.
func (c *caller) watch(t *testing.T, selector *connection.MonitorScopeSelector) <-chan *connection.ConnectionEvent {
	t.Helper()
	events := make(chan *connection.ConnectionEvent, 100)
	ready := make(chan struct{})
	t.Cleanup(run(t, func(ctx context.Context) error {
		return c.on(func(_ context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
			stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, selector)
			if err != nil {
				return err
			}
			for {
				e, err := stream.Recv()
				if err != nil {
					return nil
				}
				if e.Type == connection.ConnectionEventType_INITIAL_STATE_TRANSFER {
					close(ready)
				}
				events <- e
			}
		})
	}))
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("no INITIAL_STATE_TRANSFER")
	}
	return events
}

func TestMonitor(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	_, stop := m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	events := c.watch(t, &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Name: "nsc", Id: "nsc-0"}}})
	if e := <-events; e.Type != connection.ConnectionEventType_INITIAL_STATE_TRANSFER || len(e.Connections) != 0 {
		t.Errorf("first event %v", e)
	}
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	c.must(c.request("nsc-1", "web", "nsm-2"))
	e := await(t, events, func(e *connection.ConnectionEvent) bool { return true })
	own := answer.Path.PathSegments[1].Id
	got := e.Connections[own]
	if e.Type != connection.ConnectionEventType_UPDATE || got == nil || got.Id != own || got.Path.Index != 1 || got.Mechanism == nil {
		t.Errorf("update %v", e)
	}
	// The endpoint goes: its connections are DOWN here.
	stop()
	down := await(t, events, func(e *connection.ConnectionEvent) bool { return true })
	if down.Type != connection.ConnectionEventType_UPDATE || down.Connections[own].GetState() != connection.State_DOWN {
		t.Errorf("after the endpoint went: %v", down)
	}
	if err := c.close(answer); err != nil {
		t.Error(err)
	}
	gone := await(t, events, func(e *connection.ConnectionEvent) bool { return true })
	if gone.Type != connection.ConnectionEventType_DELETE || gone.Connections[own] == nil {
		t.Errorf("after close: %v", gone)
	}
}

// A client whose endpoint goes is moved to another one.
func TestHeal(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	_, stopA := m.endpoint(a, m.source("nse-a"), offer("nse-a"))
	_, stopB := m.endpoint(a, m.source("nse-b"), offer("nse-b"))
	nsc, _ := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: []client.Service{{Mechanism: "KERNEL", Name: "web", Interface: "nsm-1"}}})
	first := await(t, nsc, isClient(client.Connected)).Connection.NetworkServiceEndpointName
	if first == "nse-a" {
		stopA()
	} else {
		stopB()
	}
	await(t, nsc, isClient(client.Lost))
	second := await(t, nsc, isClient(client.Connected)).Connection.NetworkServiceEndpointName
	if second == first {
		t.Errorf("connected to %s again, which is gone", second)
	}
	if wires, _, _ := a.plane.counts(); wires != 1 {
		t.Errorf("%d vWires", wires)
	}
}

func TestReselect(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	nse, _ := m.endpoint(a, m.source("nse"), endpoint.Config{Name: "nse-a", Services: []string{"web"}, Pools: pools("10.7.0.0/31")})
	c := m.caller(a, m.source("nsc"))
	events := c.watch(t, &connection.MonitorScopeSelector{})
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	ask := proto.CloneOf(c.again(answer))
	ask.Connection.State, ask.Connection.Mechanism, ask.Connection.NetworkServiceEndpointName = connection.State_RESELECT_REQUESTED, nil, ""
	again := c.must(ask)
	if again.Path.PathSegments[1].Id != answer.Path.PathSegments[1].Id {
		t.Error("our id changed")
	}
	if again.Path.PathSegments[2].Id == answer.Path.PathSegments[2].Id {
		t.Error("the endpoint went on with the former connection")
	}
	await(t, nse, isEndpoint(endpoint.Closed))
	await(t, nse, isEndpoint(endpoint.Opened))
	if err := c.close(again); err != nil {
		t.Error(err)
	}
	for {
		e := await(t, events, func(*connection.ConnectionEvent) bool { return true })
		if e.Type == connection.ConnectionEventType_DELETE {
			break
		}
		for _, conn := range e.Connections {
			if conn.State != connection.State_UP {
				t.Errorf("a reselect was told as %s", conn.State)
			}
		}
	}
	a.nothing(t)
}

// The agent is restarted under a client and an endpoint: packets flow on, the client never loses the connection.
func TestRestart(t *testing.T) {
	m := newMesh(t)
	source, plane := m.source("agent"), newPlane()
	a := m.agent(source, plane)
	nse, _ := m.endpoint(a, m.source("nse"), offer("nse-a"))
	nsc, stop := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: []client.Service{{Mechanism: "KERNEL", Name: "web", Interface: "nsm-1"}}})
	before := await(t, nsc, isClient(client.Connected)).Connection
	a.stop()
	if wires, _, _ := plane.counts(); wires != 1 {
		t.Fatalf("the agent left %d vWires behind", wires)
	}
	b := m.agent(source, plane)
	if got := b.manager.Snapshot(); len(got) != 1 || got[0].Connection.Id != before.Path.PathSegments[1].Id || got[0].Owner.Name != "nsc" {
		t.Fatalf("restored %v", got)
	}
	await(t, nse, isEndpoint(endpoint.Registered))
	after := await(t, nsc, func(e client.Event) bool {
		if e.Kind == client.Lost {
			t.Error("the client lost its connection")
		}
		return e.Kind == client.Refreshed
	}).Connection
	if !proto.Equal(before.Context, after.Context) {
		t.Errorf("the context was %v and is %v", before.Context, after.Context)
	}
	stop()
	await(t, nse, isEndpoint(endpoint.Closed))
	b.nothing(t)
}

// unchanging is a directory whose services never change, and that is asked nothing else.
type unchanging struct{ manager.Directory }

func (unchanging) WatchServices(ctx context.Context, _ func(registry.Event[*registryapi.NetworkService])) error {
	<-ctx.Done()
	return ctx.Err()
}

// A journal record that cannot be read ends its vWire and nothing else.
func TestRestoreDamaged(t *testing.T) {
	t.Parallel()
	p := newPlane()
	for id, record := range map[string]string{"w-1": "", "w-2": "{}", "w-3": `{"Connection":"AAAA"}`, "w-4": `{"Connection":"////"}`} {
		p.wires[id] = forwarder.VWire{ID: id, Record: []byte(record)}
	}
	pool := hop.NewPool("manager-1")
	defer pool.Close()
	m := manager.New(manager.Config{Name: "manager-1", Directory: unchanging{}, Dataplane: p, Pool: pool})
	err := m.Restore(t.Context(), p.List())
	m.Shutdown()
	for _, id := range []string{"w-1", "w-2", "w-3", "w-4"} {
		if err == nil || !strings.Contains(err.Error(), id) {
			t.Errorf("error %v does not name %s", err, id)
		}
	}
	if wires, _, _ := p.counts(); wires != 0 || len(m.Snapshot()) != 0 {
		t.Errorf("%d vWires and %d connections are left", wires, len(m.Snapshot()))
	}
}

// Closed while the endpoint has not come back after a restart: the endpoint's only pair of addresses is not lost.
func TestRestartThenReselect(t *testing.T) {
	m := newMesh(t)
	source, plane := m.source("agent"), newPlane()
	a := m.agent(source, plane)
	nse, _ := m.endpoint(a, m.source("nse"), endpoint.Config{Name: "nse-a", Services: []string{"web"}, Pools: pools("10.7.0.0/31")})
	c := m.caller(a, m.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	a.stop()
	b := m.agent(source, plane)
	if err := c.close(answer); err != nil {
		t.Fatal(err)
	}
	await(t, nse, isEndpoint(endpoint.Registered))
	ask := proto.CloneOf(c.again(answer))
	ask.Connection.State, ask.Connection.Mechanism, ask.Connection.NetworkServiceEndpointName = connection.State_RESELECT_REQUESTED, nil, ""
	again := c.must(ask)
	if again.Context.IpContext.SrcIpAddrs[0] != "10.7.0.1/32" {
		t.Errorf("addresses %v", again.Context.IpContext.SrcIpAddrs)
	}
	if err := c.close(again); err != nil {
		t.Error(err)
	}
	b.nothing(t)
}

// Ids and interfaces of others.
func TestStrangers(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	owner := m.caller(a, m.source("nsc"))
	answer := owner.must(owner.request("nsc-0", "web", "nsm-1"))
	thief := m.caller(a, m.source("thief"))

	stolen := proto.CloneOf(thief.again(answer))
	stolen.Connection.Mechanism.Parameters["inodeURL"] = thief.inode.String()
	got := thief.must(stolen)
	if got.Path.PathSegments[1].Id == answer.Path.PathSegments[1].Id || got.Path.PathSegments[2].Id == answer.Path.PathSegments[2].Id {
		t.Error("a stranger took over a connection by its id")
	}
	if err := thief.close(answer); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger's close: %v", err)
	}
	// Naming a namespace is not having it.
	foreign := thief.request("nsc-9", "web", "nsm-9")
	foreign.MechanismPreferences[0].Parameters["inodeURL"] = owner.inode.String()
	if _, err := thief.do(foreign); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "never arrived") {
		t.Errorf("a namespace that was not sent: %v", err)
	}
	// An interface of the owner's namespace belongs to it, under whatever id; another client in there is refused.
	clash := owner.request("other-0", "web", "nsm-1")
	clash.Connection.Path.PathSegments[0].Name = "other"
	if _, err := owner.do(clash); status.Code(err) != codes.AlreadyExists {
		t.Errorf("interface of another client: %v", err)
	}
	if wires, _, _ := a.plane.counts(); wires != 2 {
		t.Errorf("%d vWires, want the owner's and the stranger's own", wires)
	}
	owner.must(owner.again(answer))

	// A client that was killed comes back without its path and gets its interface again.
	owner.must(owner.request("nsc-0", "web", "nsm-1"))
	if wires, _, _ := a.plane.counts(); wires != 2 {
		t.Errorf("%d vWires after the client came back", wires)
	}
}

// The next candidate is tried when one refuses, and turns are taken.
func TestCandidates(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	for _, name := range []string{"nse-a", "nse-b"} {
		m.endpoint(a, m.source(name), endpoint.Config{Name: name, Services: []string{"web"}, Pools: pools("10.7.0.0/31")})
	}
	c := m.caller(a, m.source("nsc"))
	seen := map[string]bool{}
	for _, id := range []string{"nsc-0", "nsc-1"} {
		seen[c.must(c.request(id, "web", id)).NetworkServiceEndpointName] = true
	}
	if len(seen) != 2 {
		t.Errorf("both connections went to %v", seen)
	}
	_, err := c.do(c.request("nsc-2", "web", "nsc-2"))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "nse-a") || !strings.Contains(err.Error(), "nse-b") {
		t.Errorf("a third one: %v", err)
	}
	if wires, _, _ := a.plane.counts(); wires != 2 {
		t.Errorf("%d vWires", wires)
	}
}

func TestBadInput(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	c := m.caller(a, m.source("nsc"))
	many := map[string]string{}
	for i := range 100 {
		many[strings.Repeat("k", i+1)] = "v"
	}
	tests := map[string]struct {
		change func(r *networkservice.NetworkServiceRequest)
		code   codes.Code
		text   string
	}{
		"nothing":            {func(r *networkservice.NetworkServiceRequest) { r.Connection = nil }, codes.InvalidArgument, "connection is missing"},
		"no path":            {func(r *networkservice.NetworkServiceRequest) { r.Connection.Path = nil }, codes.InvalidArgument, "connection.path"},
		"empty path":         {func(r *networkservice.NetworkServiceRequest) { r.Connection.Path.PathSegments = nil }, codes.InvalidArgument, "connection.path"},
		"index outside":      {func(r *networkservice.NetworkServiceRequest) { r.Connection.Path.Index = 7 }, codes.InvalidArgument, "path.index"},
		"huge index":         {func(r *networkservice.NetworkServiceRequest) { r.Connection.Path.Index = 1<<32 - 1 }, codes.InvalidArgument, "path.index"},
		"other id":           {func(r *networkservice.NetworkServiceRequest) { r.Connection.Id = "else" }, codes.InvalidArgument, "connection.id"},
		"no id":              {func(r *networkservice.NetworkServiceRequest) { r.Connection.Id = "" }, codes.InvalidArgument, "connection.id"},
		"our name (trap 11)": {func(r *networkservice.NetworkServiceRequest) { r.Connection.Path.PathSegments[0].Name = "manager-1" }, codes.InvalidArgument, "NSM_NAME"},
		"no service":         {func(r *networkservice.NetworkServiceRequest) { r.Connection.NetworkService = "" }, codes.InvalidArgument, "network_service"},
		"unknown service":    {func(r *networkservice.NetworkServiceRequest) { r.Connection.NetworkService = "nowhere" }, codes.NotFound, "nowhere"},
		"unknown endpoint":   {func(r *networkservice.NetworkServiceRequest) { r.Connection.NetworkServiceEndpointName = "nobody" }, codes.NotFound, "nobody"},
		"other payload":      {func(r *networkservice.NetworkServiceRequest) { r.Connection.Payload = "ETHERNET" }, codes.NotFound, "ETHERNET"},
		"bad payload":        {func(r *networkservice.NetworkServiceRequest) { r.Connection.Payload = "PIGEON" }, codes.InvalidArgument, "payload"},
		"no mechanism":       {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences = nil }, codes.InvalidArgument, "mechanism_preferences"},
		"unknown mechanism":  {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Type = "SRV6" }, codes.InvalidArgument, "SRV6"},
		"remote kernel":      {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Cls = "REMOTE" }, codes.InvalidArgument, "REMOTE"},
		"bad class":          {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Cls = "NEAR" }, codes.InvalidArgument, "cls"},
		"long interface": {func(r *networkservice.NetworkServiceRequest) {
			r.MechanismPreferences[0].Parameters["name"] = "sixteen-letters-"
		}, codes.InvalidArgument, "16 bytes"},
		"path as interface":  {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Parameters["name"] = "../etc" }, codes.InvalidArgument, "name"},
		"space in interface": {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Parameters["name"] = "a b" }, codes.InvalidArgument, "name"},
		"loopback":           {func(r *networkservice.NetworkServiceRequest) { r.MechanismPreferences[0].Parameters["name"] = "lo" }, codes.InvalidArgument, "name"},
		"no namespace": {func(r *networkservice.NetworkServiceRequest) {
			delete(r.MechanismPreferences[0].Parameters, "inodeURL")
		}, codes.InvalidArgument, "inodeURL"},
		"namespace by path": {func(r *networkservice.NetworkServiceRequest) {
			r.MechanismPreferences[0].Parameters["inodeURL"] = "file:///proc/1/ns/net"
		}, codes.InvalidArgument, "inodeURL"},
		"namespace not sent": {func(r *networkservice.NetworkServiceRequest) {
			r.MechanismPreferences[0].Parameters["inodeURL"] = "inode://4/4026531840"
		}, codes.DeadlineExceeded, "never arrived"},
		"bad address": {withContext(func(c *connectioncontext.IPContext) { c.SrcIpAddrs = []string{"10.0.0.1"} }), codes.InvalidArgument, "src_ip_addrs[0]"},
		"bad route": {withContext(func(c *connectioncontext.IPContext) {
			c.DstRoutes = []*connectioncontext.Route{{Prefix: "10.0.0.0/33"}}
		}), codes.InvalidArgument, "dst_routes[0].prefix"},
		"bad next hop": {withContext(func(c *connectioncontext.IPContext) {
			c.SrcRoutes = []*connectioncontext.Route{{Prefix: "10.0.0.0/8", NextHop: "::1"}}
		}), codes.InvalidArgument, "nextHop"},
		"bad exclusion":       {withContext(func(c *connectioncontext.IPContext) { c.ExcludedPrefixes = []string{"everything"} }), codes.InvalidArgument, "excluded_prefixes[0]"},
		"everything excluded": {withContext(func(c *connectioncontext.IPContext) { c.ExcludedPrefixes = []string{"0.0.0.0/0"} }), codes.ResourceExhausted, "no free pair"},
		"bad policy":          {withContext(func(c *connectioncontext.IPContext) { c.Policies = []*connectioncontext.PolicyRoute{{Proto: "tcp"}} }), codes.InvalidArgument, "policies[0].proto"},
		"bad extra prefix": {withContext(func(c *connectioncontext.IPContext) {
			c.ExtraPrefixRequest = []*connectioncontext.ExtraPrefixRequest{{PrefixLen: 99}}
		}), codes.InvalidArgument, "extra_prefix_request[0]"},
		"bad MAC": {func(r *networkservice.NetworkServiceRequest) {
			r.Connection.Context = &connectioncontext.ConnectionContext{EthernetContext: &connectioncontext.EthernetContext{SrcMac: "ff:ff:ff:ff:ff:ff"}}
		}, codes.InvalidArgument, "src_mac"},
		"huge MTU": {func(r *networkservice.NetworkServiceRequest) {
			r.Connection.Context = &connectioncontext.ConnectionContext{MTU: 1 << 31}
		}, codes.InvalidArgument, "MTU"},
		"many labels": {func(r *networkservice.NetworkServiceRequest) { r.Connection.Labels = many }, codes.InvalidArgument, "labels"},
		"huge label": {func(r *networkservice.NetworkServiceRequest) {
			r.Connection.Labels = map[string]string{"k": strings.Repeat("x", 512<<10)}
		}, codes.InvalidArgument, "labels"},
		"huge message": {func(r *networkservice.NetworkServiceRequest) {
			r.Connection.Labels = map[string]string{"k": strings.Repeat("x", 5<<20)}
		}, codes.ResourceExhausted, "larger than max"},
		"control characters": {func(r *networkservice.NetworkServiceRequest) { r.Connection.NetworkService = "web\n" }, codes.InvalidArgument, "network_service"},
		"many segments": {func(r *networkservice.NetworkServiceRequest) {
			for range 100 {
				r.Connection.Path.PathSegments = append(r.Connection.Path.PathSegments, &connection.PathSegment{Name: "x", Id: "y"})
			}
		}, codes.InvalidArgument, "segments"},
		"segments without token": {func(r *networkservice.NetworkServiceRequest) {
			p := r.Connection.Path
			p.PathSegments = append([]*connection.PathSegment{{Name: "x", Id: "y"}}, p.PathSegments...)
			p.Index = 1
		}, codes.PermissionDenied, "rule"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := c.request("nsc-0", "web", "nsm-1")
			test.change(r)
			err := c.on(func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
				_, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, r, opts...)
				return err
			})
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v; want %s with %q", err, test.code, test.text)
			}
			a.nothing(t)
		})
	}
	c.must(c.request("nsc-0", "web", "nsm-1"))
}

func withContext(change func(*connectioncontext.IPContext)) func(*networkservice.NetworkServiceRequest) {
	return func(r *networkservice.NetworkServiceRequest) {
		ip := &connectioncontext.IPContext{}
		change(ip)
		r.Connection.Context = &connectioncontext.ConnectionContext{IpContext: ip}
	}
}
