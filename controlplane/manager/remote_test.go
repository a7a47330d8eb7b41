package manager_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/manager"
	"highwire/controlplane/registry"
	"highwire/mechanisms"
	"highwire/mechanisms/memif"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// fakeTunnel stands for a mechanism between nodes.
type fakeTunnel struct {
	typ     string
	payload mechanisms.Payload

	mu   sync.Mutex
	addr string
	mtu  string
	fail error
	// lies are added to what it answers.
	lies map[string]string
}

func (t *fakeTunnel) Type() string                                    { return t.typ }
func (t *fakeTunnel) Class() mechanisms.Class                         { return mechanisms.Remote }
func (t *fakeTunnel) Payloads() []mechanisms.Payload                  { return []mechanisms.Payload{t.payload} }
func (t *fakeTunnel) Objects(mechanisms.End) ([]vppapi.Object, error) { return nil, nil }

func (t *fakeTunnel) Propose(end mechanisms.End, far netip.Addr) (map[string]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if end.Side != mechanisms.Endpoint || !far.IsLoopback() {
		return nil, fault.New(fault.Internal, "asked to reach %s from the %s side", far, end.Side)
	}
	return map[string]string{mechanisms.ParamSrcIP: t.addr, mechanisms.ParamMTU: t.mtu}, t.fail
}

func (t *fakeTunnel) Complete(end mechanisms.End) (map[string]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := end.Params[mechanisms.ParamDstIP]
	if end.Side != mechanisms.Client || said != "" && said != t.addr {
		return nil, fault.New(fault.Invalid, "parameters[%s] %s is none of our addresses", mechanisms.ParamDstIP, said)
	}
	answer := map[string]string{mechanisms.ParamDstIP: t.addr, mechanisms.ParamVNI: "6", mechanisms.ParamMTU: min(t.mtu, end.Params[mechanisms.ParamMTU])}
	maps.Copy(answer, t.lies)
	return answer, t.fail
}

func (t *fakeTunnel) set(addr, mtu string, fail error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addr, t.mtu, t.fail = addr, mtu, fail
}

// shared is a node's directory, which has another node's endpoints too.
type shared struct {
	manager.Directory
	other func() *agent
}

func (s shared) FindService(ctx context.Context, name string) (*registryapi.NetworkService, error) {
	if own, err := s.Directory.FindService(ctx, name); err == nil {
		return own, nil
	}
	return s.other().reg.FindService(ctx, name)
}

func (s shared) Candidates(ctx context.Context, ns *registryapi.NetworkService, labels map[string]string) ([]registry.Candidate, error) {
	own, err := s.Directory.Candidates(ctx, ns, labels)
	if err != nil {
		return nil, err
	}
	others, err := s.other().reg.Candidates(ctx, ns, labels)
	for _, e := range others {
		e.NetworkServiceEndpoint = s.abroad(e.NetworkServiceEndpoint)
		own = append(own, e)
	}
	return own, err
}

func (s shared) Endpoint(ctx context.Context, name string) (*registryapi.NetworkServiceEndpoint, error) {
	if own, err := s.Directory.Endpoint(ctx, name); err == nil {
		return own, nil
	}
	e, err := s.other().reg.Endpoint(ctx, name)
	return s.abroad(e), err
}

func (s shared) abroad(e *registryapi.NetworkServiceEndpoint) *registryapi.NetworkServiceEndpoint {
	if e == nil {
		return nil
	}
	e = proto.CloneOf(e)
	e.Url = "tcp://" + s.other().tcp
	return e
}

// pair is two nodes: clients are at near, endpoints at far.
type pair struct {
	*mesh     // near's
	away      *mesh
	near, far *agent
	// tunnels of each node
	nearVX, farVX *fakeTunnel
	silence       time.Duration
}

const nearAddr, farAddr = "192.0.2.1", "192.0.2.2"

