package registry

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/filepass"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// openSocket opens a file to be sent and returns its URL.
func openSocket(t *testing.T, path string) (*os.File, string) {
	t.Helper()
	file, inode, err := hop.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file, inode.String()
}

// An endpoint registers over a unix socket, is called through what it sent, refreshes, and goes.
func TestEndpointLife(t *testing.T) {
	m := newMesh(t)
	nse, other := m.source("/nse"), m.source("/other")
	r, target := m.serve("unix")
	client, ctx := m.endpoints(target, nse), m.timeout(20*time.Second)
	file, url := openSocket(t, m.nse(nse, "icmp"))

	before := time.Now()
	var header metadata.MD
	first, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "icmp", NetworkServiceNames: []string{"s"}, Url: url}, hop.WithFile(file), grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	checkAnswer := func(e *registryapi.NetworkServiceEndpoint, header metadata.MD) path {
		t.Helper()
		if e.Url != url || e.Name != "icmp" {
			t.Errorf("got name %q, URL %q", e.Name, e.Url)
		}
		if len(e.PathIds) != 2 || e.PathIds[0] != nse.ID() || e.PathIds[1] != m.agent.ID() {
			t.Errorf("path_ids: %v", e.PathIds)
		}
		if left := e.ExpirationTime.AsTime().Sub(before); left < DefaultEndpointLifetime || left > DefaultEndpointLifetime+10*time.Second {
			t.Errorf("expires %v after the start", left)
		}
		values := header.Get("path")
		if len(values) != 1 {
			t.Fatalf("header path: %v", values)
		}
		p, err := parsePath(values[0])
		if err != nil || p.Index != 0 || len(p.PathSegments) != 2 {
			t.Fatalf("header path: %+v, %v", p, err)
		}
		return p
	}
	checkAnswer(first, header)

	target, err = r.Target(first)
	if err != nil {
		t.Fatal(err)
	}
	c, err := networkservice.NewNetworkServiceClient(m.dial(target, m.agent.DialOptions()...)).Request(ctx, &networkservice.NetworkServiceRequest{})
	if err != nil || c.NetworkServiceEndpointName != "icmp" {
		t.Errorf("called through %s: %v, %v", target, c, err)
	}

	// Refresh as endpoints do: on a new connection, with the path and what was answered, without the expiration.
	refresh := proto.CloneOf(first)
	refresh.ExpirationTime = nil
	var header2 metadata.MD
	second, err := m.endpoints(again(t, m, r), nse).Register(metadata.AppendToOutgoingContext(ctx, "path", header.Get("path")[0]), refresh, hop.WithFile(file), grpc.Header(&header2))
	if err != nil {
		t.Fatal(err)
	}
	checkAnswer(second, header2)
	if !second.InitialRegistrationTime.AsTime().Equal(first.InitialRegistrationTime.AsTime()) {
		t.Errorf("initial registration changed from %v to %v", first.InitialRegistrationTime.AsTime(), second.InitialRegistrationTime.AsTime())
	}
	if files, names := r.sockets.count(); files != 1 || names != 1 {
		t.Errorf("%d files, %d names held", files, names)
	}

	// A second name on the same socket shares it.
	if _, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "icmp-2", NetworkServiceNames: []string{"s"}, Url: url}); err != nil {
		t.Fatal(err)
	}
	// Others have no say.
	stranger := m.endpoints(again(t, m, r), other)
	if _, err := stranger.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "icmp", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}); !isKind(err, fault.Denied) {
		t.Errorf("registered by another: %v", err)
	}
	if _, err := stranger.Unregister(ctx, first); !isKind(err, fault.Denied) {
		t.Errorf("unregistered by another: %v", err)
	}

	var header3 metadata.MD
	if _, err := client.Unregister(ctx, second, grpc.Header(&header3)); err != nil || len(header3.Get("path")) != 1 {
		t.Errorf("unregister: %v, header %v", err, header3)
	}
	if files, names := r.sockets.count(); files != 1 || names != 1 {
		t.Errorf("after the first of two: %d files, %d names held", files, names)
	}
	if _, err := client.Unregister(ctx, &registryapi.NetworkServiceEndpoint{Name: "icmp-2"}); err != nil {
		t.Error(err)
	}
	if files, names := r.sockets.count(); files != 0 || names != 0 {
		t.Errorf("after both: %d files, %d names held", files, names)
	}
	if _, err := r.Target(first); !fault.Is(err, fault.Unavailable) {
		t.Errorf("target of what is gone: %v", err)
	}
	if _, err := client.Unregister(ctx, &registryapi.NetworkServiceEndpoint{Name: "unknown"}); err != nil {
		t.Errorf("unregister unknown: %v", err)
	}
}

