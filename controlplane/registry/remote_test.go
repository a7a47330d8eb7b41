package registry

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// hub is the registry that others share; it can be restarted at its address.
type hub struct {
	m       *mesh
	address string
	store   Store
	stop    func()
}

func newHub(m *mesh) *hub {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	h := &hub{m: m, address: l.Addr().String(), store: m.store}
	h.serve(l)
	m.t.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) serve(l net.Listener) {
	r := New(h.store, h.m.agent, WithPublicURL("tcp://"+h.address))
	server := grpc.NewServer(grpc.Creds(h.m.agent.ServerCredentials()), grpc.UnaryInterceptor(codesOf))
	r.AddTo(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	h.stop = func() {
		server.Stop()
		<-done
		r.Close()
	}
}

// restart begins again at the same address, with what is in the store.
func (h *hub) restart(store Store) {
	h.m.t.Helper()
	l, err := net.Listen("tcp", h.address)
	if err != nil {
		h.m.t.Fatal(err)
	}
	h.store = store
	h.serve(l)
}

// node is an agent that shares a registry with others.
type node struct {
	m      *mesh
	id     *identity.Source
	store  Store
	reg    *Registry
	public string
	target string // where its own members connect
}

// node is one that shares the hub's registry.
func (m *mesh) node(h *hub, name string) *node {
	m.t.Helper()
	id := m.source("/" + name)
	store := OpenRemote(Peer{Target: h.address, Options: id.DialOptions()})
	m.t.Cleanup(func() { _ = store.Close() })
	return m.nodeOver(id, store)
}

func (m *mesh) nodeOver(id *identity.Source, store Store) *node {
	m.t.Helper()
	n := &node{m: m, id: id, store: store, public: "tcp://" + freePort(m.t)}
	n.reg = New(n.store, n.id, WithPublicURL(n.public))
	m.t.Cleanup(n.reg.Close)
	n.target = m.listen("unix", n.id, n.reg.AddTo)
	return n
}

// register registers an endpoint on the node, with its socket, and waits until its own node sees it.
func (n *node) register(nse *identity.Source, name, service string) (url string) {
	n.m.t.Helper()
	file, url := openSocket(n.m.t, n.m.nse(nse, name))
	ctx := n.m.timeout(time.Minute)
	if _, err := n.m.services(n.target, nse).Register(ctx, &registryapi.NetworkService{Name: service, Payload: "ETHERNET"}); err != nil {
		n.m.t.Fatal(err)
	}
	e, err := n.m.endpoints(n.target, nse).Register(ctx, &registryapi.NetworkServiceEndpoint{Name: name, NetworkServiceNames: []string{service}, Url: url}, hop.WithFile(file))
	if err != nil {
		n.m.t.Fatal(err)
	}
	if e.Url != url || !e.ExpirationTime.IsValid() || len(e.PathIds) < 2 || e.PathIds[0] != nse.ID() {
		n.m.t.Errorf("registered: %v", e)
	}
	n.sees(name, withURL(url))
	return url
}

func inSeconds(n int) *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(time.Duration(n) * time.Second))
}

// sees waits until the node's registry has an endpoint that is as wanted, or with wanted nil has none of the name.
func (n *node) sees(name string, wanted func(*registryapi.NetworkServiceEndpoint) bool) {
	n.m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := func() bool {
		e, err := n.reg.Endpoint(ctx, name)
		if err != nil {
			return wanted == nil
		}
		return wanted != nil && wanted(e)
	}
	err := n.store.WatchEndpoints(ctx, func() error { return stopIf(done()) }, func(Event[*registryapi.NetworkServiceEndpoint]) error { return stopIf(done()) })
	if !errors.Is(err, errSeen) {
		n.m.t.Fatalf("endpoint %s: %v", name, err)
	}
}

// codesOf answers with the statuses that other members of the mesh understand, as controlplane/server does.
func codesOf(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		code, ok := map[fault.Kind]codes.Code{fault.Denied: codes.PermissionDenied, fault.Invalid: codes.InvalidArgument, fault.Unavailable: codes.Unavailable}[fault.KindOf(err)]
		if !ok {
			code = codes.Internal
		}
		err = status.Error(code, err.Error())
	}
	return resp, err
}

var errSeen = fault.New(fault.Canceled, "seen")

func stopIf(done bool) error {
	if done {
		return errSeen
	}
	return nil
}

func withURL(url string) func(*registryapi.NetworkServiceEndpoint) bool {
	return func(e *registryapi.NetworkServiceEndpoint) bool { return e.Url == url }
}

