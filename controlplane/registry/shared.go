package registry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	registryapi "highwire/controlplane/api/registry"
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