// again serves the registry on one more socket.
func again(t *testing.T, m *mesh, r *Registry) string {
	t.Helper()
	return m.listen("unix", m.agent, r.AddTo)
}

func TestEndpointRefused(t *testing.T) {
	m := newMesh(t)
	nse := m.source("/nse")
	_, target := m.serve("unix")
	client, ctx := m.endpoints(target, nse), m.timeout(20*time.Second)
	good := func() *registryapi.NetworkServiceEndpoint {
		return &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}
	}
	// No token.
	bare := registryapi.NewNetworkServiceEndpointRegistryClient(m.dial(target, grpc.WithTransportCredentials(nse.ClientCredentials())))
	if _, err := bare.Register(ctx, good()); !isKind(err, fault.Denied) {
		t.Errorf("no token: %v", err)
	}
	if _, err := bare.Unregister(ctx, good()); !isKind(err, fault.Denied) {
		t.Errorf("no token, unregister: %v", err)
	}
	// Somebody else's token, and one for somebody else.
	for name, token := range map[string]func() (string, error){
		"another's": func() (string, error) { t, err := m.source("/other").Token(m.agent.ID()); return t.JWT, err },
		"for another": func() (string, error) {
			t, err := nse.Token("spiffe://mesh.test/x")
			return t.JWT, err
		},
		"none": func() (string, error) { return "x.y.z", nil },
	} {
		jwt, err := token()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bare.Register(metadata.AppendToOutgoingContext(ctx, "nsm-client-token", jwt), good()); !isKind(err, fault.Denied) {
			t.Errorf("token %s: %v", name, err)
		}
	}
	// Paths.
	stray, err := nse.Token("spiffe://mesh.test/x")
	if err != nil {
		t.Fatal(err)
	}
	for text, kind := range map[string]fault.Kind{
		"x": fault.Invalid,
		`{"Index":1,"PathSegments":[{"token":"` + stray.JWT + `"},{"token":""}]}`: fault.Denied,
		`{"Index":1,"PathSegments":[{"token":"x"},{"token":""}]}`:                 fault.Denied,
	} {
		if _, err := client.Register(metadata.AppendToOutgoingContext(ctx, "path", text), good()); !isKind(err, kind) {
			t.Errorf("path %.30s: %v", text, err)
		}
	}
	// Expired already.
	late := good()
	late.ExpirationTime = timestamppb.New(time.Now().Add(-time.Second))
	if _, err := client.Register(ctx, late); !isKind(err, fault.Invalid) {
		t.Errorf("expiration past: %v", err)
	}
	// A file that is no socket.
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, url := openSocket(t, name)
	e := good()
	e.Url = url
	if _, err := client.Register(ctx, e, hop.WithFile(file)); !isKind(err, fault.Invalid) {
		t.Errorf("a file: %v", err)
	}
	// A socket that never comes.
	e.Url = "inode://1/1"
	if _, err := client.Register(m.timeout(200*time.Millisecond), e); err == nil {
		t.Error("registered without its socket")
	}
	if list, err := m.store.Endpoints(ctx); err != nil || len(list) != 0 {
		t.Errorf("registered after all: %v, %v", list, err)
	}
}

