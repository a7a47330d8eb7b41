// Package endpoint is an NSM endpoint (NSE): it offers network services in a network namespace and gives each client a pair
// of addresses.
//
// Run serves NetworkService on a unix socket of its own, registers the services and itself at the manager, the socket's file
// beside the message, and keeps the registration: it is renewed after two thirds of its lifetime, and at once when the
// manager has lost it. An endpoint is the last hop of a connection. It makes no kernel interface itself but answers its
// namespace's file and the interface's name, and the forwarder puts the interface there. For a memif it answers a socket of
// its own that an application serves already.
package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/server"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Config says what an endpoint offers and where. Source, Target, Name and Services are needed.
type Config struct {
	Source *identity.Source
	// Target is the manager's unix socket, unix:///path.
	Target string
	// Name of the endpoint, unique in the mesh (NSM_NAME).
	Name string
	// Services are the names of the network services that it offers.
	Services []string
	// Payload of services that are not registered yet: ETHERNET or IP, empty for IP.
	Payload mechanisms.Payload
	// Labels of the endpoint for each of its services.
	Labels map[string]string
	// Pools: each connection gets a pair of addresses out of each.
	Pools []Pool
	// Excluded are prefixes that no connection gets addresses from, beside those that its client names.
	Excluded []netip.Prefix
	// Leases is the path of a file that keeps which client had which addresses, so that each gets them again when the endpoint
	// was restarted; empty to know it only as long as the endpoint runs.
	Leases string
	// Routes are what clients reach through their connection, beside its other end.
	Routes []netip.Prefix
	// Policies are routes of clients for some of their packets only.
	Policies []*connectioncontext.PolicyRoute
	// DNS tells clients who answers for which domains. They get routes to these nameservers.
	DNS []*connectioncontext.DNSConfig
	// Namespace is the path of the network namespace that gets the interfaces, empty for our own.
	Namespace string
	// Mechanisms that it takes: mechanisms.Kernel, mechanisms.Memif; nil for KERNEL alone.
	Mechanisms []string
	// Memif begins to serve a connection by memif, before its client hears of it: it listens as master on the socket, an
	// abstract one ("@…") of this connection alone in Namespace. end stops that and waits for it; it is called once, when
	// the connection ends or what it needs has changed. Neither may block. Needed for MEMIF.
	Memif func(c *connection.Connection, socket string) (end func(), err error)
	// TokenIDs are virtual functions for the interfaces, one for each connection; nil for interfaces without.
	TokenIDs []string
	// Next, if set, makes it hand packets on to another service instead of being the last hop. Pools, Mechanisms and Memif are
	// of no use then.
	Next *Next
	// SocketDir is where the private directory of the socket is made, empty for the system's place for temporary files.
	SocketDir string
	// KeepRegistered leaves the registration to expire when the endpoint ends.
	KeepRegistered bool
	// RequestTimeout bounds each registry call, 0 for 15 s.
	RequestTimeout time.Duration
	// Events hears of every change; it must not block. nil hears nothing.
	Events func(Event)
}

// Event is what happened to an endpoint.
type Event struct {
	Kind EventKind
	// Connection for Opened and Closed, as this endpoint sees it. Never change it.
	Connection *connection.Connection
	// Err is why, for Unregistered.
	Err error
}

// EventKind is what happened.
type EventKind string

const (
	// Registered: clients can find the endpoint; again after Unregistered.
	Registered EventKind = "registered"
	// Unregistered: the registration failed or was lost; it is tried again.
	Unregistered EventKind = "unregistered"
	// Opened: a client has a new connection.
	Opened EventKind = "opened"
	// Closed: a connection was closed or has expired.
	Closed EventKind = "closed"
)

// Endpoint answers Requests as the last hop; it is a server.Handler.
type Endpoint struct {
	config    Config
	addresses *ipam
	namespace *os.File
	inode     mechanisms.Inode
	hub       hop.Hub

	mu   sync.Mutex
	live map[string]*live
}

// live is a connection.
type live struct {
	owner hop.Caller
	conn  *connection.Connection
	timer *time.Timer
	end   func() // of Config.Memif
}

