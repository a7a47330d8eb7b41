package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Remote is a Store that is another member's registry, shared by many nodes. Registrations are handed on with their path
// (§3.8), so that the other registry knows their owners. All it has is watched and read from memory. While it is away, this
// node's own registrations go on here and the others' are as last seen; when it is back it is told what it lacks.
type Remote struct {
	*shared
	peer Peer
}

var _ Store = (*Remote)(nil)

// OpenRemote follows the registry of the peer until Close, whether it can be reached now or later.
func OpenRemote(peer Peer) *Remote {
	r := &Remote{shared: newShared(slog.With("registry", peer.Target)), peer: peer}
	r.start(r.follow)
	return r
}

// PutService registers s there. While the registry is away it is kept here and registered later.
func (r *Remote) PutService(ctx context.Context, s *registryapi.NetworkService) error {
	return putRemote(ctx, r, r.services, s)
}

// DeleteService unregisters the service there; fault.Unavailable when the registry is away.
func (r *Remote) DeleteService(ctx context.Context, name string) error {
	if err := unregister(ctx, r.peer, serviceKind, &registryapi.NetworkService{Name: name}, relayOf(ctx)); err != nil {
		return err
	}
	r.services.forget(name)
	return nil
}

// PutEndpoint registers e there until it expires. While the registry is away it is kept here and registered later.
func (r *Remote) PutEndpoint(ctx context.Context, e *registryapi.NetworkServiceEndpoint) error {
	return putRemote(ctx, r, r.endpoints, e)
}

// DeleteEndpoint unregisters the endpoint there. While the registry is away it is gone here, and expires there.
func (r *Remote) DeleteEndpoint(ctx context.Context, name string) error {
	err := unregister(ctx, r.peer, endpointKind, &registryapi.NetworkServiceEndpoint{Name: name}, relayOf(ctx))
	if err != nil && !away(err) {
		return err
	}
	if err != nil {
		r.log.Warn("not unregistered there; it will expire", "endpoint", name, "error", err)
	}
	r.endpoints.forget(name)
	return nil
}

// away tells whether the registry could not be asked, as opposed to what it said.
func away(err error) bool { return fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Timeout) }

func putRemote[T entry](ctx context.Context, r *Remote, o *overlay[T], v T) error {
	if v.GetName() == "" {
		return fault.New(fault.Invalid, "an entry without a name")
	}
	passing := relayOf(ctx)
	p := publication[T]{value: v, path: passing.path}
	answer, err := register(ctx, r.peer, o.kind, v, passing)
	switch {
	case err == nil:
		p.value = answer
		if e, ok := any(answer).(*registryapi.NetworkServiceEndpoint); ok {
			passing.expires = e.ExpirationTime
		}
	case away(err) && ctx.Err() == nil:
		r.log.Warn("registered here only; the shared registry will be told when it answers", "name", v.GetName(), "error", err)
		p.pending = true
	default:
		return err
	}
	o.publish(p)
	return nil
}

// follow keeps both overlays equal to the registry until its watches break.
func (r *Remote) follow(ctx context.Context) error {
	conn, err := hop.Dial(r.peer.Target, r.peer.Options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	all, ctx := errgroup.WithContext(ctx)
	// Services are told of first: an endpoint is of no use without its own.
	begin, first, both := make(chan struct{}), make(chan struct{}), make(chan struct{})
	close(begin)
	all.Go(func() error { return follow(ctx, r, conn, r.services, begin, first) })
	all.Go(func() error { return follow(ctx, r, conn, r.endpoints, first, both) })
	all.Go(func() error {
		select {
		case <-both:
			r.complete()
		case <-ctx.Done():
		}
		return nil
	})
	return all.Wait()
}

// headerTime is how long a registry may take to begin its answer. Ours does so at once; others only with the first entry.
const headerTime = time.Second

// follow hears one kind of entry until the watch breaks. When all there is has been heard it waits for its turn, tells the
// registry what it lacks, and closes settled.
func follow[T entry](ctx context.Context, r *Remote, conn *grpc.ClientConn, o *overlay[T], turn <-chan struct{}, settled chan<- struct{}) error {
	o.begin()
	var all T
	watch, err := o.find(ctx, conn, all, true)
	if err != nil {
		return hop.FromStatus(err)
	}
	both, ctx := errgroup.WithContext(ctx)
	begun := make(chan struct{})
	both.Go(func() error {
		_, err := watch.header()
		close(begun)
		if err != nil {
			return hop.FromStatus(err)
		}
		return hearAll(watch, o.hear)
	})
	both.Go(func() error {
		// The list is asked for when the watch is known to have begun, so that nothing is lost in between.
		select {
		case <-begun:
		case <-time.After(headerTime):
		}
		list, err := o.find(ctx, conn, all, false)
		if err != nil {
			return hop.FromStatus(err)
		}
		var entries []T
		if err := hearAll(list, func(e Event[T]) { entries = append(entries, e.Value) }); !errors.Is(err, io.EOF) {
			return err
		}
		missing := o.settle(entries)
		select {
		case <-turn:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, p := range missing {
			if err := republish(ctx, r, o, p); err != nil {
				return err
			}
		}
		close(settled)
		return nil
	})
	return both.Wait()
}

func hearAll[T entry](stream found[T], hear func(Event[T])) error {
	for {
		e, err := stream.recv()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return hop.FromStatus(err)
		}
		hear(e)
	}
}

// republish registers what the registry lacks, in its owner's name while the owner's token lasts. What the registry refuses is
// gone here too: its owner sees that by its watch and registers again, to hear why.
func republish[T entry](ctx context.Context, r *Remote, o *overlay[T], p publication[T]) error {
	passing := &relay{path: p.path}
	if n := len(p.path.PathSegments); n > 0 && identity.CheckValid(p.path.tokens()[:n-1], time.Now()) != nil {
		passing.path = path{}
	}
	answer, err := register(ctx, r.peer, o.kind, proto.CloneOf(p.value), passing)
	switch {
	case err == nil:
		o.confirm(p.value, publication[T]{value: answer, path: p.path})
		r.log.Info("registered anew", "name", p.value.GetName())
		return nil
	case away(err) || ctx.Err() != nil:
		return err
	}
	r.log.Error("refused by the shared registry", "name", p.value.GetName(), "error", err)
	o.withdraw(p.value.GetName(), p.value)
	return nil
}
