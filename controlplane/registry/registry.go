// Package registry knows which network services there are and which endpoints offer them.
//
// A registration, top to bottom:
//
//  1. The gRPC service (services.go, endpoints.go) checks what came in against the limits.
//  2. admit reads the caller from the transport and the path from metadata, adds our segment and checks the tokens.
//  3. An endpoint's socket is awaited, which comes as an open file beside the message, and held (sockets.go).
//  4. The name must be free or the caller's own; the Store keeps the entry, tells watchers, and forgets endpoints when they
//     expire. Where many nodes share it, the endpoint has our URL there; a store that is a registry too gets the path.
//  5. The path goes back in the response header.
//
// The manager of the same process asks the Registry directly: FindService, Candidates, Endpoint, Target. Sections cited are
// those of the NSM wire description.
package registry

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// DefaultEndpointLifetime is how long an endpoint stays registered without a refresh, when its tokens last longer.
const DefaultEndpointLifetime = time.Minute

// Identity makes the registry's own tokens; identity.Source is one.
type Identity interface {
	// Reply makes a token for the caller of the RPC in ctx.
	Reply(ctx context.Context) (identity.Token, error)
}

// Registry offers the two registry services over a Store, and answers the manager.
type Registry struct {
	store    Store
	identity Identity
	lifetime time.Duration
	public   string
	domains  *Domains
	sockets  sockets

	// Registrations of one name take turns: ownership is read and written in one step.
	locks [256]sync.Mutex
	seed  maphash.Seed
}

// Option changes what New makes.
type Option func(*Registry)

// WithEndpointLifetime replaces DefaultEndpointLifetime.
func WithEndpointLifetime(d time.Duration) Option {
	return func(r *Registry) { r.lifetime = d }
}

// WithPublicURL says where agents on other nodes reach us, as tcp://ip:port. Endpoints on this node are stored with it, for
// others to read; members on this node get the endpoints' own URLs (§3.8).
func WithPublicURL(url string) Option {
	return func(r *Registry) { r.public = url }
}

// WithDomains makes names of other domains, name@domain, known.
func WithDomains(d *Domains) Option {
	return func(r *Registry) { r.domains = d }
}

// New makes a registry over the store, which stays the caller's to close, after the Registry.
func New(store Store, id Identity, opts ...Option) *Registry {
	r := &Registry{store: store, identity: id, lifetime: DefaultEndpointLifetime, seed: maphash.MakeSeed()}
	for _, o := range opts {
		o(r)
	}
	return r
}

// AddTo registers both gRPC services. Their errors are plain ones with kinds of package fault.
func (r *Registry) AddTo(s grpc.ServiceRegistrar) {
	registryapi.RegisterNetworkServiceRegistryServer(s, &services{registry: r})
	registryapi.RegisterNetworkServiceEndpointRegistryServer(s, &endpoints{registry: r})
}

// Close drops the endpoints' sockets. Call it when the gRPC server has stopped.
func (r *Registry) Close() { r.sockets.close() }

// Services are all network services, in name order where the store has one.
func (r *Registry) Services(ctx context.Context) ([]*registryapi.NetworkService, error) {
	return r.store.Services(ctx)
}

// Endpoints are all endpoints that can be reached from this node, in name order where the store has one.
func (r *Registry) Endpoints(ctx context.Context) ([]*registryapi.NetworkServiceEndpoint, error) {
	list, err := r.store.Endpoints(ctx)
	return r.locals(list), err
}

// FindService returns the network service of the name, or fault.NotFound. Never change it.
func (r *Registry) FindService(ctx context.Context, name string) (*registryapi.NetworkService, error) {
	if target, domain := SplitDomain(name); domain != "" {
		return r.domains.service(ctx, target, domain)
	}
	list, err := r.store.Services(ctx)
	if err != nil {
		return nil, err
	}
	s, ok := byName(list, name)
	if !ok {
		return nil, fault.New(fault.NotFound, "network service %q is not registered", name)
	}
	return s, nil
}

// Endpoint returns the endpoint of the name, or fault.NotFound. Never change it.
func (r *Registry) Endpoint(ctx context.Context, name string) (*registryapi.NetworkServiceEndpoint, error) {
	list, err := r.named(ctx, name)
	if err != nil {
		return nil, err
	}
	e, ok := byName(list, name)
	if ok {
		e, ok = r.local(e)
	}
	if !ok {
		return nil, fault.New(fault.NotFound, "endpoint %q is not registered", name)
	}
	return e, nil
}

// Fits tells whether ns offers the endpoint to a client with these labels, if there were no other (§3.7).
func (r *Registry) Fits(ns *registryapi.NetworkService, e *registryapi.NetworkServiceEndpoint, labels map[string]string) bool {
	return fits(ns, e, labels)
}

