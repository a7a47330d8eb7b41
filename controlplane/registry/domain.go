package registry

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/vppapi/fault"
)

// Domains reach the registries of other meshes: service@domain is the service of that name there (§3.9).
type Domains struct {
	// Targets are gRPC targets of registries by domain.
	Targets map[string]string
	// Any: other domains are looked up. One that is an address, tcp://ip:port, is that; any other has SRV records of
	// registry.nsm-system.<domain>, and perhaps of nsmgr-proxy.nsm-system.<domain>, through which its endpoints are reached then.
	Any bool
	// Options are those of identity.Source.DialOptions.
	Options []grpc.DialOption
	// Resolver looks up SRV records and addresses; nil is the system's.
	Resolver *net.Resolver
}

// SplitDomain cuts name@domain at its first @; without one the domain is empty.
func SplitDomain(name string) (target, domain string) {
	target, domain, _ = strings.Cut(name, "@")
	return target, domain
}

func inDomain(name, domain string) string { return name + "@" + domain }

// peer finds the registry of a domain, and the URL that leads to all its endpoints, if there is one.
func (d *Domains) peer(ctx context.Context, domain string) (p Peer, gate string, err error) {
	if d != nil {
		p.Options = d.Options
		p.Target = d.Targets[domain]
	}
	switch {
	case p.Target != "":
		return p, "", nil
	case d == nil || !d.Any:
		return p, "", fault.New(fault.NotFound, "domain %q is not known here; see --domain", domain)
	}
	if address, ok := strings.CutPrefix(domain, "tcp://"); ok {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return p, "", fault.New(fault.Invalid, "domain %q: want tcp://ip:port", domain)
		}
		p.Target = address
		return p, "", nil
	}
	if p.Target, err = d.lookup(ctx, "registry.nsm-system."+domain); err != nil {
		return p, "", fault.New(fault.Unavailable, "domain %q: %w", domain, err)
	}
	if proxy, err := d.lookup(ctx, "nsmgr-proxy.nsm-system."+domain); err == nil {
		gate = "tcp://" + proxy
	}
	return p, gate, nil
}

// lookup is the address of a service by its SRV records.
func (d *Domains) lookup(ctx context.Context, name string) (string, error) {
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	_, records, err := resolver.LookupSRV(ctx, "", "", name)
	if err != nil {
		return "", err
	}
	for _, r := range records { // by priority and weight
		addresses, lookupErr := resolver.LookupNetIP(ctx, "ip", r.Target)
		if lookupErr == nil {
			return net.JoinHostPort(addresses[0].Unmap().String(), strconv.Itoa(int(r.Port))), nil
		}
		err = lookupErr
	}
	return "", errors.Join(err, fault.New(fault.NotFound, "no address of %s", name))
}

// findAt are the entries of another registry that match a query; both have names without domain.
func findAt[T entry](ctx context.Context, p Peer, k kind[T], query T) (list []T, err error) {
	conn, err := hop.Dial(p.Target, p.Options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	stream, err := k.find(ctx, conn, query, false)
	if err == nil {
		err = hearAll(stream, func(e Event[T]) { list = append(list, e.Value) })
	}
	if !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.KindOf(err), "registry %s: %w", p.Target, err)
	}
	return list, nil
}

// service is the one of the name in the domain, under its name here.
func (d *Domains) service(ctx context.Context, name, domain string) (*registryapi.NetworkService, error) {
	p, _, err := d.peer(ctx, domain)
	if err != nil {
		return nil, err
	}
	list, err := findAt(ctx, p, serviceKind, &registryapi.NetworkService{Name: name})
	if err != nil {
		return nil, err
	}
	s, ok := byName(list, name)
	if !ok {
		return nil, fault.New(fault.NotFound, "network service %q is not registered in domain %q", name, domain)
	}
	return serviceFrom(s, domain), nil
}

