package registry

import (
	"context"
	"errors"
	"io"
	"time"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/vppapi/fault"
)

// Asked is the directory of a forwarder: the registry of the manager it works for, asked whenever it is needed (§5.6). Over
// the manager's unix socket the sockets of this node's endpoints come along with the answers.
type Asked struct {
	peer    Peer
	sockets sockets
}

// NewAsked makes a directory that asks the peer. Close it at last.
func NewAsked(peer Peer) *Asked { return &Asked{peer: peer} }

// Close drops the endpoints' sockets.
func (a *Asked) Close() { a.sockets.close() }

// Services are all network services.
func (a *Asked) Services(ctx context.Context) ([]*registryapi.NetworkService, error) {
	return findAt(ctx, a.peer, serviceKind, nil)
}

// Endpoints are all endpoints.
func (a *Asked) Endpoints(ctx context.Context) ([]*registryapi.NetworkServiceEndpoint, error) {
	return a.endpoints(ctx, nil)
}

// FindService returns the network service of the name, or fault.NotFound.
func (a *Asked) FindService(ctx context.Context, name string) (*registryapi.NetworkService, error) {
	list, err := findAt(ctx, a.peer, serviceKind, &registryapi.NetworkService{Name: name})
	if err != nil {
		return nil, err
	}
	if s, ok := byName(list, name); ok {
		return s, nil
	}
	return nil, fault.New(fault.NotFound, "network service %q is not registered at the manager", name)
}

// Candidates are as in Registry.
func (a *Asked) Candidates(ctx context.Context, ns *registryapi.NetworkService, labels map[string]string) ([]Candidate, error) {
	list, err := a.endpoints(ctx, &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{ns.GetName()}})
	if err != nil {
		return nil, err
	}
	return candidates(ns, list, labels, time.Now())
}

// Fits is as in Registry.
func (a *Asked) Fits(ns *registryapi.NetworkService, e *registryapi.NetworkServiceEndpoint, labels map[string]string) bool {
	return fits(ns, e, labels)
}

// WatchServices does nothing until ctx ends: the manager itself moves connections when a service changes.
func (a *Asked) WatchServices(ctx context.Context, _ func(Event[*registryapi.NetworkService])) error {
	<-ctx.Done()
	return ctx.Err()
}

// Endpoint returns the endpoint of the name, or fault.NotFound.
func (a *Asked) Endpoint(ctx context.Context, name string) (*registryapi.NetworkServiceEndpoint, error) {
	list, err := a.endpoints(ctx, &registryapi.NetworkServiceEndpoint{Name: name})
	if err != nil {
		return nil, err
	}
	if e, ok := byName(list, name); ok {
		return e, nil
	}
	return nil, fault.New(fault.NotFound, "endpoint %q is not registered at the manager", name)
}

// Target is as in Registry.
func (a *Asked) Target(e *registryapi.NetworkServiceEndpoint) (string, error) {
	return targetOf(e, &a.sockets)
}

// endpoints asks for those that match, and takes the sockets that come with them. A socket that does not come makes its
// endpoint one that cannot be reached.
func (a *Asked) endpoints(ctx context.Context, query *registryapi.NetworkServiceEndpoint) ([]*registryapi.NetworkServiceEndpoint, error) {
	conn, err := hop.Dial(a.peer.Target, a.peer.Options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	stream, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: query})
	if err != nil {
		return nil, hop.FromStatus(err)
	}
	var list []*registryapi.NetworkServiceEndpoint
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, hop.FromStatus(err)
		}
		if e := answer.GetNetworkServiceEndpoint(); e.GetName() != "" && !answer.Deleted {
			list = append(list, e)
		}
	}
	for _, e := range list {
		file, err := a.sockets.receive(stream.Context(), e.Url)
		if err != nil {
			continue
		}
		until := time.Now().Add(DefaultEndpointLifetime)
		if e.ExpirationTime.IsValid() {
			until = e.ExpirationTime.AsTime()
		}
		a.sockets.hold(e.Name, e.Url, file, until)
	}
	return list, nil
}