func newPair(t *testing.T) *pair {
	m := newMesh(t)
	p := &pair{mesh: m, away: m.elsewhere(), silence: time.Minute,
		nearVX: &fakeTunnel{typ: mechanisms.VXLAN, payload: mechanisms.Ethernet, addr: nearAddr, mtu: "1446"},
		farVX:  &fakeTunnel{typ: mechanisms.VXLAN, payload: mechanisms.Ethernet, addr: farAddr, mtu: "1440"}}
	p.startFar(newPlane())
	p.startNear(newPlane())
	return p
}

func (p *pair) start(m *mesh, name string, plane *plane, vx *fakeTunnel, other func() *agent) *agent {
	return m.agent(m.source(name), plane, func(c *manager.Config) {
		c.Name, c.NodeSilence = name, p.silence
		c.Mechanisms = mechanisms.Set{memif.New(memif.Config{}), kernel{}, vx, &fakeTunnel{typ: mechanisms.WireGuard, payload: mechanisms.IP, addr: vx.addr, mtu: "1420"}}
		if other != nil {
			c.Directory = shared{Directory: c.Directory, other: other}
		}
	})
}

func (p *pair) startNear(plane *plane) {
	p.near = p.start(p.mesh, "near", plane, p.nearVX, func() *agent { return p.far })
}

func (p *pair) startFar(plane *plane) { p.far = p.start(p.away, "far", plane, p.farVX, nil) }

// restartFar ends the far agent and starts it again, at the same address, with the vWires of plane.
func (p *pair) restartFar(plane *plane) {
	p.far.stop()
	p.away.tcp = p.far.tcp
	p.startFar(plane)
}

func ethernet(name string) endpoint.Config {
	c := offer(name)
	c.Payload = mechanisms.Ethernet
	return c
}

// The whole life of a vWire between two nodes.
func TestRemoteLife(t *testing.T) {
	for payload, typ := range map[mechanisms.Payload]string{mechanisms.Ethernet: mechanisms.VXLAN, mechanisms.IP: mechanisms.WireGuard} {
		t.Run(typ, func(t *testing.T) {
			p := newPair(t)
			offered := offer("nse-a")
			offered.Payload = payload
			nse, _ := p.away.endpoint(p.far, p.source("nse"), offered)
			services, err := client.ParseServices("kernel://web/nsm-1")
			if err != nil {
				t.Fatal(err)
			}
			nsc, stop := p.client(p.near, p.source("nsc"), client.Config{Name: "nsc", Services: services})
			up := await(t, nsc, isClient(client.Connected)).Connection
			var names []string
			for _, s := range up.Path.PathSegments {
				names = append(names, s.Name)
			}
			if !slices.Equal(names, []string{"nsc", "near", "far", "nse-a"}) || up.Mechanism.Type != mechanisms.Kernel {
				t.Errorf("path %v, mechanism %v", names, up.Mechanism)
			}

			near, far := p.near.plane.List()[0].VWire, p.far.plane.List()[0].VWire
			if near.ID != up.Path.PathSegments[1].Id || far.ID != up.Path.PathSegments[2].Id {
				t.Errorf("vWires %s and %s are not those of the path", near.ID, far.ID)
			}
			if near.Client.Type != mechanisms.Kernel || near.Endpoint.Type != typ || far.Client.Type != typ || far.Endpoint.Type != mechanisms.Kernel {
				t.Errorf("near %s–%s, far %s–%s", near.Client.Type, near.Endpoint.Type, far.Client.Type, far.Endpoint.Type)
			}
			want := map[string]string{"src_ip": nearAddr, "dst_ip": farAddr, "vni": "6", "MTU": "1440"}
			if typ == mechanisms.WireGuard {
				want["MTU"] = "1420"
			}
			if !maps.Equal(near.Endpoint.Params, want) || !maps.Equal(far.Client.Params, want) {
				t.Errorf("tunnel: near %v, far %v, want %v", near.Endpoint.Params, far.Client.Params, want)
			}
			for _, e := range []mechanisms.End{near.Client, near.Endpoint, far.Client, far.Endpoint} {
				if e.MTU != up.Context.MTU || e.MTU == 0 {
					t.Errorf("%s has MTU %d, the client's connection %d", e.Name(), e.MTU, up.Context.MTU)
				}
			}
			if !slices.Equal(near.Client.Addresses, far.Client.Addresses) || !slices.Equal(near.Endpoint.Addresses, far.Endpoint.Addresses) || len(near.Client.Addresses) != 2 {
				t.Errorf("addresses: near %v and %v, far %v and %v", near.Client.Addresses, near.Endpoint.Addresses, far.Client.Addresses, far.Endpoint.Addresses)
			}

			stop()
			await(t, nse, isEndpoint(endpoint.Closed))
			for name, a := range map[string]*agent{"near": p.near, "far": p.far} {
				if n, _, _ := a.plane.counts(); n != 0 || len(a.manager.Snapshot()) != 0 || a.spaces.len() != 0 {
					t.Errorf("%s keeps %d vWires, %d connections, %d namespaces", name, n, len(a.manager.Snapshot()), a.spaces.len())
				}
			}
		})
	}
}