// WatchServices calls fn with every service there is and then with every change, until ctx ends; a store that cannot be
// watched any more is an error.
func (r *Registry) WatchServices(ctx context.Context, fn func(Event[*registryapi.NetworkService])) error {
	return r.store.WatchServices(ctx, func() error { return nil }, func(e Event[*registryapi.NetworkService]) error { fn(e); return nil })
}

// Candidates are the endpoints that ns offers to a client with these labels, in order (§3.7); none is no error. A selector
// that cannot be evaluated is fault.Invalid.
func (r *Registry) Candidates(ctx context.Context, ns *registryapi.NetworkService, labels map[string]string) ([]Candidate, error) {
	list, err := r.offering(ctx, ns.GetName())
	if err != nil {
		return nil, err
	}
	chosen, err := candidates(ns, list, labels, time.Now())
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "network service %s: %w", ns.Name, err)
	}
	return chosen, nil
}

// offering are the endpoints that offer the service, as this node sees them.
func (r *Registry) offering(ctx context.Context, service string) ([]*registryapi.NetworkServiceEndpoint, error) {
	if target, domain := SplitDomain(service); domain != "" {
		return r.domains.endpoints(ctx, &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{target}}, domain)
	}
	list, err := r.store.Endpoints(ctx)
	var offering []*registryapi.NetworkServiceEndpoint
	for _, e := range list {
		if slices.Contains(e.NetworkServiceNames, service) {
			offering = append(offering, e)
		}
	}
	return r.locals(offering), err
}

// named are the endpoints among which the one of the name is, if there is one.
func (r *Registry) named(ctx context.Context, name string) ([]*registryapi.NetworkServiceEndpoint, error) {
	if target, domain := SplitDomain(name); domain != "" {
		return r.domains.endpoints(ctx, &registryapi.NetworkServiceEndpoint{Name: target}, domain)
	}
	return r.store.Endpoints(ctx)
}

// Target is the gRPC target of an endpoint. One that gave us its socket is reached through our file descriptor, whose number
// may mean another endpoint later; without the socket (the agent was restarted, or the endpoint registered over TCP) it is
// fault.Unavailable until the endpoint registers again, which it does at once when its watch on itself breaks.
func (r *Registry) Target(e *registryapi.NetworkServiceEndpoint) (string, error) {
	return targetOf(e, &r.sockets)
}

func targetOf(e *registryapi.NetworkServiceEndpoint, s *sockets) (string, error) {
	if address, err := hostPort(e.GetUrl()); err == nil {
		return address, nil
	}
	target, ok := s.target(e.GetUrl())
	if !ok {
		return "", fault.New(fault.Unavailable, "endpoint %s: its socket %s was not passed to this agent; it can be reached when it has registered again over the agent's unix socket", e.GetName(), e.GetUrl())
	}
	return target, nil
}

// publicURL is the URL that others get of an endpoint: ours, unless it can be reached without us.
func (r *Registry) publicURL(url string) string {
	if _, err := hostPort(url); err == nil || r.public == "" {
		return url
	}
	return r.public
}

// local is a stored endpoint as this node sees it: one of our own with its own URL. Of one that carries our URL and is not
// known here the node knows nothing; it was here before the agent was restarted.
func (r *Registry) local(e *registryapi.NetworkServiceEndpoint) (*registryapi.NetworkServiceEndpoint, bool) {
	if r.public == "" {
		return e, true
	}
	if e.Url != r.public {
		// A socket of another node is none of ours, whatever its number.
		_, err := hostPort(e.Url)
		return e, err == nil
	}
	url, ok := r.sockets.url(e.Name)
	if !ok {
		return e, false
	}
	e = proto.CloneOf(e)
	e.Url = url
	return e, true
}

// locals are the endpoints as this node sees them.
func (r *Registry) locals(list []*registryapi.NetworkServiceEndpoint) []*registryapi.NetworkServiceEndpoint {
	if r.public == "" {
		return list
	}
	var seen []*registryapi.NetworkServiceEndpoint
	for _, e := range list {
		if e, ok := r.local(e); ok {
			seen = append(seen, e)
		}
	}
	return seen
}

// lock keeps others from registering the name until unlock is called.
func (r *Registry) lock(name string) (unlock func()) {
	l := &r.locks[maphash.String(r.seed, name)%uint64(len(r.locks))]
	l.Lock()
	return l.Unlock
}

func byName[T entry](list []T, name string) (found T, ok bool) {
	for _, v := range list {
		if v.GetName() == name {
			return v, true
		}
	}
	return found, false
}
