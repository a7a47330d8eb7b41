package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// shared is what stores of many nodes have in common: what they read comes from memory, which follows what is there.
type shared struct {
	log       *slog.Logger
	services  *overlay[*registryapi.NetworkService]
	endpoints *overlay[*registryapi.NetworkServiceEndpoint]
	settled   chan struct{} // closed when all that is there has been read once
	once      sync.Once

	stop   context.CancelFunc
	closed context.Context
	done   sync.WaitGroup
}

func newShared(log *slog.Logger) *shared {
	s := &shared{log: log, settled: make(chan struct{})}
	s.closed, s.stop = context.WithCancel(context.Background())
	s.services = newOverlay(serviceKind, s.closed.Done())
	s.endpoints = newOverlay(endpointKind, s.closed.Done())
	return s
}

// start runs follow until close, again after a while whenever it fails. Many nodes lose what they share at the same moment;
// they come back at different ones.
func (s *shared) start(follow func(context.Context) error) {
	s.done.Go(func() {
		wait := backoff.NewExponentialBackOff()
		wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
		for {
			began := time.Now()
			err := follow(s.closed)
			if s.closed.Err() != nil {
				return
			}
			s.log.Warn("the shared registry is away; what it had last is used", "error", err)
			if time.Since(began) > wait.MaxInterval {
				wait.Reset()
			}
			select {
			case <-s.closed.Done():
				return
			case <-time.After(wait.NextBackOff()):
			}
		}
	})
}

// complete says that all there is has been read.
func (s *shared) complete() {
	s.once.Do(func() { close(s.settled) })
	s.log.Info("following the shared registry")
}

// Settled is closed once all that is there has been read for the first time.
func (s *shared) Settled() <-chan struct{} { return s.settled }

// Close ends watches. What this node registered expires.
func (s *shared) Close() error {
	s.stop()
	s.done.Wait()
	s.services.close()
	s.endpoints.close()
	return nil
}

// Services are all services in name order.
func (s *shared) Services(context.Context) ([]*registryapi.NetworkService, error) {
	return s.services.list(), nil
}

// WatchServices follows the services; a watcher too slow for the changes gets fault.Exhausted.
func (s *shared) WatchServices(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkService]) error) error {
	return s.services.watch(ctx, ready, fn)
}

// Endpoints are all endpoints in name order.
func (s *shared) Endpoints(context.Context) ([]*registryapi.NetworkServiceEndpoint, error) {
	return s.endpoints.list(), nil
}

// WatchEndpoints follows the endpoints; a watcher too slow for the changes gets fault.Exhausted.
func (s *shared) WatchEndpoints(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkServiceEndpoint]) error) error {
	return s.endpoints.watch(ctx, ready, fn)
}

// writer writes v in the place of what was last seen there, if that belongs to by.
type writer[T entry] func(ctx context.Context, by string, v T) error

// putOwn writes an entry of this node's. While the registry is away it is kept here, and again has it written later.
func putOwn[T entry](ctx context.Context, s *shared, o *overlay[T], v T, write writer[T], again func(error)) error {
	if v.GetName() == "" {
		return fault.New(fault.Invalid, "an entry without a name")
	}
	p := publication[T]{value: v}
	err := write(ctx, relayOf(ctx).owner, v)
	switch {
	case err == nil:
	case away(err) && ctx.Err() == nil:
		s.log.Warn("registered here only; the shared registry will have it when it answers", "name", v.GetName(), "error", err)
		p.pending = true
	default:
		return err
	}
	o.publish(p)
	if p.pending {
		again(err)
	}
	return nil
}

// deleteOwn takes the outcome of an endpoint's deletion: while the registry is away it is gone here, and expires there.
func (s *shared) deleteOwn(ctx context.Context, name string, err error) error {
	if away(err) && ctx.Err() == nil {
		s.log.Warn("not unregistered there; it will expire", "endpoint", name, "error", err)
		s.endpoints.forget(name)
		return nil
	}
	return err
}

// restoreOwn takes all that the registry has of one kind, and writes what of this node's is not there. What another owner has
// taken meanwhile, or the registry refuses, is gone here: its former owner sees that by its watch.
func restoreOwn[T entry](ctx context.Context, s *shared, o *overlay[T], all []T, write writer[T]) error {
	for _, p := range o.settle(all) {
		name := p.value.GetName()
		if there, ok := o.at(name); ok && owner(o.ids(there)) != owner(o.ids(p.value)) {
			s.log.Error("taken by another owner", "name", name, "owner", owner(o.ids(there)))
			o.withdraw(name, p.value)
			continue
		}
		err := write(ctx, owner(o.ids(p.value)), p.value)
		switch {
		case err == nil:
			o.confirm(p.value, publication[T]{value: p.value})
			s.log.Info("registered anew", "name", name)
		case away(err), errors.Is(err, errChanged), fault.Is(err, fault.Denied), ctx.Err() != nil:
			return err // to be tried again; a right that we lack there may come
		default:
			s.log.Error("refused by the shared registry", "name", name, "error", err)
			o.withdraw(name, p.value)
		}
	}
	return nil
}

func owner(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}
