package registry

import (
	"context"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/vppapi/fault"
)

// endpoints is registry.NetworkServiceEndpointRegistry.
type endpoints struct {
	registryapi.UnimplementedNetworkServiceEndpointRegistryServer
	registry *Registry
}

// Register stores the endpoint until it expires and holds the socket it sent along. The answer says when it expires; the
// URL goes back as it came, because the endpoint knows its socket by it.
func (s *endpoints) Register(ctx context.Context, in *registryapi.NetworkServiceEndpoint) (*registryapi.NetworkServiceEndpoint, error) {
	if err := checkEndpoint(in); err != nil {
		return nil, err
	}
	a, err := s.registry.admit(ctx)
	if err != nil {
		return nil, err
	}
	domain, err := domainOf(in)
	switch {
	case err != nil:
		return nil, fault.New(fault.KindOf(err), "endpoint %s: %w", in.Name, err)
	case domain != "":
		return s.registerAt(ctx, in, a, domain)
	}
	now := time.Now()
	expires, err := s.expiry(in, a, now)
	if err != nil {
		return nil, err
	}
	out := proto.CloneOf(in)
	out.ExpirationTime = timestamppb.New(expires)
	if out.InitialRegistrationTime == nil {
		out.InitialRegistrationTime = timestamppb.New(now)
	}
	out.PathIds = a.ids
	socket, err := s.registry.sockets.receive(ctx, out.Url)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "endpoint %s: %w", out.Name, err)
	}
	if err := s.put(ctx, &a, out, socket); err != nil {
		return nil, err
	}
	return out, a.answer(ctx)
}

// registerAt registers the endpoint in another domain. That can only be one which others reach without us: calls from there do
// not say that they are for what is registered elsewhere.
func (s *endpoints) registerAt(ctx context.Context, in *registryapi.NetworkServiceEndpoint, a passage, domain string) (*registryapi.NetworkServiceEndpoint, error) {
	if _, err := hostPort(in.Url); err != nil {
		return nil, fault.New(fault.Invalid, "endpoint %s: a socket of this node cannot be registered in another domain; register it here, and ask for it from there with this domain's name", in.Name)
	}
	out, err := registerAt(ctx, s.registry, &a, endpointKind, rename(in, bare), domain)
	if err != nil {
		return nil, err
	}
	return endpointFrom(out, domain, ""), a.answer(ctx)
}

// expiry is the soonest of what the caller wants, the tokens of both sides and our own limit (§3.8).
func (s *endpoints) expiry(in *registryapi.NetworkServiceEndpoint, a passage, now time.Time) (time.Time, error) {
	soonest := now.Add(s.registry.lifetime)
	wanted := a.caller.Expires
	if t := in.ExpirationTime; t != nil {
		if err := t.CheckValid(); err != nil {
			return soonest, fault.New(fault.Invalid, "endpoint %s: expiration_time: %w", in.Name, err)
		}
		wanted = t.AsTime()
	}
	for _, t := range []time.Time{wanted, a.caller.Expires, a.own.Expires} {
		if t.Before(soonest) {
			soonest = t
		}
	}
	if !soonest.After(now) {
		return soonest, fault.New(fault.Invalid, "endpoint %s: expiration_time %s is past", in.Name, soonest.Format(time.RFC3339))
	}
	return soonest, nil
}

// put stores out under the URL that others can reach it by, and completes it by what the store says. The socket is held first:
// who learns of the endpoint may call it at once. Should the store then fail, it is dropped when it would have expired.
func (s *endpoints) put(ctx context.Context, a *passage, out *registryapi.NetworkServiceEndpoint, socket *os.File) error {
	defer s.registry.lock(out.Name)()
	if err := s.mayPut(ctx, a, out); err != nil {
		if socket != nil {
			_ = socket.Close()
		}
		return err
	}
	s.registry.sockets.hold(out.Name, out.Url, socket, out.ExpirationTime.AsTime())
	stored := proto.CloneOf(out)
	stored.Url = s.registry.publicURL(out.Url)
	on := &relay{owner: a.ids[0], path: a.path}
	err := settled(func() error {
		if err := s.mayPut(ctx, a, out); err != nil {
			return err
		}
		return s.registry.store.PutEndpoint(withRelay(ctx, on), stored)
	})
	if err != nil {
		return err
	}
	a.relayed(on)
	out.PathIds = a.ids
	if on.expires.IsValid() {
		out.ExpirationTime = on.expires
	}
	return nil
}

