package registry

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// mesh is a trust domain with an agent that serves a registry.
type mesh struct {
	t     *testing.T
	ca    string
	agent *identity.Source
	store Store
}

func newMesh(t *testing.T) *mesh {
	m := &mesh{t: t, ca: t.TempDir(), store: newStore(t)}
	m.agent = m.source("/agent")
	return m
}

// source gives a party of the mesh its identity.
func (m *mesh) source(path string) *identity.Source {
	m.t.Helper()
	ca, err := identity.NewCA("mesh.test", m.ca, identity.WithIDs(func(identity.Process) string { return path }))
	if err != nil {
		m.t.Fatal(err)
	}
	socket := filepath.Join(m.t.TempDir(), "w.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ca.Serve(ctx, socket) }()
	m.t.Cleanup(func() { cancel(); <-done })
	s, err := identity.NewSource(m.timeout(10*time.Second), "unix://"+socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (m *mesh) timeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	m.t.Cleanup(cancel)
	return ctx
}

// serve runs a registry on the network, "unix" or "tcp", and returns it with its gRPC target.
func (m *mesh) serve(network string, opts ...Option) (*Registry, string) {
	m.t.Helper()
	r := New(m.store, m.agent, opts...)
	m.t.Cleanup(r.Close)
	target := m.listen(network, m.agent, r.AddTo)
	return r, target
}

func (m *mesh) listen(network string, id *identity.Source, add func(grpc.ServiceRegistrar)) (target string) {
	m.t.Helper()
	address, prefix := "127.0.0.1:0", ""
	if network == "unix" {
		address, prefix = filepath.Join(m.t.TempDir(), "s.sock"), "unix://"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		m.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(id.ServerCredentials()), grpc.UnaryInterceptor(kinds))
	add(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	m.t.Cleanup(func() { server.Stop(); <-done })
	return prefix + l.Addr().String()
}

// kinds carries the kind of an error to the client as a code of no other meaning.
func kinds(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		err = status.Error(100+codes.Code(fault.KindOf(err)), err.Error())
	}
	return resp, err
}

func isKind(err error, kind fault.Kind) bool { return status.Code(err) == 100+codes.Code(kind) }

func (m *mesh) dial(target string, opts ...grpc.DialOption) *grpc.ClientConn {
	m.t.Helper()
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (m *mesh) endpoints(target string, id *identity.Source) registryapi.NetworkServiceEndpointRegistryClient {
	return registryapi.NewNetworkServiceEndpointRegistryClient(m.dial(target, id.DialOptions()...))
}

func (m *mesh) services(target string, id *identity.Source) registryapi.NetworkServiceRegistryClient {
	return registryapi.NewNetworkServiceRegistryClient(m.dial(target, id.DialOptions()...))
}

// hello is an endpoint's NetworkService that answers with its name.
type hello struct {
	networkservice.UnimplementedNetworkServiceServer
	name string
}

func (h hello) Request(context.Context, *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	return &connection.Connection{NetworkServiceEndpointName: h.name}, nil
}

// nse serves a hello on a unix socket and returns its path.
func (m *mesh) nse(id *identity.Source, name string) string {
	m.t.Helper()
	target := m.listen("unix", id, func(s grpc.ServiceRegistrar) { networkservice.RegisterNetworkServiceServer(s, hello{name: name}) })
	return target[len("unix://"):]
}
