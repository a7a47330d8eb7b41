package registry

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// nameserver answers SRV and A questions about the domain far.example on the loopback.
func nameserver(t *testing.T, srv map[string]uint16) *net.Resolver {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
			port, known := srv[q.Name.String()]
			switch {
			case q.Type == dnsmessage.TypeSRV && known:
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.SRVResource{Port: port, Target: dnsmessage.MustNewName("node.far.example.")}}}
			case q.Type == dnsmessage.TypeA && q.Name.String() == "node.far.example.":
				m.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			case q.Name.String() != "node.far.example.":
				m.RCode = dnsmessage.RCodeNameError
			}
			answer, err := m.Pack()
			if err == nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { _ = socket.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

// Everything about name@domain goes to the domain's registry, which knows nothing of the domain's name, and comes back with it;
// whether the domain is in the table, an address, or found by SRV records.
func TestDomains(t *testing.T) {
	m := newMesh(t)
	far := newHub(m)
	_, port, err := net.SplitHostPort(far.address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	near := m.source("/near")
	domains := &Domains{
		Targets: map[string]string{"table.example": far.address}, Any: true, Options: near.DialOptions(),
		Resolver: nameserver(t, map[string]uint16{
			"registry.nsm-system.far.example.": uint16(number), "registry.nsm-system.gate.example.": uint16(number), "nsmgr-proxy.nsm-system.gate.example.": 5004,
		}),
	}
	r := New(newStore(t), near, WithDomains(domains))
	t.Cleanup(r.Close)
	target := m.listen("unix", near, r.AddTo)
	nse, ctx := m.source("/nse"), m.timeout(2*time.Minute)
	for domain, url := range map[string]string{
		"table.example": "tcp://127.0.0.1:9", "tcp://" + far.address: "tcp://127.0.0.1:9", "far.example": "tcp://127.0.0.1:9", "gate.example": "tcp://127.0.0.1:5004",
	} {
		at := func(name string) string { return name + "@" + domain }
		var header metadata.MD
		s, err := m.services(target, nse).Register(ctx, &registryapi.NetworkService{Name: at("s"), Payload: "ETHERNET"}, grpc.Header(&header))
		if err != nil {
			t.Fatal(domain, err)
		}
		if s.Name != at("s") || len(s.PathIds) != 3 || s.PathIds[0] != nse.ID() || len(header.Get("path")) != 1 {
			t.Errorf("%s: registered %v, header %v", domain, s, header)
		}
		e := &registryapi.NetworkServiceEndpoint{
			Name: at("e"), NetworkServiceNames: []string{at("s")}, Url: "tcp://127.0.0.1:9",
			NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{at("s"): {Labels: labels{"k": "v"}}},
		}
		if e, err = m.endpoints(target, nse).Register(ctx, e); err != nil {
			t.Fatal(domain, err)
		}
		if e.Name != at("e") || e.NetworkServiceNames[0] != at("s") || e.NetworkServiceLabels[at("s")].GetLabels()["k"] != "v" {
			t.Errorf("%s: registered %v", domain, e)
		}
		if list, err := far.store.Endpoints(ctx); err != nil || len(list) != 1 || list[0].Name != "e" || list[0].NetworkServiceNames[0] != "s" {
			t.Errorf("%s: there it is %v, %v", domain, list, err)
		}

		found, err := r.FindService(ctx, at("s"))
		if err != nil || found.Name != at("s") {
			t.Fatal(domain, found, err)
		}
		list, err := r.Candidates(ctx, found, nil)
		if err != nil || len(list) != 1 || list[0].Name != at("e") || list[0].Url != url {
			t.Errorf("%s: candidates %v, %v", domain, list, err)
		}
		if e, err := r.Endpoint(ctx, at("e")); err != nil || e.Url != url {
			t.Errorf("%s: endpoint %v, %v", domain, e, err)
		}
		watch, err := m.endpoints(target, nse).Find(ctx, &registryapi.NetworkServiceEndpointQuery{
			NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{at("s")}}, Watch: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := watch.Recv(); err != nil || got.NetworkServiceEndpoint.Name != at("e") || got.NetworkServiceEndpoint.Url != url {
			t.Errorf("%s: watch %v, %v", domain, got, err)
		}
		if _, err := m.endpoints(target, nse).Unregister(ctx, e); err != nil {
			t.Errorf("%s: %v", domain, err)
		}
		if got, err := watch.Recv(); err != nil || !got.Deleted || got.NetworkServiceEndpoint.Name != at("e") {
			t.Errorf("%s: watch %v, %v", domain, got, err)
		}
		if _, err := m.services(target, nse).Unregister(ctx, s); err != nil {
			t.Errorf("%s: %v", domain, err)
		}
		if _, err := r.FindService(ctx, at("s")); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: after Unregister: %v", domain, err)
		}
	}
	client := m.endpoints(target, nse)
	if _, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "e@table.example", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:9"}); !isKind(err, fault.Invalid) {
		t.Errorf("names in two domains: %v", err)
	}
	if _, err := client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "e@table.example", NetworkServiceNames: []string{"s@table.example"}, Url: "inode://1/2"}); !isKind(err, fault.Invalid) {
		t.Errorf("a socket: %v", err)
	}
	for domain, kind := range map[string]fault.Kind{"tcp://node:1": fault.Invalid, "nowhere.example": fault.Unavailable} {
		if _, err := r.FindService(ctx, "s@"+domain); !fault.Is(err, kind) {
			t.Errorf("%s: %v", domain, err)
		}
	}
	if _, err := New(newStore(t), near).FindService(ctx, "s@far.example"); !fault.Is(err, fault.NotFound) {
		t.Errorf("no domains: %v", err)
	}
}
