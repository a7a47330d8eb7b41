package manager_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/server"
)

// The traps of the wire page's section 7, by their numbers, over real sockets. 10 is TestTrap10FilesDoNotPileUp and 14 is in
// package client; 15 is about other programs' files, 16 about names in JSON (package api).

// nsc is an agent with an endpoint, and a client of it.
func (m *mesh) nsc() (*agent, *caller) {
	m.t.Helper()
	a := m.agent(m.source("agent"), newPlane())
	m.endpoint(a, m.source("nse"), offer("nse-a"))
	return a, m.caller(a, m.source("nsc"))
}

func TestTrap01EverySegmentExpires(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	events := c.watch(t, nil)
	check := func(where string, c *connection.Connection) {
		t.Helper()
		for i, s := range c.Path.PathSegments {
			if !s.Expires.IsValid() || !s.Expires.AsTime().After(time.Now()) {
				t.Errorf("%s: segment %d of %d expires %v", where, i, len(c.Path.PathSegments), s.Expires)
			}
		}
	}
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	check("answer", answer)
	check("refresh", c.must(c.again(answer)))
	for _, shown := range await(t, events, func(e *connection.ConnectionEvent) bool { return len(e.Connections) == 1 }).Connections {
		check("event", shown)
	}
}

func TestTrap02IndexAndIDComeBack(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	for range 2 {
		if answer.Id != "nsc-0" || answer.Path.Index != 0 || answer.Path.PathSegments[0].Id != "nsc-0" || len(answer.Path.PathSegments) != 3 {
			t.Errorf("id %s, index %d, path %v", answer.Id, answer.Path.Index, answer.Path.PathSegments)
		}
		answer = c.must(c.again(answer))
	}
}

func TestTrap03Tokens(t *testing.T) {
	m := newMesh(t)
	a, c := m.nsc()
	answer := c.must(c.request("nsc-0", "web", "nsm-1")) // its signature by the TLS key is checked
	part := func(token string, i int) map[string]any {
		t.Helper()
		text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
		var out map[string]any
		if err == nil {
			err = json.Unmarshal(text, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i, s := range answer.Path.PathSegments {
		head, claims := part(s.Token, 0), part(s.Token, 1)
		if audience, ok := claims["aud"].([]any); head["alg"] != "ES256" || !ok || len(audience) != 1 {
			t.Errorf("token of segment %d: %v %v; want ES256 and an array of one audience", i, head, claims)
		}
	}
	if claims := part(answer.Path.PathSegments[1].Token, 1); claims["sub"] != a.source.ID() {
		t.Errorf("the server's token is of %v", claims["sub"])
	}
}

// register calls the registry as endpoints do, each time on a connection of its own.
func (c *caller) register(e *registryapi.NetworkServiceEndpoint, path string) (answer *registryapi.NetworkServiceEndpoint, header metadata.MD, err error) {
	c.t.Helper()
	err = c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		if path != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "path", path)
		}
		var err error
		answer, err = registryapi.NewNetworkServiceEndpointRegistryClient(conn).Register(ctx, e, grpc.Header(&header))
		return err
	})
	return answer, header, err
}

