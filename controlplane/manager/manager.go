// Package manager answers the Requests of clients: it is NSM's manager and forwarder in one hop, without any knowledge of
// VPP.
//
//  1. The request is checked and its place in the path is found (package hop).
//  2. Who asks is the owner of the connection: the caller's SPIFFE id with the name and id of its path segment. Only its owner
//     refreshes or closes a connection, and one owner's calls run one after the other.
//  3. The mechanism towards the client is chosen from what it offers; its network namespace is waited for.
//  4. An endpoint is chosen by the registry's rules, in turn and by weight, and called, with mechanisms of our own; when it
//     fails the next one is. One on another node is reached through that node's manager and by a tunnel (remote.go). A change
//     of the service moves connections that no longer fit (steer.go).
//  5. Both ends become one forwarder.VWire. Set returns once packets flow.
//  6. The connection is kept with the vWire in the forwarder's journal, watched for expiry, and told to monitors.
//
// A refresh goes the same way; when both ends come out as they were, the dataplane is not touched. A failed first Request
// leaves nothing behind; a failed refresh leaves everything as it was.
package manager

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"highwire/controlplane/api/connection"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/registry"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Dataplane keeps vWires; forwarder.Reconciler is one.
type Dataplane interface {
	// Set returns once v is realized; on error nothing of v is left and a former version of it stands.
	Set(ctx context.Context, v forwarder.VWire) error
	// Record journals a new Record for a vWire and touches nothing else.
	Record(ctx context.Context, id string, record []byte) error
	// Delete of an unknown id is no error.
	Delete(ctx context.Context, id string) error
	// List is a snapshot of all vWires.
	List() []forwarder.Status
}

// Directory knows services and endpoints; registry.Registry is one. What is missing is fault.NotFound.
type Directory interface {
	FindService(ctx context.Context, name string) (*registryapi.NetworkService, error)
	// Candidates are the endpoints of ns that match a client with these labels, in order.
	Candidates(ctx context.Context, ns *registryapi.NetworkService, labels map[string]string) ([]registry.Candidate, error)
	// Fits tells whether ns offers the endpoint to a client with these labels, if there were no other.
	Fits(ns *registryapi.NetworkService, e *registryapi.NetworkServiceEndpoint, labels map[string]string) bool
	// WatchServices calls fn with every service and then with every change until ctx ends.
	WatchServices(ctx context.Context, fn func(registry.Event[*registryapi.NetworkService])) error
	Endpoint(ctx context.Context, name string) (*registryapi.NetworkServiceEndpoint, error)
	// Target is the gRPC target of an endpoint, fault.Unavailable when it cannot be reached from here.
	Target(e *registryapi.NetworkServiceEndpoint) (string, error)
}

// Namespaces keeps network namespaces open; kernel.Namespaces is one.
type Namespaces interface {
	Hold(f *os.File) (mechanisms.Inode, error)
	Release(i mechanisms.Inode)
}

// Config is what a Manager works with; those from MaxConnections on may be left out.
type Config struct {
	// Name is our path segment's name; no client may have it.
	Name       string
	Signer     hop.Signer
	Directory  Directory
	Dataplane  Dataplane
	Mechanisms mechanisms.Set
	Namespaces Namespaces
	// Pool calls endpoints. The Manager listens to it; closing it is up to its maker, after Shutdown.
	Pool *hop.Pool
	// MaxConnections is how many connections there may be, 0 for 65536.
	MaxConnections int
	// FileWait is how long a namespace may take to arrive after the message that names it, 0 for 5 s.
	FileWait time.Duration
	// Forwarders is the service whose endpoints on this node do what Dataplane, Mechanisms and Namespaces would, which are not
	// needed then; empty for none.
	Forwarders string
	// Works for another manager: the names of other domains go on to it as they are.
	Works bool
	// NodeSilence is how long another node may be unheard before its connections count as lost, 0 for 15 s.
	NodeSilence time.Duration
}

// Manager holds the connections of a node.
type Manager struct {
	Config
	hub hop.Hub

	ctx        context.Context // ends with Shutdown
	stop       context.CancelFunc
	background sync.WaitGroup // timers that may fire, and deletions

	mu     sync.Mutex
	gates  map[hop.Caller]*gate
	live   map[string]*entry // by connection id; nil while the first Request still runs
	links  map[link]*entry
	ghosts map[string]*entry // by connection id: closed here, perhaps not at the endpoint
	silent map[*hop.Next]*silence

	choice choice // has a lock of its own
}

// link is a kernel interface in a client's namespace, or a memif that has a name there; it belongs to one connection.
type link struct{ typ, inode, name string }

// entry is one connection. It is replaced as a whole, by whoever passed its owner's gate.
type entry struct {
	owner hop.Caller
	// conn is the connection at our own segment, with the client's mechanism. It is never changed.
	conn *connection.Connection
	// endpoint is the mechanism that the endpoint answered.
	endpoint *connection.Mechanism
	// url is where the endpoint was reached.
	url              string
	vwire            forwarder.VWire
	created, expires time.Time
	// answered is when the next hop answered the last Request.
	answered time.Time
	// next is nil after a restart, until the next Request.
	next  *hop.Next
	timer *time.Timer
	// restored: the namespaces' files went with the agent's former life.
	restored bool
	// named: the caller chose the endpoint, not we.
	named bool
	// misplaced: the next Request gives it another endpoint. Under mu.
	misplaced bool
	// closing: what its endpoint says of it from now on is no news. Under mu.
	closing bool
}

func (e *entry) own() int   { return int(e.conn.Path.Index) }
func (e *entry) link() link { return linkOf(e.conn.Mechanism) }

