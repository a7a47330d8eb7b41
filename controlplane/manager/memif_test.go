package manager_test

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"highwire/cmd/lab"
	"highwire/controlplane/api/connection"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/hop"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/mechanisms"
	kernelmechanism "highwire/mechanisms/kernel"
	"highwire/mechanisms/memif"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/pocketvpp"
)

// sockets stands for the applications of an endpoint.
type sockets struct {
	mu    sync.Mutex
	open  map[string]bool
	total int
	fail  error
}

func (s *sockets) serve(_ *connection.Connection, socket string) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	s.open[socket] = true
	s.total++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, socket)
	}, nil
}

func (s *sockets) counts() (open, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open), s.total
}

func (s *sockets) has(socket string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[socket]
}

func (s *sockets) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// memifOffer is an endpoint with these mechanisms.
func memifOffer(name string, types ...string) (endpoint.Config, *sockets) {
	s := &sockets{open: map[string]bool{}}
	c := offer(name)
	c.Mechanisms, c.Memif = types, s.serve
	return c, s
}

// byMemif is a preference for a memif.
func (c *caller) byMemif(parameters map[string]string) *connection.Mechanism {
	p := map[string]string{"inodeURL": c.inode.String()}
	for k, v := range parameters {
		p[k] = v
	}
	return &connection.Mechanism{Cls: "LOCAL", Type: "MEMIF", Parameters: p}
}

func TestMemifLife(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	config, served := memifOffer("nse-a", mechanisms.Memif)
	nse, _ := m.endpoint(a, m.source("nse"), config)
	services, err := client.ParseServices("memif://web/fast")
	if err != nil {
		t.Fatal(err)
	}
	nsc, stop := m.client(a, m.source("nsc"), client.Config{Name: "nsc", Services: services})
	up := await(t, nsc, isClient(client.Connected))
	if !strings.HasPrefix(up.Socket, "@highwire/") || up.Interface != "" || up.Connection.Mechanism.Parameters["name"] != "fast" {
		t.Errorf("connected by %q with %v", up.Socket, up.Connection.Mechanism)
	}
	v := a.plane.List()[0].VWire
	if v.Client.Type != mechanisms.Memif || v.Client.Params["socketfile"] != up.Socket {
		t.Errorf("client's end %v", v.Client)
	}
	if v.Endpoint.Type != mechanisms.Memif || !served.has(v.Endpoint.Params["socketfile"]) || v.Endpoint.Params["inodeURL"] == v.Client.Params["inodeURL"] {
		t.Errorf("endpoint's end %v is not served", v.Endpoint)
	}
	stop()
	await(t, nse, isEndpoint(endpoint.Closed))
	if open, total := served.counts(); open != 0 || total != 1 {
		t.Errorf("%d sockets are served after the end, of %d", open, total)
	}
	a.nothing(t)
}

