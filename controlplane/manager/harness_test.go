package manager_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/client"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/registry"
	"highwire/controlplane/server"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/memif"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// mesh is a trust domain and a directory for one test.
type mesh struct {
	t   *testing.T
	ca  string
	dir string
	tcp string // where the agent listens, empty for a free port
	n   int

	domain    string                                   // the trust domain, empty for test.highwire
	federated map[string]string                        // as in identity.WithFederation
	registry  func(*identity.Source) []registry.Option // of the agent, nil for none
}

func newMesh(t *testing.T) *mesh {
	t.Parallel()
	m := &mesh{t: t, dir: shortDir(t)}
	m.ca = filepath.Join(m.dir, "ca")
	return m
}

// elsewhere is another node's directory in the same trust domain.
func (m *mesh) elsewhere() *mesh { return &mesh{t: m.t, dir: shortDir(m.t), ca: m.ca} }

func shortDir(t *testing.T) string {
	t.Helper()
	// Socket paths are limited to 108 bytes, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "hw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// source gets an identity of its own.
func (m *mesh) source(name string, opts ...identity.SourceOption) *identity.Source {
	m.t.Helper()
	ca, err := identity.NewCA(cmp.Or(m.domain, "test.highwire"), m.ca, identity.WithFederation(m.federated),
		identity.WithIDs(func(identity.Process) string { return "/" + name }))
	if err != nil {
		m.t.Fatal(err)
	}
	m.n++
	socket := filepath.Join(m.dir, fmt.Sprintf("wl%d.sock", m.n))
	m.t.Cleanup(run(m.t, func(ctx context.Context) error { return ca.Serve(ctx, socket) }))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := identity.NewSource(ctx, "unix://"+socket, opts...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.Close() })
	return s
}

// namespace makes a file that stands for a network namespace: the control plane only passes it on.
func (m *mesh) namespace() string {
	m.t.Helper()
	m.n++
	path := filepath.Join(m.dir, fmt.Sprintf("netns%d", m.n))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// run starts fn and returns what ends it and waits for it.
func run(t *testing.T, fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}()
	return func() { cancel(); <-done }
}

// agent is a node: registry, manager and server over a dataplane that only remembers.
type agent struct {
	source  *identity.Source
	plane   *plane
	spaces  *spaces
	manager *manager.Manager
	store   *registry.Bolt
	reg     *registry.Registry
	target  string
	tcp     string
	stop    func()
}

// agent starts a node, with the vWires that are in the plane already.
func (m *mesh) agent(source *identity.Source, plane *plane, change ...func(*manager.Config)) *agent {
	m.t.Helper()
	a := &agent{source: source, plane: plane, spaces: &spaces{held: map[mechanisms.Inode]int{}}, target: "unix://" + filepath.Join(m.dir, "nsm.sock")}
	var err error
	if a.store, err = registry.OpenBolt(filepath.Join(m.dir, "registry.db")); err != nil {
		m.t.Fatal(err)
	}
	var options []registry.Option
	if m.registry != nil {
		options = m.registry(source)
	}
	reg := registry.New(a.store, source, options...)
	a.reg = reg
	config := manager.Config{
		Name: "manager-1", Signer: source, Directory: reg, Dataplane: plane, Mechanisms: mechanisms.Set{memif.New(memif.Config{}), kernel{}},
		Namespaces: a.spaces, FileWait: 300 * time.Millisecond,
	}
	for _, fn := range change {
		fn(&config)
	}
	pool := hop.NewPool(config.Name, source.DialOptions()...)
	config.Pool = pool
	a.manager = manager.New(config)
	if err := a.manager.Restore(context.Background(), plane.List()); err != nil {
		m.t.Fatal(err)
	}
	s, err := server.New(server.Config{Source: source, Listen: []string{a.target, "tcp://" + cmp.Or(m.tcp, "127.0.0.1:0")}, Handler: a.manager, Register: reg.AddTo})
	if err != nil {
		m.t.Fatal(err)
	}
	a.tcp = s.Addrs()[1].String()
	stop := run(m.t, s.Run)
	a.stop = sync.OnceFunc(func() {
		stop()
		a.manager.Shutdown()
		pool.Close()
		reg.Close()
		if err := a.store.Close(); err != nil {
			m.t.Error(err)
		}
	})
	m.t.Cleanup(a.stop)
	return a
}

// endpoint starts an NSE and waits until it is registered.
func (m *mesh) endpoint(a *agent, source *identity.Source, c endpoint.Config) (events <-chan endpoint.Event, stop func()) {
	m.t.Helper()
	heard := make(chan endpoint.Event, 1000)
	c.Source, c.Target, c.SocketDir, c.Events = source, a.target, m.dir, func(e endpoint.Event) { heard <- e }
	if c.Namespace == "" {
		c.Namespace = m.namespace()
	}
	stop = sync.OnceFunc(run(m.t, func(ctx context.Context) error { return endpoint.Run(ctx, c) }))
	m.t.Cleanup(stop)
	await(m.t, heard, func(e endpoint.Event) bool { return e.Kind == endpoint.Registered })
	return heard, stop
}

// client starts an NSC.
func (m *mesh) client(a *agent, source *identity.Source, c client.Config) (events <-chan client.Event, stop func()) {
	m.t.Helper()
	heard := make(chan client.Event, 1000)
	c.Source, c.Target, c.Events = source, a.target, func(e client.Event) { heard <- e }
	if c.Namespace == "" {
		c.Namespace = m.namespace()
	}
	stop = sync.OnceFunc(run(m.t, func(ctx context.Context) error { return client.Run(ctx, c) }))
	m.t.Cleanup(stop)
	return heard, stop
}

