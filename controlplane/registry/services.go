package registry

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// services is registry.NetworkServiceRegistry.
type services struct {
	registryapi.UnimplementedNetworkServiceRegistryServer
	registry *Registry
}

// Register stores the service; without a payload it carries IP. What is there already, equal in all but its owner, may be
// registered by anybody and stays the first one's: many endpoints register the service they offer.
func (s *services) Register(ctx context.Context, in *registryapi.NetworkService) (*registryapi.NetworkService, error) {
	if err := checkService(in); err != nil {
		return nil, err
	}
	a, err := s.registry.admit(ctx)
	if err != nil {
		return nil, err
	}
	out := proto.CloneOf(in)
	if out.Payload == "" {
		out.Payload = string(mechanisms.IP)
	}
	out.PathIds = a.ids
	if target, domain := SplitDomain(out.Name); domain != "" {
		out.Name = target
		if out, err = registerAt(ctx, s.registry, &a, serviceKind, out, domain); err != nil {
			return nil, err
		}
		return serviceFrom(out, domain), a.answer(ctx)
	}
	if err := s.put(ctx, &a, out); err != nil {
		return nil, err
	}
	return out, a.answer(ctx)
}

func (s *services) put(ctx context.Context, a *passage, out *registryapi.NetworkService) error {
	defer s.registry.lock(out.Name)()
	on := &relay{owner: a.ids[0], path: a.path}
	err := settled(func() error {
		list, err := s.registry.store.Services(ctx)
		if err != nil {
			return err
		}
		old, ok := byName(list, out.Name)
		switch {
		case !ok && len(list) >= maxEntries:
			return fault.New(fault.Exhausted, "there are %d network services; the limit is %d", len(list), maxEntries)
		case ok && sameService(old, out):
			return nil
		case ok:
			if err := a.owns("network service", out.Name, old.PathIds); err != nil {
				return err
			}
		}
		return s.registry.store.PutService(withRelay(ctx, on), proto.CloneOf(out))
	})
	if err != nil {
		return err
	}
	a.relayed(on)
	out.PathIds = a.ids
	return nil
}

// sameService is equality but for the owner.
func sameService(a, b *registryapi.NetworkService) bool {
	a = proto.CloneOf(a)
	a.PathIds = b.PathIds
	return proto.Equal(a, b)
}

// Unregister removes the service; an unknown one is removed already.
func (s *services) Unregister(ctx context.Context, in *registryapi.NetworkService) (*emptypb.Empty, error) {
	if err := checkName("name of the network service", in.GetName()); err != nil {
		return nil, err
	}
	a, err := s.registry.admit(ctx)
	if err != nil {
		return nil, err
	}
	if target, domain := SplitDomain(in.Name); domain != "" {
		if err := unregisterAt(ctx, s.registry, &a, serviceKind, &registryapi.NetworkService{Name: target}, domain); err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, a.answer(ctx)
	}
	defer s.registry.lock(in.Name)()
	on := &relay{owner: a.ids[0], path: a.path}
	err = settled(func() error {
		old, err := s.registry.FindService(ctx, in.Name)
		switch {
		case fault.Is(err, fault.NotFound):
			return nil
		case err != nil:
			return err
		}
		if err := a.owns("network service", in.Name, old.PathIds); err != nil {
			return err
		}
		return s.registry.store.DeleteService(withRelay(ctx, on), in.Name)
	})
	if err != nil {
		return nil, err
	}
	a.relayed(on)
	return &emptypb.Empty{}, a.answer(ctx)
}

// Find sends the services that match, and with watch the changes too until the client cancels.
func (s *services) Find(q *registryapi.NetworkServiceQuery, stream grpc.ServerStreamingServer[registryapi.NetworkServiceResponse]) error {
	send := func(e Event[*registryapi.NetworkService]) error {
		if !serviceMatches(q.GetNetworkService(), e.Value) {
			return nil
		}
		return stream.Send(&registryapi.NetworkServiceResponse{NetworkService: e.Value, Deleted: e.Deleted})
	}
	if target, domain := SplitDomain(q.GetNetworkService().GetName()); domain != "" {
		p, _, err := s.registry.domains.peer(stream.Context(), domain)
		if err != nil {
			return err
		}
		query := proto.CloneOf(q.NetworkService)
		query.Name = target
		return sendAt(stream.Context(), p, serviceKind, query, q.Watch, begun(stream), func(e Event[*registryapi.NetworkService]) error {
			return stream.Send(&registryapi.NetworkServiceResponse{NetworkService: serviceFrom(e.Value, domain), Deleted: e.Deleted})
		})
	}
	if q.GetWatch() {
		return s.registry.store.WatchServices(stream.Context(), begun(stream), send)
	}
	list, err := s.registry.store.Services(stream.Context())
	if err != nil {
		return err
	}
	for _, v := range list {
		if err := send(Event[*registryapi.NetworkService]{Value: v}); err != nil {
			return err
		}
	}
	return nil
}
