package registry

import (
	"context"
	"errors"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// errChanged is what a Put or Delete of a store with many writers fails with when another one has changed the entry since it
// was last seen here. It is seen now: the caller looks again whether it may.
var errChanged = fault.New(fault.Conflict, "it was changed on another node at the same moment; try again")

// settled runs a change that looks at the entry first, again when the entry has changed in between.
func settled(change func() error) error {
	var err error
	for range 5 {
		if err = change(); !errors.Is(err, errChanged) {
			return err
		}
	}
	return err
}

// Event is one change of a Store.
type Event[T any] struct {
	Value T
	// Deleted: the value was removed or has expired; Value is its last state.
	Deleted bool
}

// Store keeps network services and endpoints. Implementations: Bolt (one node, survives restarts); Etcd, Kubernetes and Remote,
// another member's registry (many nodes). Values handed in and out are never changed afterwards by either side. Kinds of errors:
// fault.NotFound, fault.Invalid, fault.Unavailable; fault.Conflict where another is in the way.
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