func TestEndpointOverTCP(t *testing.T) {
	m := newMesh(t)
	r, target := m.serve("tcp")
	client, ctx := m.endpoints(target, m.source("/nse")), m.timeout(20*time.Second)
	e, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "a", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:5001"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Target(e); err != nil || got != "127.0.0.1:5001" {
		t.Errorf("tcp: %q, %v", got, err)
	}
	e, err = client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "b", NetworkServiceNames: []string{"s"}, Url: "inode://1/1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Target(e); !fault.Is(err, fault.Unavailable) {
		t.Errorf("inode that cannot arrive: %v", err)
	}
	list, err := r.Candidates(ctx, &registryapi.NetworkService{Name: "s"}, nil)
	if err != nil || len(list) != 2 {
		t.Errorf("candidates: %v, %v", list, err)
	}
	if got, err := r.Endpoint(ctx, "b"); err != nil || got.Name != "b" {
		t.Errorf("endpoint: %v, %v", got, err)
	}
	if _, err := r.Endpoint(ctx, "c"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown: %v", err)
	}
}

// A watch shows what is there, refreshes, and the end by expiry; it is open until its client goes. The socket goes too, and
// comes along with what is found.
func TestEndpointWatch(t *testing.T) {
	m := newMesh(t)
	nse := m.source("/nse")
	_, target := m.serve("unix")
	client, ctx := m.endpoints(target, nse), m.timeout(time.Minute)
	file, url := openSocket(t, m.nse(nse, "e"))
	e := &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: url}
	first, err := client.Register(ctx, e, hop.WithFile(file))
	if err != nil {
		t.Fatal(err)
	}

	// Without watch the stream ends.
	found, err := m.endpoints(target, m.source("/forwarder")).Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"s"}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := found.Recv()
	if err != nil || !proto.Equal(got.NetworkServiceEndpoint, first) || got.Deleted {
		t.Fatalf("found %v, %v", got, err)
	}
	p, _ := peer.FromContext(found.Context())
	conn, ok := filepass.FromPeer(p)
	if !ok {
		t.Fatalf("%v carries no files", p)
	}
	inode, err := mechanisms.ParseInode(url)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := conn.Receive(ctx, inode)
	if err != nil {
		t.Fatal("the socket did not come along:", err)
	}
	_ = socket.Close()
	if _, err := found.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("want the end of the stream, got %v", err)
	}

	watch, err := client.Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{Name: "e"}, Watch: true})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *registryapi.NetworkServiceEndpointResponse {
		t.Helper()
		got, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := next(); got.Deleted || !proto.Equal(got.NetworkServiceEndpoint, first) {
		t.Errorf("first: %v", got)
	}
	if _, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "not watched", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	short := proto.CloneOf(e)
	short.ExpirationTime = timestamppb.New(time.Now().Add(3 * time.Second))
	second, err := client.Register(ctx, short, hop.WithFile(file))
	if err != nil {
		t.Fatal(err)
	}
	if got := next(); got.Deleted || !proto.Equal(got.NetworkServiceEndpoint, second) {
		t.Errorf("after the refresh: %v", got)
	}
	if got := next(); !got.Deleted || got.NetworkServiceEndpoint.Name != "e" {
		t.Errorf("after the expiry: %v", got)
	}
	if early := time.Until(second.ExpirationTime.AsTime()); early > 0 {
		t.Errorf("gone %v before its time", early)
	}
	if _, err := client.Register(ctx, e, hop.WithFile(file)); err != nil {
		t.Fatal(err)
	}
	if got := next(); got.Deleted {
		t.Errorf("registered again: %v", got)
	}
}

// After a restart endpoints are known but out of reach, until they register again.
func TestRestart(t *testing.T) {
	m := newMesh(t)
	nse := m.source("/nse")
	r, target := m.serve("unix")
	ctx := m.timeout(20 * time.Second)
	file, url := openSocket(t, m.nse(nse, "e"))
	e := &registryapi.NetworkServiceEndpoint{Name: "e", NetworkServiceNames: []string{"s"}, Url: url}
	if _, err := m.endpoints(target, nse).Register(ctx, e, hop.WithFile(file)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r, target = m.serve("unix")
	known, err := r.Endpoint(ctx, "e")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Target(known); !fault.Is(err, fault.Unavailable) {
		t.Errorf("before it registers again: %v", err)
	}
	if _, err := m.endpoints(target, nse).Register(ctx, e, hop.WithFile(file)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Target(known); err != nil {
		t.Errorf("after: %v", err)
	}
}