// A refresh crosses the hop and changes nothing; a tunnel address that changed makes a new tunnel for the same connection.
func TestRemoteRefresh(t *testing.T) {
	p := newPair(t)
	p.away.endpoint(p.far, p.source("nse"), ethernet("nse-a"))
	c := p.caller(p.near, p.source("nsc"))
	first := c.must(c.request("nsc-0", "web", "nsm-1"))
	again := c.must(c.again(first))
	for name, a := range map[string]*agent{"near": p.near, "far": p.far} {
		if _, sets, records := a.plane.counts(); sets != 1 || records != 1 {
			t.Errorf("%s: %d sets and %d records after a refresh; want 1 and 1", name, sets, records)
		}
	}
	for i, s := range first.Path.PathSegments {
		if again.Path.PathSegments[i].Id != s.Id {
			t.Errorf("segment %d was %s and is %s", i, s.Id, again.Path.PathSegments[i].Id)
		}
	}
	for _, change := range []struct {
		tunnel *fakeTunnel
		addr   string
	}{{p.nearVX, "192.0.2.11"}, {p.farVX, "192.0.2.12"}} {
		change.tunnel.set(change.addr, "1400", nil)
		again = c.must(c.again(again))
		near, far := p.near.plane.List(), p.far.plane.List()
		if len(near) != 1 || len(far) != 1 || far[0].VWire.ID != first.Path.PathSegments[2].Id {
			t.Fatalf("%d vWires near, %d far", len(near), len(far))
		}
		a, b := near[0].VWire.Endpoint.Params, far[0].VWire.Client.Params
		if !maps.Equal(a, b) || a[mechanisms.ParamSrcIP] != p.nearVX.addr || a[mechanisms.ParamDstIP] != p.farVX.addr || again.Context.MTU != 1400 {
			t.Errorf("tunnel after %s: near %v, far %v, MTU %d", change.addr, a, b, again.Context.MTU)
		}
	}
	if err := c.close(again); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := p.far.plane.counts(); n != 0 {
		t.Errorf("%d vWires are left at the far node", n)
	}
}

// What becomes of the endpoint reaches the client's node, and the other way round.
func TestRemoteEvents(t *testing.T) {
	p := newPair(t)
	_, stop := p.away.endpoint(p.far, p.source("nse"), ethernet("nse-a"))
	c := p.caller(p.near, p.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	events := c.watch(t, &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Id: "nsc-0"}}})
	await(t, events, func(e *connection.ConnectionEvent) bool {
		return e.Type == connection.ConnectionEventType_INITIAL_STATE_TRANSFER && len(e.Connections) == 1
	})
	stop()
	id := answer.Path.PathSegments[1].Id
	await(t, events, func(e *connection.ConnectionEvent) bool {
		return e.Connections[id].GetState() == connection.State_DOWN
	})
	// The client chooses anew, and gets the endpoint that is there now.
	p.away.endpoint(p.far, p.source("nse-2"), ethernet("nse-b"))
	r := c.again(answer)
	r.Connection.State, r.Connection.Mechanism, r.Connection.NetworkServiceEndpointName = connection.State_RESELECT_REQUESTED, nil, ""
	healed := c.must(r)
	if healed.NetworkServiceEndpointName != "nse-b" {
		t.Errorf("healed with %s", healed.NetworkServiceEndpointName)
	}
	for name, a := range map[string]*agent{"near": p.near, "far": p.far} {
		if n, _, _ := a.plane.counts(); n != 1 {
			t.Errorf("%s has %d vWires after healing", name, n)
		}
	}
	if err := c.close(healed); err != nil {
		t.Fatal(err)
	}
	await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_DELETE })
}

