package registry

import (
	"context"

	registryapi "highwire/controlplane/api/registry"
)

// Event is one change of a Store.
type Event[T any] struct {
	Value T
	// Deleted: the value was removed or has expired; Value is its last state.
	Deleted bool
}

// Store keeps network services and endpoints. Implementations: Bolt (one node, survives restarts), Remote (another member's
// registry, for many nodes). Values handed in and out are never changed afterwards by either side. Kinds of errors: fault.NotFound, fault.Invalid,
// fault.Unavailable.
type Store interface {
	PutService(ctx context.Context, s *registryapi.NetworkService) error
	// DeleteService of what does not exist is no error.
	DeleteService(ctx context.Context, name string) error
	Services(ctx context.Context) ([]*registryapi.NetworkService, error)
	// WatchServices calls fn with every service there is (in name order), then once with ready, then with every later change,
	// in order, until ctx ends or fn returns an error, which it returns.
	WatchServices(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkService]) error) error

	// PutEndpoint stores e; the store removes it, with an event, when e.ExpirationTime has passed.
	PutEndpoint(ctx context.Context, e *registryapi.NetworkServiceEndpoint) error
	DeleteEndpoint(ctx context.Context, name string) error
	Endpoints(ctx context.Context) ([]*registryapi.NetworkServiceEndpoint, error)
	WatchEndpoints(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkServiceEndpoint]) error) error

	// Close releases the store; watches end.
	Close() error
}
