package manager_test

import (
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/client"
	"highwire/controlplane/identity"
	"highwire/controlplane/registry"
	"highwire/mechanisms"
)

// newMeshes are two meshes with a trust domain and a registry of their own: near knows far as the domain far.example.
func newMeshes(t *testing.T) *pair {
	m := newMesh(t)
	away := &mesh{t: t, dir: shortDir(t), domain: "far.highwire"}
	away.ca = filepath.Join(away.dir, "ca")
	for domain, dir := range map[string]string{"test.highwire": m.ca, away.domain: away.ca} {
		if _, err := identity.NewCA(domain, dir); err != nil {
			t.Fatal(err)
		}
	}
	m.federated = map[string]string{away.domain: filepath.Join(away.ca, "bundle.pem")}
	away.federated = map[string]string{"test.highwire": filepath.Join(m.ca, "bundle.pem")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away.tcp = l.Addr().String()
	_ = l.Close()
	away.registry = func(*identity.Source) []registry.Option {
		return []registry.Option{registry.WithPublicURL("tcp://" + away.tcp)}
	}
	m.registry = func(s *identity.Source) []registry.Option {
		return []registry.Option{registry.WithDomains(&registry.Domains{Targets: map[string]string{"far.example": away.tcp}, Options: s.DialOptions()})}
	}
	p := &pair{mesh: m, away: away,
		nearVX: &fakeTunnel{typ: mechanisms.VXLAN, payload: mechanisms.Ethernet, addr: nearAddr, mtu: "1446"},
		farVX:  &fakeTunnel{typ: mechanisms.VXLAN, payload: mechanisms.Ethernet, addr: farAddr, mtu: "1440"}}
	p.far = p.start(away, "far", newPlane(), p.farVX, nil)
	p.near = p.start(m, "near", newPlane(), p.nearVX, nil)
	return p
}

// A client of one mesh reaches a service of another by name@domain.
func TestOtherMesh(t *testing.T) {
	p := newMeshes(t)
	nse := p.away.source("nse")
	p.away.endpoint(p.far, nse, ethernet("nse-a"))
	services, err := client.ParseServices("kernel://web@far.example/nsm-1")
	if err != nil {
		t.Fatal(err)
	}
	nsc, stop := p.client(p.near, p.source("nsc"), client.Config{Name: "nsc", Services: services})
	up := await(t, nsc, isClient(client.Connected)).Connection
	if up.NetworkService != "web@far.example" || up.NetworkServiceEndpointName != "nse-a@far.example" {
		t.Errorf("the client got %s of %s", up.NetworkServiceEndpointName, up.NetworkService)
	}
	for name, a := range map[string]*agent{"web@far.example": p.near, "web": p.far} {
		list := a.manager.Snapshot()
		if len(list) != 1 || list[0].Connection.NetworkService != name {
			t.Errorf("want one connection to %s, got %v", name, list)
		}
	}
	stop()
	for name, a := range map[string]*agent{"near": p.near, "far": p.far} {
		if wires, _, _ := a.plane.counts(); wires != 0 {
			t.Errorf("%s keeps %d vWires", name, wires)
		}
	}
}

// A hop of another mesh that does not take the domain from the names is understood, and gets them back.
func TestCalledWithDomain(t *testing.T) {
	p := newMeshes(t)
	p.away.endpoint(p.far, p.away.source("nse"), ethernet("nse-a"))
	nsc, proxy := p.source("nsc"), p.source("proxy")
	token, err := nsc.Token(proxy.ID())
	if err != nil {
		t.Fatal(err)
	}
	c := p.away.caller(p.far, proxy)
	ask := c.request("proxy-0", "web@any.name", "nsm-1")
	ask.Connection.NetworkServiceEndpointName = "nse-a@any.name"
	ask.Connection.Path = &connection.Path{Index: 1, PathSegments: []*connection.PathSegment{
		{Name: "nsc", Id: "nsc-0", Token: token.JWT, Expires: timestamppb.New(token.Expires)}, {Name: "proxy", Id: "proxy-0"},
	}}
	for range 2 { // the first Request, and a refresh
		answer := c.must(ask)
		if answer.NetworkService != "web@any.name" || answer.NetworkServiceEndpointName != "nse-a@any.name" {
			t.Errorf("answered %s of %s", answer.NetworkServiceEndpointName, answer.NetworkService)
		}
		if list := p.far.manager.Snapshot(); len(list) != 1 || list[0].Connection.NetworkService != "web" {
			t.Errorf("connections: %v", list)
		}
		ask = c.again(answer)
	}
}