// The far agent is started again: with its journal nothing happens to the connection, without it the client hears.
func TestRemoteRestart(t *testing.T) {
	p := newPair(t)
	nse := p.source("nse")
	_, stop := p.away.endpoint(p.far, nse, ethernet("nse-a"))
	c := p.caller(p.near, p.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	events := c.watch(t, &connection.MonitorScopeSelector{})
	p.restartFar(p.far.plane)
	// The refresh finds the connection again as soon as the endpoint has registered again.
	deadline := time.Now().Add(patience)
	for {
		again, err := c.do(c.again(answer))
		if err == nil {
			if again.Path.PathSegments[2].Id != answer.Path.PathSegments[2].Id {
				t.Errorf("the far node calls it %s, before %s", again.Path.PathSegments[2].Id, answer.Path.PathSegments[2].Id)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if n, sets, _ := p.far.plane.counts(); n != 1 || sets != 2 {
		t.Errorf("the far node has %d vWires, set %d times", n, sets)
	}
	if n, sets, _ := p.near.plane.counts(); n != 1 || sets != 1 {
		t.Errorf("the near node has %d vWires, set %d times", n, sets)
	}
	if p.near.manager.Snapshot()[0].Down {
		t.Error("the near node takes it for lost")
	}
	stop()
	p.restartFar(newPlane())
	await(t, events, func(e *connection.ConnectionEvent) bool {
		return e.Connections[answer.Path.PathSegments[1].Id].GetState() == connection.State_DOWN
	})
}

// A far agent that is not heard of any more is given up after a while.
func TestRemoteSilence(t *testing.T) {
	p := newPair(t)
	p.away.endpoint(p.far, p.source("nse"), ethernet("nse-a"))
	p.near.stop()
	p.silence = 200 * time.Millisecond
	p.startNear(newPlane())
	c := p.caller(p.near, p.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	events := c.watch(t, &connection.MonitorScopeSelector{})
	p.far.stop()
	await(t, events, func(e *connection.ConnectionEvent) bool {
		return e.Connections[answer.Path.PathSegments[1].Id].GetState() == connection.State_DOWN
	})
}

// A path that comes back to a node is refused by it, and names the way.
func TestRemoteLoop(t *testing.T) {
	p := newPair(t)
	source := p.source("node")
	for name, c := range map[string]struct {
		path []string
		code codes.Code
		says string
	}{
		"to itself":            {[]string{"nsc", "near"}, codes.InvalidArgument, "a loop: it comes back to near by way of nsc, near"},
		"and back":             {[]string{"nsc", "near", "far"}, codes.InvalidArgument, "a loop: it comes back to near by way of nsc, near, far"},
		"after a pass-through": {[]string{"nsc", "near", "nse", "far"}, codes.NotFound, `network service "web" is not registered`},
	} {
		caller := p.caller(p.near, source)
		r := caller.request("x", "web", "")
		r.Connection.Path.PathSegments = nil
		for _, segment := range c.path {
			token, err := source.Token(source.ID())
			if err != nil {
				t.Fatal(err)
			}
			r.Connection.Path.PathSegments = append(r.Connection.Path.PathSegments, &connection.PathSegment{Name: segment, Id: "x", Token: token.JWT})
		}
		r.Connection.Path.Index = uint32(len(c.path) - 1)
		r.MechanismPreferences = []*connection.Mechanism{{Cls: "REMOTE", Type: mechanisms.VXLAN, Parameters: map[string]string{"src_ip": farAddr}}}
		if _, err := caller.do(r); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// know puts an endpoint into an agent's own registry, at the URL of another node.
func know(t *testing.T, a *agent, at string) {
	t.Helper()
	if err := a.store.PutService(t.Context(), &registryapi.NetworkService{Name: "web", Payload: "ETHERNET"}); err != nil {
		t.Fatal(err)
	}
	if err := a.store.PutEndpoint(t.Context(), &registryapi.NetworkServiceEndpoint{Name: "nse-a", NetworkServiceNames: []string{"web"}, Url: "tcp://" + at}); err != nil {
		t.Fatal(err)
	}
}

func nothingLeft(t *testing.T, agents ...*agent) {
	t.Helper()
	for i, a := range agents {
		if n, _, _ := a.plane.counts(); n != 0 || len(a.manager.Snapshot()) != 0 {
			t.Errorf("agent %d keeps %d vWires and %d connections", i, n, len(a.manager.Snapshot()))
		}
	}
}

// Whatever goes wrong at either node: a clear error, and nothing left at both.
func TestRemoteFailures(t *testing.T) {
	noUplink := fault.New(fault.Unavailable, "no uplink")
	for name, c := range map[string]struct {
		spoil func(p *pair)
		code  codes.Code
		says  string
	}{
		"no tunnel here":  {func(p *pair) { p.nearVX.set("", "", noUplink) }, codes.Unavailable, "mechanism VXLAN: no uplink"},
		"no tunnel there": {func(p *pair) { p.farVX.set("", "", noUplink) }, codes.Unavailable, "mechanism VXLAN: no uplink"},
		"dataplane here":  {func(p *pair) { p.near.plane.failWith(fault.New(fault.Conflict, "key in use")) }, codes.AlreadyExists, "key in use"},
		"dataplane there": {func(p *pair) { p.far.plane.failWith(fault.New(fault.Conflict, "VNI in use")) }, codes.AlreadyExists, "VNI in use"},
		"far node gone":   {func(p *pair) { p.far.stop() }, codes.Unavailable, "endpoint nse-a at tcp://127.0.0.1:"},
		"moved on":        {func(p *pair) { know(p.t, p.far, p.near.tcp) }, codes.NotFound, "it is not on this node; the registry has it at tcp://127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			nse, _ := p.away.endpoint(p.far, p.source("nse"), ethernet("nse-a"))
			p.near.stop()
			p.near = p.start(p.mesh, "near", newPlane(), p.nearVX, nil)
			know(t, p.near, p.far.tcp)
			caller := p.caller(p.near, p.source("nsc"))
			c.spoil(p)
			_, err := caller.do(caller.request("nsc-0", "web", "nsm-1"))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %s saying %q", err, c.code, c.says)
			}
			nothingLeft(t, p.near, p.far)
			for len(nse) > 0 {
				if e := <-nse; e.Kind == endpoint.Opened {
					await(t, nse, isEndpoint(endpoint.Closed))
				}
			}
		})
	}
}

// The near agent is started again: it finds the far one and goes on with the same tunnel.
func TestRemoteRestartNear(t *testing.T) {
	p := newPair(t)
	p.away.endpoint(p.far, p.source("nse"), ethernet("nse-a"))
	c := p.caller(p.near, p.source("nsc"))
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	tunnel := p.near.plane.List()[0].VWire.Endpoint.Params
	p.near.stop()
	p.startNear(p.near.plane)
	again := c.must(c.again(answer))
	for i, s := range answer.Path.PathSegments {
		if again.Path.PathSegments[i].Id != s.Id {
			t.Errorf("segment %d was %s and is %s", i, s.Id, again.Path.PathSegments[i].Id)
		}
	}
	if now := p.near.plane.List()[0].VWire.Endpoint.Params; !maps.Equal(now, tunnel) {
		t.Errorf("tunnel %v, before %v", now, tunnel)
	}
	if _, sets, _ := p.far.plane.counts(); sets != 1 {
		t.Errorf("the far vWire was set %d times", sets)
	}
	if err := c.close(again); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, p.near, p.far)
}