// await returns the first event that is as wanted.
func await[E any](t *testing.T, events <-chan E, wanted func(E) bool) E {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case e := <-events:
			if wanted(e) {
				return e
			}
		case <-late:
			t.Fatal("what was waited for did not happen")
		}
	}
}

// caller is a client that says exactly what the test wants.
type caller struct {
	t         *testing.T
	source    *identity.Source
	target    string
	namespace string
	inode     mechanisms.Inode
	timeout   time.Duration
}

func (m *mesh) caller(a *agent, source *identity.Source) *caller {
	m.t.Helper()
	c := &caller{t: m.t, source: source, target: a.target, namespace: m.namespace(), timeout: 5 * time.Second}
	file, inode, err := hop.OpenFile(c.namespace)
	if err != nil {
		m.t.Fatal(err)
	}
	_ = file.Close()
	c.inode = inode
	return c
}

// request is a first Request as cmd-nsc makes it.
func (c *caller) request(id, service, iface string) *networkservice.NetworkServiceRequest {
	return &networkservice.NetworkServiceRequest{
		Connection: &connection.Connection{
			Id: id, NetworkService: service,
			Path: &connection.Path{PathSegments: []*connection.PathSegment{{Name: "nsc", Id: id}}},
		},
		MechanismPreferences: []*connection.Mechanism{{Cls: "LOCAL", Type: "KERNEL", Parameters: map[string]string{"inodeURL": c.inode.String(), "name": iface}}},
	}
}

// on calls fn with a connection that carries the caller's namespace.
func (c *caller) on(fn func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error) error {
	c.t.Helper()
	conn, err := hop.Dial(c.target, c.source.DialOptions()...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	file, _, err := hop.OpenFile(c.namespace)
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	return fn(ctx, conn, hop.WithFile(file))
}

// do sends the request and checks the answer as unmodified clients do.
func (c *caller) do(r *networkservice.NetworkServiceRequest) (answer *connection.Connection, err error) {
	c.t.Helper()
	err = c.on(func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
		var from peer.Peer
		var err error
		answer, err = networkservice.NewNetworkServiceClient(conn).Request(ctx, r, append(opts, grpc.Peer(&from))...)
		if err != nil {
			return err
		}
		return hop.CheckAnswer(r.Connection, answer, &from)
	})
	return answer, err
}

func (c *caller) must(r *networkservice.NetworkServiceRequest) *connection.Connection {
	c.t.Helper()
	answer, err := c.do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func (c *caller) close(conn *connection.Connection) error {
	c.t.Helper()
	return c.on(func(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
		_, err := networkservice.NewNetworkServiceClient(cc).Close(ctx, conn, opts...)
		return err
	})
}

// again is a refresh of an answer.
func (c *caller) again(answer *connection.Connection) *networkservice.NetworkServiceRequest {
	return &networkservice.NetworkServiceRequest{Connection: answer, MechanismPreferences: []*connection.Mechanism{answer.Mechanism}}
}

// plane is a dataplane that remembers vWires.
type plane struct {
	mu                     sync.Mutex
	wires                  map[string]forwarder.VWire
	sets, records, deletes int
	fail                   error
	check                  func(forwarder.VWire) error // nil for VWire.Check alone
}

func newPlane() *plane { return &plane{wires: map[string]forwarder.VWire{}} }

func (p *plane) Set(_ context.Context, v forwarder.VWire) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := v.Check(); err != nil {
		return err
	}
	if p.check != nil {
		if err := p.check(v); err != nil {
			return err
		}
	}
	p.sets++
	if p.fail == nil {
		p.wires[v.ID] = v
	}
	return p.fail
}

func (p *plane) Record(_ context.Context, id string, record []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.wires[id]
	if !ok {
		return fault.New(fault.NotFound, "no vWire %s", id)
	}
	p.records++
	v.Record = record
	p.wires[id] = v
	return nil
}

func (p *plane) Delete(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deletes++
	delete(p.wires, id)
	return nil
}

func (p *plane) List() []forwarder.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []forwarder.Status
	for _, id := range slices.Sorted(maps.Keys(p.wires)) {
		list = append(list, forwarder.Status{VWire: p.wires[id], State: forwarder.Up})
	}
	return list
}

func (p *plane) failWith(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

func (p *plane) counts() (wires, sets, records int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.wires), p.sets, p.records
}

// spaces counts what is held.
type spaces struct {
	mu   sync.Mutex
	held map[mechanisms.Inode]int
}

func (s *spaces) Hold(f *os.File) (mechanisms.Inode, error) {
	again, inode, err := hop.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return inode, err
	}
	defer again.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[inode]++
	return inode, nil
}

func (s *spaces) Release(i mechanisms.Inode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[i]--; s.held[i] == 0 {
		delete(s.held, i)
	}
}

func (s *spaces) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// kernel stands for the mechanism; no objects are made here.
type kernel struct{}

func (kernel) Type() string            { return mechanisms.Kernel }
func (kernel) Class() mechanisms.Class { return mechanisms.Local }
func (kernel) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}
}
func (kernel) Objects(mechanisms.End) ([]vppapi.Object, error) { return nil, nil }