// §2.2: the client's parameters come back untouched and complete.
func TestMemifAnswer(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	config, served := memifOffer("nse-a", mechanisms.Memif, mechanisms.Kernel)
	m.endpoint(a, m.source("nse"), config)
	c := m.caller(a, m.source("nsc"))
	first := c.request("nsc-0", "web", "")
	first.MechanismPreferences[0] = c.byMemif(map[string]string{"other": "kept"})
	answer := c.must(first)
	p := answer.Mechanism.Parameters
	if answer.Mechanism.Type != "MEMIF" || answer.Mechanism.Cls != "LOCAL" || p["inodeURL"] != c.inode.String() || p["other"] != "kept" || p["socketfile"][0] != '@' || len(p) != 3 {
		t.Errorf("answered %v", answer.Mechanism)
	}
	again := c.must(c.again(answer))
	if !proto.Equal(again.Mechanism, answer.Mechanism) {
		t.Errorf("a refresh changed %v to %v", answer.Mechanism, again.Mechanism)
	}
	if _, sets, records := a.plane.counts(); sets != 1 || records != 1 {
		t.Errorf("%d sets and %d records after a refresh", sets, records)
	}
	if open, total := served.counts(); open != 1 || total != 1 {
		t.Errorf("after a refresh %d sockets are served, of %d", open, total)
	}
	// Other addresses are another application's, on the same socket.
	moved := proto.CloneOf(c.again(again))
	moved.Connection.Context.IpContext.ExcludedPrefixes = again.Context.IpContext.SrcIpAddrs
	before := a.plane.List()[0].VWire.Endpoint
	if got := c.must(moved); got.Context.IpContext.SrcIpAddrs[0] == again.Context.IpContext.SrcIpAddrs[0] {
		t.Errorf("the address is excluded and still %s", got.Context.IpContext.SrcIpAddrs[0])
	}
	after := a.plane.List()[0].VWire.Endpoint
	if open, total := served.counts(); open != 1 || total != 2 || before.Params["socketfile"] != after.Params["socketfile"] {
		t.Errorf("after other addresses %d sockets are served, of %d: %v became %v", open, total, before.Params, after.Params)
	}
	// A socket that the client names stays.
	own := c.request("nsc-1", "web", "")
	own.MechanismPreferences[0] = c.byMemif(map[string]string{"socketfile": "@mine"})
	if got := c.must(own).Mechanism.Parameters["socketfile"]; got != "@mine" {
		t.Errorf("socket @mine became %q", got)
	}
	// One namespace may have a kernel interface and a memif of one name, of two clients.
	for i, m := range []*connection.Mechanism{c.byMemif(map[string]string{"name": "nsm-1"}), {Type: "KERNEL", Parameters: map[string]string{"inodeURL": c.inode.String(), "name": "nsm-1"}}} {
		r := c.request("nsc-9", "web", "")
		r.Connection.Path.PathSegments[0].Name = []string{"nsc-x", "nsc-y"}[i]
		r.MechanismPreferences[0] = m
		c.must(r)
	}
	if wires, _, _ := a.plane.counts(); wires != 4 {
		t.Errorf("%d vWires; want 4", wires)
	}
}

// Each side takes the first preference that it can do.
func TestMemifPreferences(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	for _, service := range []struct {
		name  string
		types []string
		want  string
	}{
		{"both", []string{mechanisms.Kernel, mechanisms.Memif}, "MEMIF"}, // the agent's order counts
		{"fast", []string{mechanisms.Memif}, "MEMIF"},
		{"slow", nil, "KERNEL"},
	} {
		config, _ := memifOffer("nse-"+service.name, service.types...)
		config.Services = []string{service.name}
		m.endpoint(a, m.source(service.name), config)
		c := m.caller(a, m.source("nsc-"+service.name))
		for _, typ := range []string{"KERNEL", "MEMIF"} {
			r := c.request("nsc-"+typ, service.name, "nsm-1")
			unknown := &connection.Mechanism{Cls: "LOCAL", Type: "SRV6"}
			r.MechanismPreferences = append([]*connection.Mechanism{unknown}, r.MechanismPreferences...)
			r.MechanismPreferences[1].Type = typ
			answer := c.must(r)
			for _, s := range a.manager.Snapshot() {
				if s.Connection.Id == answer.Path.PathSegments[1].Id && (answer.Mechanism.Type != typ || s.Endpoint.Type != service.want) {
					t.Errorf("%s from %s: %s to %s", service.name, typ, answer.Mechanism.Type, s.Endpoint.Type)
				}
			}
		}
	}
}

// What the endpoint cannot serve is refused, and its addresses are free again.
func TestMemifNotServed(t *testing.T) {
	m := newMesh(t)
	a := m.agent(m.source("agent"), newPlane())
	config, served := memifOffer("nse-a", mechanisms.Memif)
	config.Pools = pools("10.7.0.0/31")
	m.endpoint(a, m.source("nse"), config)
	c := m.caller(a, m.source("nsc"))
	served.failWith(fault.New(fault.Exhausted, "no more sockets"))
	if _, err := c.do(c.request("nsc-0", "web", "nsm-1")); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no more sockets") {
		t.Errorf("not served: %v", err)
	}
	a.nothing(t)
	served.failWith(nil)
	c.must(c.request("nsc-0", "web", "nsm-1"))
}