// nextID is what the next hop calls the connection.
func (e *entry) nextID() string {
	if next := e.own() + 1; next < len(e.conn.Path.PathSegments) {
		return e.conn.Path.PathSegments[next].Id
	}
	return ""
}

func linkOf(m *connection.Mechanism) link {
	return link{typ: m.GetType(), inode: m.GetParameters()[mechanisms.ParamInode], name: m.GetParameters()[mechanisms.ParamName]}
}

// New makes a Manager without connections. End it with Shutdown.
func New(c Config) *Manager {
	c.MaxConnections = cmp.Or(c.MaxConnections, 65536)
	c.FileWait = cmp.Or(c.FileWait, 5*time.Second)
	c.NodeSilence = cmp.Or(c.NodeSilence, 15*time.Second)
	m := &Manager{
		Config: c,
		gates:  map[hop.Caller]*gate{}, live: map[string]*entry{}, links: map[link]*entry{},
		ghosts: map[string]*entry{}, silent: map[*hop.Next]*silence{},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	c.Pool.Listen(m.heard)
	m.background.Go(m.steer)
	return m
}

// Shutdown stops all timers and waits for the closings that began; no Request may run any more. Connections and their vWires stay: packets flow on, and
// the next Manager restores them.
func (m *Manager) Shutdown() {
	m.stop()
	m.mu.Lock()
	for _, e := range m.live {
		if e != nil && e.timer.Stop() {
			m.background.Done()
		}
	}
	for next := range m.silent {
		m.endSilence(next)
	}
	m.mu.Unlock()
	m.background.Wait()
}

// Watch tells send of all connections that match, and then what becomes of them, until ctx ends; see hop.Hub.
func (m *Manager) Watch(ctx context.Context, selector *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error {
	return m.hub.Watch(ctx, selector, send)
}

// gate lets one Request or Close of an owner through at a time.
type gate struct {
	pass  chan struct{}
	users int
}

// enter waits for the owner's gate; leave opens it again.
func (m *Manager) enter(ctx context.Context, owner hop.Caller) (leave func(), err error) {
	m.mu.Lock()
	g := m.gates[owner]
	if g == nil {
		g = &gate{pass: make(chan struct{}, 1)}
		m.gates[owner] = g
	}
	g.users++
	m.mu.Unlock()
	done := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if g.users--; g.users == 0 {
			delete(m.gates, owner)
		}
	}
	select {
	case g.pass <- struct{}{}:
		return func() { <-g.pass; done() }, nil
	case <-ctx.Done():
		done()
		return nil, fault.New(fault.KindOf(ctx.Err()), "an earlier Request or Close of %s %s is still running", owner.Name, owner.Segment)
	}
}

// claim finds the owner's connection by the id in the path, or reserves an id for a new one: the one in the path unless
// somebody else has it. c gets the id that counts.
func (m *Manager) claim(owner hop.Caller, c *connection.Connection, fresh func() string) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, taken := m.live[c.Id]
	switch {
	case old != nil && old.owner == owner:
		return old, nil
	case m.tunneled(owner) != nil:
		old = m.tunneled(owner)
		c.Id = old.conn.Id
		c.Path.PathSegments[c.Path.Index].Id = c.Id
		return old, nil
	case len(m.live) >= m.MaxConnections:
		return nil, fault.New(fault.Exhausted, "%d connections are the limit of this node", m.MaxConnections)
	case taken:
		c.Id = fresh()
		c.Path.PathSegments[c.Path.Index].Id = c.Id
	}
	m.live[c.Id] = nil
	return nil, nil
}

// unclaim gives up the id of a connection that did not come to be.
func (m *Manager) unclaim(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.live, id)
}

// store makes e the connection of its id in place of old, which may be nil, and arms its expiry.
func (m *Manager) store(e, old *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old != nil {
		m.unlink(old)
	}
	m.live[e.conn.Id] = e
	if l := e.link(); l.inode != "" && l.name != "" {
		m.links[l] = e
	}
	delete(m.ghosts, e.conn.Id)
	m.background.Add(1)
	e.timer = time.AfterFunc(time.Until(e.expires), func() {
		defer m.background.Done()
		m.expire(e)
	})
}

// drop takes e out of the tables.
func (m *Manager) drop(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unlink(e)
}

// unlink is drop under the lock.
func (m *Manager) unlink(e *entry) {
	if e.timer.Stop() {
		m.background.Done()
	}
	delete(m.live, e.conn.Id)
	if l := e.link(); m.links[l] == e {
		delete(m.links, l)
	}
}

// Connection is one connection as inspection shows it. Its messages are shared: never change them.
type Connection struct {
	// Connection is at our own segment, with the client's mechanism; its tokens are secrets.
	Connection *connection.Connection
	Owner      hop.Caller
	// Endpoint is the mechanism towards the endpoint.
	Endpoint         *connection.Mechanism
	Created, Expires time.Time
	// Down: its endpoint is not heard of, or has said that it lost the connection.
	Down bool
}

// Snapshot lists all connections by id.
func (m *Manager) Snapshot() []Connection {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Connection
	for id, e := range m.live {
		if e != nil {
			list = append(list, Connection{
				Connection: e.conn, Owner: e.owner, Endpoint: e.endpoint, Created: e.created, Expires: e.expires,
				Down: m.hub.State(id) == connection.State_DOWN,
			})
		}
	}
	slices.SortFunc(list, func(a, b Connection) int { return cmp.Compare(a.Connection.Id, b.Connection.Id) })
	return list
}

func (e *entry) log() *slog.Logger {
	return slog.With("connection", e.conn.Id, "client", e.owner.Name, "service", e.conn.NetworkService, "endpoint", e.conn.NetworkServiceEndpointName)
}