func TestTrap04PathInTheHeader(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	_, header, err := c.register(&registryapi.NetworkServiceEndpoint{Name: "x", NetworkServiceNames: []string{"web"}, Url: "tcp://127.0.0.1:1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	var path struct {
		Index        *int
		PathSegments []struct {
			Token string `json:"token"`
		}
	}
	if len(header.Get("path")) != 1 {
		t.Fatalf("header %v", header)
	}
	if err := json.Unmarshal([]byte(header.Get("path")[0]), &path); err != nil || path.Index == nil || *path.Index != 0 || len(path.PathSegments) != 2 || path.PathSegments[1].Token == "" {
		t.Errorf("path %s, %v", header.Get("path")[0], err)
	}
}

func TestTrap05PathIDs(t *testing.T) {
	m := newMesh(t)
	a, c := m.nsc()
	e := &registryapi.NetworkServiceEndpoint{Name: "x", NetworkServiceNames: []string{"web"}, Url: "tcp://127.0.0.1:1"}
	answer, header, err := c.register(e, "")
	if err != nil || len(answer.PathIds) != 2 || answer.PathIds[0] != c.source.ID() || answer.PathIds[1] != a.source.ID() {
		t.Fatalf("path_ids %v, %v", answer.GetPathIds(), err)
	}
	answer.ExpirationTime = nil
	if answer, _, err = c.register(answer, header.Get("path")[0]); err != nil || answer.PathIds[0] != c.source.ID() {
		t.Errorf("refresh: path_ids %v, %v", answer.GetPathIds(), err)
	}
	if _, _, err := m.caller(a, m.source("thief")).register(e, ""); status.Code(err) != codes.PermissionDenied {
		t.Errorf("somebody else's refresh: %v", err)
	}
}

func TestTrap06WatchesStayOpen(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	events := c.watch(t, &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Id: "nsc-0"}}})
	first := await(t, events, func(*connection.ConnectionEvent) bool { return true })
	if first.Type != connection.ConnectionEventType_INITIAL_STATE_TRANSFER || len(first.Connections) != 0 {
		t.Errorf("an empty monitor begins with %v", first)
	}
	err := c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		stream, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Find(ctx, &registryapi.NetworkServiceEndpointQuery{
			NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{Name: "later"}, Watch: true,
		})
		if err != nil {
			return err
		}
		// Nothing matches yet. The stream is there for what comes.
		if _, _, err := c.register(&registryapi.NetworkServiceEndpoint{Name: "later", NetworkServiceNames: []string{"web"}, Url: "tcp://127.0.0.1:1"}, ""); err != nil {
			return err
		}
		got, err := stream.Recv()
		if err == nil && got.NetworkServiceEndpoint.Name != "later" {
			t.Errorf("found %v", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_UPDATE })
	if err := c.close(answer); err != nil {
		t.Fatal(err)
	}
	await(t, events, func(e *connection.ConnectionEvent) bool { return e.Type == connection.ConnectionEventType_DELETE })
}

// asked is an endpoint that only remembers what it was asked.
type asked struct {
	request chan *networkservice.NetworkServiceRequest
}

func (a asked) Request(_ context.Context, _ identity.Caller, _ hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	a.request <- r
	return nil, status.Error(codes.Unavailable, "it was enough to ask")
}

func (asked) Close(context.Context, identity.Caller, *connection.Connection) error { return nil }