func (s *endpoints) mayPut(ctx context.Context, a *passage, out *registryapi.NetworkServiceEndpoint) error {
	list, err := s.registry.store.Endpoints(ctx)
	if err != nil {
		return err
	}
	old, ok := byName(list, out.Name)
	if !ok && len(list) >= maxEntries {
		return fault.New(fault.Exhausted, "there are %d endpoints; the limit is %d", len(list), maxEntries)
	}
	return a.owns("endpoint", out.Name, old.GetPathIds())
}

// Unregister removes the endpoint and drops its socket; an unknown one is removed already.
func (s *endpoints) Unregister(ctx context.Context, in *registryapi.NetworkServiceEndpoint) (*emptypb.Empty, error) {
	if err := checkName("name of the endpoint", in.GetName()); err != nil {
		return nil, err
	}
	a, err := s.registry.admit(ctx)
	if err != nil {
		return nil, err
	}
	if target, domain := SplitDomain(in.Name); domain != "" {
		if err := unregisterAt(ctx, s.registry, &a, endpointKind, &registryapi.NetworkServiceEndpoint{Name: target}, domain); err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, a.answer(ctx)
	}
	defer s.registry.lock(in.Name)()
	on := &relay{owner: a.ids[0], path: a.path}
	err = settled(func() error {
		list, err := s.registry.store.Endpoints(ctx)
		if err != nil {
			return err
		}
		old, ok := byName(list, in.Name)
		if !ok {
			return nil
		}
		if err := a.owns("endpoint", in.Name, old.PathIds); err != nil {
			return err
		}
		return s.registry.store.DeleteEndpoint(withRelay(ctx, on), in.Name)
	})
	if err != nil {
		return nil, err
	}
	a.relayed(on)
	s.registry.sockets.drop(in.Name)
	return &emptypb.Empty{}, a.answer(ctx)
}

// Find sends the endpoints that match, and with watch the changes too until the client cancels.
func (s *endpoints) Find(q *registryapi.NetworkServiceEndpointQuery, stream grpc.ServerStreamingServer[registryapi.NetworkServiceEndpointResponse]) error {
	ctx := stream.Context()
	domain, err := domainOf(q.GetNetworkServiceEndpoint())
	if err != nil {
		return err
	}
	if domain != "" {
		p, gate, err := s.registry.domains.peer(ctx, domain)
		if err != nil {
			return err
		}
		return sendAt(ctx, p, endpointKind, rename(q.NetworkServiceEndpoint, bare), q.Watch, begun(stream), func(e Event[*registryapi.NetworkServiceEndpoint]) error {
			return stream.Send(&registryapi.NetworkServiceEndpointResponse{NetworkServiceEndpoint: endpointFrom(e.Value, domain, gate), Deleted: e.Deleted})
		})
	}
	// Members on other nodes get what is stored, whose URLs they can reach; those on this node get sockets.
	near := hop.FilesOf(ctx) != nil
	send := func(e Event[*registryapi.NetworkServiceEndpoint]) error {
		if near {
			var known bool
			if e.Value, known = s.registry.local(e.Value); !known && !e.Deleted {
				return nil
			}
		}
		if !endpointMatches(q.GetNetworkServiceEndpoint(), e.Value) {
			return nil
		}
		if !e.Deleted {
			s.registry.sockets.send(ctx, e.Value.Url)
		}
		return stream.Send(&registryapi.NetworkServiceEndpointResponse{NetworkServiceEndpoint: e.Value, Deleted: e.Deleted})
	}
	if q.GetWatch() {
		return s.registry.store.WatchEndpoints(ctx, begun(stream), send)
	}
	list, err := s.registry.store.Endpoints(ctx)
	if err != nil {
		return err
	}
	for _, v := range list {
		if err := send(Event[*registryapi.NetworkServiceEndpoint]{Value: v}); err != nil {
			return err
		}
	}
	return nil
}

// begun tells the client that its watch has begun, where no entry has told it yet: who keeps a copy can now ask for a list and
// be sure to miss nothing.
func begun(stream grpc.ServerStream) func() error {
	return func() error {
		_ = stream.SendHeader(nil) // fails when an entry has been sent, and with it the header
		return nil
	}
}