// endpoints are those of the domain that match a query without domain, under their names here.
func (d *Domains) endpoints(ctx context.Context, query *registryapi.NetworkServiceEndpoint, domain string) ([]*registryapi.NetworkServiceEndpoint, error) {
	p, gate, err := d.peer(ctx, domain)
	if err != nil {
		return nil, err
	}
	found, err := findAt(ctx, p, endpointKind, query)
	var list []*registryapi.NetworkServiceEndpoint
	for _, e := range found {
		e = endpointFrom(e, domain, gate)
		if _, err := hostPort(e.Url); err == nil { // their sockets are none of ours
			list = append(list, e)
		}
	}
	return list, err
}

func serviceFrom(s *registryapi.NetworkService, domain string) *registryapi.NetworkService {
	s = proto.CloneOf(s)
	s.Name = inDomain(s.Name, domain)
	return s
}

func endpointFrom(e *registryapi.NetworkServiceEndpoint, domain, gate string) *registryapi.NetworkServiceEndpoint {
	e = rename(e, func(name string) string { return inDomain(name, domain) })
	if gate != "" {
		e.Url = gate
	}
	return e
}

// rename is e with all its names changed.
func rename(e *registryapi.NetworkServiceEndpoint, name func(string) string) *registryapi.NetworkServiceEndpoint {
	e = proto.CloneOf(e)
	if e.Name != "" {
		e.Name = name(e.Name)
	}
	for i, s := range e.NetworkServiceNames {
		e.NetworkServiceNames[i] = name(s)
	}
	labels := e.NetworkServiceLabels
	e.NetworkServiceLabels = map[string]*registryapi.NetworkServiceLabels{}
	for s, l := range labels {
		e.NetworkServiceLabels[name(s)] = l
	}
	return e
}

// domainOf is the one domain that all names of e are in; names in two domains are fault.Invalid.
func domainOf(e *registryapi.NetworkServiceEndpoint) (domain string, err error) {
	names := slices.Concat(e.GetNetworkServiceNames(), slices.Collect(maps.Keys(e.GetNetworkServiceLabels())))
	if e.GetName() != "" {
		names = append(names, e.Name)
	}
	for i, name := range names {
		_, d := SplitDomain(name)
		if i > 0 && d != domain {
			return "", fault.New(fault.Invalid, "the names of the endpoint and its network services are in different domains")
		}
		domain = d
	}
	return domain, nil
}

func bare(name string) string {
	target, _ := SplitDomain(name)
	return target
}

// watchAt follows what another domain's registry has. It never ends by itself, as no watch does.
func watchAt[T entry](ctx context.Context, p Peer, k kind[T], query T, send func(Event[T]) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	conn, err := hop.Dial(p.Target, p.Options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		stream, err := k.find(ctx, conn, query, true)
		for err == nil {
			var e Event[T]
			if e, err = stream.recv(); err == nil {
				wait.Reset()
				if err := send(e); err != nil {
					return err
				}
			}
		}
		// What it has is told again when it is back.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// registerAt hands a registration on to the registry of a domain, where v is to have its name without it.
func registerAt[T entry](ctx context.Context, r *Registry, a *passage, k kind[T], v T, domain string) (answer T, err error) {
	p, _, err := r.domains.peer(ctx, domain)
	if err != nil {
		return answer, err
	}
	on := &relay{path: a.path}
	if answer, err = register(ctx, p, k, v, on); err == nil {
		a.relayed(on)
	}
	return answer, err
}

func unregisterAt[T entry](ctx context.Context, r *Registry, a *passage, k kind[T], v T, domain string) error {
	p, _, err := r.domains.peer(ctx, domain)
	if err != nil {
		return err
	}
	on := &relay{path: a.path}
	if err := unregister(ctx, p, k, v, on); err != nil {
		return err
	}
	a.relayed(on)
	return nil
}

// sendAt answers a Find about another domain.
func sendAt[T entry](ctx context.Context, p Peer, k kind[T], query T, watch bool, ready func() error, send func(Event[T]) error) error {
	if watch {
		if err := ready(); err != nil {
			return err
		}
		return watchAt(ctx, p, k, query, send)
	}
	list, err := findAt(ctx, p, k, query)
	for _, v := range list {
		if err := send(Event[T]{Value: v}); err != nil {
			return err
		}
	}
	return err
}