func (asked) Watch(ctx context.Context, _ *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error {
	if err := send(&connection.ConnectionEvent{}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestTrap07ContextsAreThere(t *testing.T) {
	m := newMesh(t)
	a, c := m.nsc()
	r := c.request("nsc-0", "web", "nsm-1")
	r.Connection.Context = nil
	if answer := c.must(r); answer.Context.GetDnsContext() == nil || answer.Context.GetIpContext() == nil {
		t.Errorf("the client gets %v", answer.Context)
	}
	nse := asked{make(chan *networkservice.NetworkServiceRequest, 1)}
	source, socket := m.source("asked"), filepath.Join(m.dir, "asked.sock")
	s, err := server.New(server.Config{Source: source, Listen: []string{"unix://" + socket}, Handler: nse})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, s.Run))
	file, inode, err := hop.OpenFile(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	err = m.caller(a, source).on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		e := &registryapi.NetworkServiceEndpoint{Name: "asked", NetworkServiceNames: []string{"web"}, Url: inode.String()}
		_, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Register(ctx, e, hop.WithFile(file))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r = c.request("nsc-1", "web", "nsm-2")
	r.Connection.Context, r.Connection.NetworkServiceEndpointName = nil, "asked"
	if _, err := c.do(r); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "enough to ask") {
		t.Fatal(err)
	}
	if got := <-nse.request; got.Connection.Context.GetIpContext() == nil {
		t.Errorf("the endpoint gets %v", got.Connection.Context)
	}
}

func TestTrap08MechanismUntouched(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	r := c.request("nsc-0", "web", "nsm-1")
	r.MechanismPreferences[0].Parameters["mine"] = "own"
	sent := maps.Clone(r.MechanismPreferences[0].Parameters)
	answer := c.must(r)
	for range 2 {
		if !maps.Equal(answer.Mechanism.Parameters, sent) || answer.Mechanism.Type != "KERNEL" || answer.Mechanism.Cls != "LOCAL" {
			t.Errorf("mechanism %v, sent %v", answer.Mechanism, sent)
		}
		answer = c.must(c.again(answer))
	}
}

func TestTrap09FilesMayComeLater(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	err := c.on(func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
		api := networkservice.NewNetworkServiceClient(conn)
		done := make(chan error, 1)
		go func() { _, err := api.Request(ctx, c.request("nsc-0", "web", "nsm-1")); done <- err }() // without the file
		// A Close of nothing brings it, on the same transport connection.
		r := c.request("nsc-9", "web", "nsm-9").Connection
		if _, err := api.Close(ctx, r, opts...); err != nil {
			return err
		}
		return <-done
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTrap11OurName(t *testing.T) {
	m := newMesh(t)
	a, c := m.nsc()
	r := c.request("nsc-0", "web", "nsm-1")
	r.Connection.Path.PathSegments[0].Name = "manager-1"
	if _, err := c.do(r); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "NSM_NAME") {
		t.Errorf("a client with our name: %v", err)
	}
	a.nothing(t)
}

func TestTrap12UnknownIsGone(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	answer := c.must(c.request("nsc-0", "web", "nsm-1"))
	for range 2 {
		if err := c.close(answer); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	err := c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		if _, err := registryapi.NewNetworkServiceRegistryClient(conn).Unregister(ctx, &registryapi.NetworkService{Name: "unknown"}); err != nil {
			return err
		}
		_, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Unregister(ctx, &registryapi.NetworkServiceEndpoint{Name: "unknown"})
		return err
	})
	if err != nil {
		t.Errorf("unregister: %v", err)
	}
}

func TestTrap17URLBySubstring(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	if _, _, err := c.register(&registryapi.NetworkServiceEndpoint{Name: "x", NetworkServiceNames: []string{"web"}, Url: "tcp://127.0.0.1:4711"}, ""); err != nil {
		t.Fatal(err)
	}
	if got := c.find(&registryapi.NetworkServiceEndpoint{Url: "0.1:47"}); len(got) != 1 || got[0].Name != "x" {
		t.Errorf("found %v", got)
	}
}

// find lists the endpoints that match.
func (c *caller) find(like *registryapi.NetworkServiceEndpoint) (list []*registryapi.NetworkServiceEndpoint) {
	c.t.Helper()
	err := c.on(func(ctx context.Context, conn *grpc.ClientConn, _ ...grpc.CallOption) error {
		stream, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: like})
		for err == nil {
			var e *registryapi.NetworkServiceEndpointResponse
			if e, err = stream.Recv(); err == nil {
				list = append(list, e.NetworkServiceEndpoint)
			}
		}
		return err
	})
	if !errors.Is(err, io.EOF) {
		c.t.Errorf("find: %v", err)
	}
	return list
}

func TestTrap18ForwardersAreEndpoints(t *testing.T) {
	m := newMesh(t)
	_, c := m.nsc()
	forwarder := &registryapi.NetworkServiceEndpoint{
		Name: "forwarder-x", NetworkServiceNames: []string{"forwarder"}, Url: "tcp://127.0.0.1:4711",
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{"forwarder": {Labels: map[string]string{"p2p": "true"}}},
	}
	if _, _, err := c.register(forwarder, ""); err != nil {
		t.Fatalf("no network service of that name is needed: %v", err)
	}
	query := &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"forwarder"}, NetworkServiceLabels: forwarder.NetworkServiceLabels}
	if got := c.find(query); len(got) != 1 || got[0].Name != "forwarder-x" {
		t.Errorf("found %v", got)
	}
	if answer := c.must(c.request("nsc-0", "web", "nsm-1")); answer.NetworkServiceEndpointName != "nse-a" {
		t.Errorf("web is served by %s", answer.NetworkServiceEndpointName)
	}
}