func TestMemifMisconfigured(t *testing.T) {
	for name, change := range map[string]func(*endpoint.Config){
		"unknown":  func(c *endpoint.Config) { c.Mechanisms = []string{"SRV6"} },
		"unserved": func(c *endpoint.Config) { c.Mechanisms = []string{mechanisms.Memif} },
	} {
		c := offer("nse-a")
		c.Target = "unix:///nowhere"
		change(&c)
		if err := endpoint.Run(t.Context(), c); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bad sockets and namespaces, on a forwarder that would build them.
func TestMemifBadInput(t *testing.T) {
	space, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = space.Close() })
	m := newMesh(t)
	socket := filepath.Join(m.dir, "vpp.sock")
	vpp, err := pocketvpp.New(pocketvpp.Config{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, vpp.Run))
	namespaces := kernelmechanism.NewNamespaces()
	mechanism := memif.New(memif.Config{Namespaces: namespaces, Direct: true})
	t.Cleanup(mechanism.Close)
	set := mechanisms.Set{mechanism}
	reconciler, err := forwarder.New(forwarder.Config{Dialer: vppapi.Dialer{Socket: socket}, Mechanisms: set, Journal: filepath.Join(m.dir, "journal.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, reconciler.Run))
	<-reconciler.Ready()
	a := m.agent(m.source("agent"), newPlane(), func(c *manager.Config) {
		c.Dataplane, c.Mechanisms, c.Namespaces = reconciler, set, namespaces
	})
	config, served := memifOffer("nse-a", mechanisms.Memif)
	config.Namespace = space.Path()
	m.endpoint(a, m.source("nse"), config)
	c := m.caller(a, m.source("nsc"))
	c.namespace = space.Path()
	f, inode, err := hop.OpenFile(c.namespace)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	c.inode = inode
	var taken *net.UnixListener
	err = space.Do(func() (err error) {
		taken, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: "@taken"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, test := range map[string]struct {
		parameters map[string]string
		code       codes.Code
		text       string
	}{
		"climbs":              {map[string]string{"socketfile": "@a/../b"}, codes.InvalidArgument, ".."},
		"long":                {map[string]string{"socketfile": "@" + strings.Repeat("x", 107)}, codes.InvalidArgument, "108 bytes"},
		"no name":             {map[string]string{"socketfile": "@"}, codes.InvalidArgument, "want a name"},
		"options":             {map[string]string{"socketfile": "@a,netns_name=/proc/1/ns/net"}, codes.InvalidArgument, "comma"},
		"file":                {map[string]string{"socketfile": "/etc/passwd"}, codes.InvalidArgument, "want an abstract one"},
		"no namespace":        {map[string]string{"socketfile": "@a", "inodeURL": ""}, codes.InvalidArgument, "inodeURL"},
		"namespace is gone":   {map[string]string{"inodeURL": "inode://4/1"}, codes.DeadlineExceeded, "never arrived"},
		"namespace is no url": {map[string]string{"inodeURL": "/proc/1/ns/net"}, codes.InvalidArgument, "inodeURL"},
		"taken":               {map[string]string{"socketfile": "@taken"}, codes.AlreadyExists, "is taken"},
	} {
		r := c.request("nsc-0", "web", "")
		r.MechanismPreferences[0] = c.byMemif(test.parameters)
		if _, err := c.do(r); status.Code(err) != test.code || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v; want %s with %q", name, err, test.code, test.text)
		}
		open, _ := served.counts()
		if list := reconciler.List(); len(list) != 0 || len(a.manager.Snapshot()) != 0 || open != 0 {
			t.Errorf("%s: %d vWires, %d connections and %d sockets are left", name, len(list), len(a.manager.Snapshot()), open)
		}
	}
	// A file that arrives and is no namespace.
	plain := *c
	plain.namespace = m.namespace()
	if f, plain.inode, err = hop.OpenFile(plain.namespace); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	r := plain.request("nsc-0", "web", "")
	r.MechanismPreferences[0] = plain.byMemif(nil)
	if _, err := plain.do(r); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "not a network namespace") {
		t.Errorf("a plain file: %v", err)
	}

	// The others are undisturbed: this one is joined, and the client finds somebody listening.
	r = c.request("nsc-0", "web", "")
	r.MechanismPreferences[0] = c.byMemif(nil)
	answer := c.must(r)
	err = space.Do(func() error {
		conn, err := net.DialTimeout("unixpacket", answer.Mechanism.Parameters["socketfile"], time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		t.Errorf("nobody listens for the client: %v", err)
	}
	if err := c.close(answer); err != nil {
		t.Error(err)
	}
	if list := reconciler.List(); len(list) != 0 {
		t.Errorf("%d vWires are left", len(list))
	}
}