// An endpoint of one node is found from the others at the node's address, from its own node at its socket, and belongs to who
// registered it everywhere.
func TestSharedRegistry(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	h := newHub(m)
	a, b := m.node(h, "a"), m.node(h, "b")
	nse, ctx := m.source("/nse"), m.timeout(time.Minute)
	file, url := openSocket(t, m.nse(nse, "e"))

	var header metadata.MD
	s, err := m.services(a.target, nse).Register(ctx, &registryapi.NetworkService{Name: "s", Payload: "ETHERNET"}, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	wantIDs := func(ids []string) {
		t.Helper()
		if len(ids) != 3 || ids[0] != nse.ID() || ids[1] != a.id.ID() || ids[2] != m.agent.ID() {
			t.Errorf("path_ids: %v", ids)
		}
	}
	wantPath := func(header metadata.MD) string {
		t.Helper()
		values := header.Get("path")
		if len(values) != 1 {
			t.Fatalf("header path: %v", values)
		}
		p, err := parsePath(values[0])
		if err != nil || p.Index != 0 || len(p.PathSegments) != 3 {
			t.Fatalf("header path: %+v, %v", p, err)
		}
		if err := identity.CheckChained(p.tokens()); err != nil {
			t.Error(err)
		}
		return values[0]
	}
	wantIDs(s.PathIds)
	wantPath(header)

	e, err := m.endpoints(a.target, nse).Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: url}, hop.WithFile(file), grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	if e.Url != url || !e.ExpirationTime.IsValid() {
		t.Errorf("registered: %v", e)
	}
	wantIDs(e.PathIds)
	text := wantPath(header)

	a.sees("e", withURL(url)) // at once: the node need not wait for the other registry to tell it
	b.sees("e", withURL(a.public))
	if got, err := b.reg.FindService(ctx, "s"); err != nil || got.Payload != "ETHERNET" {
		t.Errorf("service from the other node: %v, %v", got, err)
	}
	found, err := b.reg.Endpoint(ctx, "e")
	if err != nil {
		t.Fatal(err)
	}
	if target, err := b.reg.Target(found); err != nil || "tcp://"+target != a.public {
		t.Errorf("target: %q, %v", target, err)
	}

	// A refresh with the path that came back.
	e.ExpirationTime = nil
	if e, err = m.endpoints(a.target, nse).Register(metadata.AppendToOutgoingContext(ctx, "path", text), e, hop.WithFile(file), grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	wantIDs(e.PathIds)
	wantPath(header)

	// Nobody else has a say, through whichever node.
	if _, err := m.endpoints(b.target, m.source("/other")).Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}); !isKind(err, fault.Denied) {
		t.Errorf("registered by another: %v", err)
	}
	if _, err := m.endpoints(b.target, m.source("/other")).Unregister(ctx, e); !isKind(err, fault.Denied) {
		t.Errorf("unregistered by another: %v", err)
	}
	if _, err := m.endpoints(a.target, nse).Unregister(ctx, e); err != nil {
		t.Fatal(err)
	}
	a.sees("e", nil)
	b.sees("e", nil)
	if _, err := m.services(a.target, nse).Unregister(ctx, s); err != nil {
		t.Fatal(err)
	}
}

// What a node does not know any more of its own is hidden from its members; others still get it.
func TestSharedRegistryHides(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	h := newHub(m)
	a, b := m.node(h, "a"), m.node(h, "b")
	ctx := m.timeout(time.Minute)
	stale := &registryapi.NetworkServiceEndpoint{Name: "stale", NetworkServiceNames: []string{"s"}, Url: a.public, ExpirationTime: inSeconds(3600)}
	if err := h.store.PutEndpoint(ctx, stale); err != nil {
		t.Fatal(err)
	}
	b.sees("stale", withURL(a.public))
	if _, err := m.endpoints(a.target, m.source("/x")).Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "next", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:9"}); err != nil {
		t.Fatal(err)
	}
	b.sees("next", withURL("tcp://127.0.0.1:9"))
	stream, err := m.endpoints(a.target, m.source("/y")).Find(ctx, &registryapi.NetworkServiceEndpointQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		got, err := stream.Recv()
		if err != nil {
			break
		}
		if got.NetworkServiceEndpoint.Name == "stale" {
			t.Error("a node shows what it does not know")
		}
	}
	list, err := a.reg.Candidates(ctx, &registryapi.NetworkService{Name: "s"}, nil)
	if err != nil || len(list) != 1 || list[0].Name != "next" {
		t.Errorf("candidates: %v, %v", list, err)
	}
}

// While the shared registry is away a node goes on with what it has, takes registrations, and tells it when it is back; also
// when it comes back empty.
func TestSharedRegistryRestarts(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	h := newHub(m)
	a, b := m.node(h, "a"), m.node(h, "b")
	nse, ctx := m.source("/nse"), m.timeout(2*time.Minute)
	a.register(nse, "before", "s-before")
	b.sees("before", withURL(a.public))
	h.stop()
	a.register(nse, "meanwhile", "s-meanwhile")
	if _, err := b.reg.Endpoint(ctx, "before"); err != nil {
		t.Errorf("while the registry is away: %v", err)
	}
	empty := open(t, filepath.Join(t.TempDir(), "empty.db"))
	t.Cleanup(func() { _ = empty.Close() })
	h.restart(empty)
	b.sees("meanwhile", withURL(a.public))
	b.sees("before", withURL(a.public))
	for _, name := range []string{"s-before", "s-meanwhile"} {
		list, err := empty.Services(ctx)
		if s, ok := byName(list, name); err != nil || !ok || s.PathIds[0] != nse.ID() {
			t.Errorf("service %s: %v, %v", name, s, err)
		}
	}
	list, err := empty.Endpoints(ctx)
	if e, ok := byName(list, "before"); err != nil || !ok || len(e.PathIds) != 3 || e.PathIds[0] != nse.ID() {
		t.Errorf("registered anew: %v, %v", e, err)
	}
}