// Run offers the services until ctx ends; then it unregisters and returns nil. What can never succeed is returned at once:
// fault.Invalid.
func Run(ctx context.Context, config Config) error {
	config.Payload = cmp.Or(config.Payload, mechanisms.IP)
	if err := config.complete(); err != nil {
		return err
	}
	if err := errors.Join(checkMechanisms(&config), CheckDNS(config.DNS)); err != nil {
		return err
	}
	target, err := hop.Target(config.Target)
	if err != nil {
		return err
	}
	namespace, inode, err := hop.OpenFile(cmp.Or(config.Namespace, "/proc/thread-self/ns/net"))
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer namespace.Close()
	var handler server.Handler
	if config.Next != nil {
		p := &passthrough{
			config: config, target: target, namespace: namespace, inode: inode, busy: map[string]bool{}, live: map[string]*passed{},
			pool: hop.NewPool(config.Name, config.Source.DialOptions()...),
		}
		p.pool.Listen(p.heard)
		defer p.closeAll()
		handler = p
	} else {
		e := &Endpoint{config: config, live: map[string]*live{}, namespace: namespace, inode: inode}
		var kept leases
		if config.Leases != "" {
			file, err := openLeases(config.Leases)
			if err != nil {
				return err
			}
			defer file.Close()
			kept = file
		}
		if e.addresses, err = newIPAM(config.Pools, kept); err != nil {
			return err
		}
		defer e.closeAll()
		handler = e
	}

	dir, err := os.MkdirTemp(config.SocketDir, "nse-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "listen.on")
	s, err := server.New(server.Config{Source: config.Source, Listen: []string{"unix://" + path}, Handler: handler})
	if err != nil {
		return err
	}
	// The socket outlives ctx until the registration is gone, so that nobody is sent to a closed door.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Run(serving) }()
	err = register(ctx, config, path)
	stop()
	return errors.Join(err, <-served)
}

// Register keeps an endpoint registered that somebody else serves on the unix socket at path, until ctx ends. Only the fields of
// config that are about registering count. Network services are registered only if config says their payload.
func Register(ctx context.Context, config Config, path string) error {
	if err := config.complete(); err != nil {
		return err
	}
	return register(ctx, config, path)
}

// complete sets what is left out.
func (c *Config) complete() error {
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 15*time.Second)
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Name == "" || len(c.Services) == 0 {
		return fault.New(fault.Invalid, "an endpoint needs a name and at least one network service")
	}
	return nil
}

// Request gives a client a connection, or goes on with the one it has.
func (e *Endpoint) Request(ctx context.Context, caller identity.Caller, _ hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	if err := hop.CheckRequest(r); err != nil {
		return nil, err
	}
	c := proto.CloneOf(r.Connection)
	place, err := hop.Enter(ctx, c, e.config.Name, caller, e.config.Source, uuid.NewString)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	expires := c.Path.PathSegments[place.Own-1].Expires.AsTime()
	if !expires.After(now) {
		return nil, fault.New(fault.Denied, "the token of %s expired at %s", caller.ID, expires.Format(time.RFC3339))
	}
	deadline, _ := ctx.Deadline()
	owner := place.CallerOf(c, caller.ID)

	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.live[c.Id]
	if old != nil && old.owner != owner {
		old = nil
		c.Id = uuid.NewString()
		c.Path.PathSegments[place.Own].Id = c.Id
	}
	c.Path.PathSegments = c.Path.PathSegments[:place.Own+1]
	c.State = connection.State_UP
	c.NetworkServiceEndpointName = e.config.Name
	if c.Mechanism, err = e.mechanism(c, old, r.MechanismPreferences); err != nil {
		return nil, err
	}
	if err := e.fillContext(c); err != nil {
		return nil, err
	}
	opened := &live{owner: owner, conn: c}
	if err := e.serve(opened, old); err != nil {
		return nil, err
	}
	if old != nil {
		old.timer.Stop()
	}
	e.live[c.Id] = opened
	opened.timer = time.AfterFunc(time.Until(hop.Expiry(expires, now, deadline)), func() { e.expire(opened) })
	e.hub.Put(c)
	if old == nil {
		slog.Info("connection opened", "connection", c.Id, "service", c.NetworkService, "client", owner.Name)
		e.config.Events(Event{Kind: Opened, Connection: c})
	}
	answer := proto.CloneOf(c)
	place.Leave(answer)
	hop.SendFile(ctx, e.namespace)
	return answer, nil
}

// Close ends a connection; an unknown one is no error.
func (e *Endpoint) Close(ctx context.Context, caller identity.Caller, c *connection.Connection) error {
	if err := hop.CheckPath(c); err != nil {
		return err
	}
	c = proto.CloneOf(c)
	place, err := hop.Enter(ctx, c, e.config.Name, caller, e.config.Source, uuid.NewString)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.live[c.Id]
	switch {
	case l == nil:
		return nil
	case l.owner != place.CallerOf(c, caller.ID):
		return fault.New(fault.Denied, "connection %s belongs to %s", c.Id, l.owner)
	}
	e.drop(l)
	return nil
}

// Watch tells send of all connections that match and of their changes; see hop.Hub.
func (e *Endpoint) Watch(ctx context.Context, s *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error {
	return e.hub.Watch(ctx, s, send)
}

// expire closes a connection that was not refreshed in time (§3.3).
func (e *Endpoint) expire(l *live) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.live[l.conn.Id] == l {
		slog.Info("connection expired", "connection", l.conn.Id)
		e.drop(l)
	}
}

// drop runs under the lock.
func (e *Endpoint) drop(l *live) {
	l.timer.Stop()
	if l.end != nil {
		l.end()
	}
	delete(e.live, l.conn.Id)
	e.addresses.free(l.conn.Id)
	e.hub.Remove(l.conn.Id)
	e.config.Events(Event{Kind: Closed, Connection: l.conn})
}

func (e *Endpoint) closeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.live {
		e.drop(l)
	}
}
