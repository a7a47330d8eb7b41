package registry

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// peerTime bounds a call of another registry: its own caller has more time, and goes on without it where that is possible.
const peerTime = 5 * time.Second

// Peer is another registry that we call: the next hop of registrations.
type Peer struct {
	// Target is its gRPC target.
	Target string
	// Options are those of identity.Source.DialOptions.
	Options []grpc.DialOption
}

// relay is a registration on its way through us to a Peer: the path it came by, and what the Peer answered. It travels in the
// context of a Store's Put and Delete; a Store that keeps things itself has no use for it.
type relay struct {
	owner   string // who registers; it was let in as the owner of what is there
	path    path   // up to our own segment, which is the last
	ids     []string
	expires *timestamppb.Timestamp
}

type relayKey struct{}

func withRelay(ctx context.Context, r *relay) context.Context {
	return context.WithValue(ctx, relayKey{}, r)
}

// relayOf is the registration that ctx carries; without one it starts with us.
func relayOf(ctx context.Context) *relay {
	if r, ok := ctx.Value(relayKey{}).(*relay); ok {
		return r
	}
	return &relay{}
}

// kind is what services and endpoints differ in towards a Peer.
type kind[T entry] struct {
	registrar func(*grpc.ClientConn) registrar[T]
	find      func(ctx context.Context, conn *grpc.ClientConn, query T, watch bool) (found[T], error)
	// ids are the message's path_ids.
	ids   func(T) []string
	empty func() T
}

type registrar[T entry] interface {
	Register(context.Context, T, ...grpc.CallOption) (T, error)
	Unregister(context.Context, T, ...grpc.CallOption) (*emptypb.Empty, error)
}

// found is a stream of answers. header returns once the Peer has begun to answer.
type found[T entry] struct {
	header func() (metadata.MD, error)
	recv   func() (Event[T], error)
}

var serviceKind = kind[*registryapi.NetworkService]{
	registrar: func(c *grpc.ClientConn) registrar[*registryapi.NetworkService] {
		return registryapi.NewNetworkServiceRegistryClient(c)
	},
	find: func(ctx context.Context, c *grpc.ClientConn, query *registryapi.NetworkService, watch bool) (found[*registryapi.NetworkService], error) {
		stream, err := registryapi.NewNetworkServiceRegistryClient(c).Find(ctx, &registryapi.NetworkServiceQuery{NetworkService: query, Watch: watch})
		if err != nil {
			return found[*registryapi.NetworkService]{}, err
		}
		return found[*registryapi.NetworkService]{header: stream.Header, recv: func() (Event[*registryapi.NetworkService], error) {
			r, err := stream.Recv()
			return Event[*registryapi.NetworkService]{Value: r.GetNetworkService(), Deleted: r.GetDeleted()}, err
		}}, nil
	},
	ids:   func(s *registryapi.NetworkService) []string { return s.PathIds },
	empty: func() *registryapi.NetworkService { return new(registryapi.NetworkService) },
}

var endpointKind = kind[*registryapi.NetworkServiceEndpoint]{
	registrar: func(c *grpc.ClientConn) registrar[*registryapi.NetworkServiceEndpoint] {
		return registryapi.NewNetworkServiceEndpointRegistryClient(c)
	},
	find: func(ctx context.Context, c *grpc.ClientConn, query *registryapi.NetworkServiceEndpoint, watch bool) (found[*registryapi.NetworkServiceEndpoint], error) {
		stream, err := registryapi.NewNetworkServiceEndpointRegistryClient(c).Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: query, Watch: watch})
		if err != nil {
			return found[*registryapi.NetworkServiceEndpoint]{}, err
		}
		return found[*registryapi.NetworkServiceEndpoint]{header: stream.Header, recv: func() (Event[*registryapi.NetworkServiceEndpoint], error) {
			r, err := stream.Recv()
			return Event[*registryapi.NetworkServiceEndpoint]{Value: r.GetNetworkServiceEndpoint(), Deleted: r.GetDeleted()}, err
		}}, nil
	},
	ids:   func(e *registryapi.NetworkServiceEndpoint) []string { return e.PathIds },
	empty: func() *registryapi.NetworkServiceEndpoint { return new(registryapi.NetworkServiceEndpoint) },
}

// register hands v on to the peer, with a transport connection of its own as all members of the mesh do: tokens are checked
// against the certificate of the connection. The path that comes back goes into r.
func register[T entry](ctx context.Context, p Peer, k kind[T], v T, r *relay) (answer T, err error) {
	err = p.call(ctx, r, func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
		answer, err = k.registrar(conn).Register(ctx, v, opts...)
		return err
	})
	if err != nil {
		return answer, err
	}
	r.ids = k.ids(answer)
	if answer.GetName() != v.GetName() {
		return answer, fault.New(fault.Unavailable, "registry %s answered %q for %q", p.Target, answer.GetName(), v.GetName())
	}
	return answer, nil
}

func unregister[T entry](ctx context.Context, p Peer, k kind[T], v T, r *relay) error {
	return p.call(ctx, r, func(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
		_, err := k.registrar(conn).Unregister(ctx, v, opts...)
		return err
	})
}

// call makes one call with the path in its metadata, and takes the path from the answer's header.
func (p Peer) call(ctx context.Context, r *relay, fn func(context.Context, *grpc.ClientConn, ...grpc.CallOption) error) error {
	conn, err := hop.Dial(p.Target, p.Options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := r.path
	if n := len(sent.PathSegments); n > 0 {
		sent.Index = uint32(n - 1)
	}
	text, err := json.Marshal(sent)
	if err != nil {
		return fault.New(fault.Internal, "path: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	var header metadata.MD
	var server peer.Peer
	if err := fn(metadata.AppendToOutgoingContext(ctx, pathKey, string(text)), conn, grpc.Header(&header), grpc.Peer(&server)); err != nil {
		err = hop.FromStatus(err)
		return fault.New(fault.KindOf(err), "registry %s: %w", p.Target, err)
	}
	answered, err := checkPath(sent, header.Get(pathKey), &server)
	if err != nil {
		return fault.New(fault.KindOf(err), "registry %s: %w", p.Target, err)
	}
	r.path.PathSegments = answered.PathSegments
	return nil
}

// checkPath checks the path in an answer by the rules for clients (§4.3): what is left of our segment as we sent it, tokens
// valid and chained, the next one's signed by the server.
func checkPath(sent path, header []string, server *peer.Peer) (path, error) {
	if len(header) != 1 {
		return path{}, fault.New(fault.Denied, "the answer has %d headers %s; want one", len(header), pathKey)
	}
	answered, err := parsePath(header[0])
	if err != nil {
		return path{}, err
	}
	own := int(sent.Index)
	if answered.Index != sent.Index || len(answered.PathSegments) < own+2 || !slices.Equal(answered.PathSegments[:own], sent.PathSegments[:own]) {
		return path{}, fault.New(fault.Denied, "the answer's path has index %d and %d segments; want index %d, more than %d segments, and those before ours as sent",
			answered.Index, len(answered.PathSegments), own, own+1)
	}
	caller, err := identity.CallerOf(peer.NewContext(context.Background(), server))
	if err != nil {
		return path{}, err
	}
	tokens := answered.tokens()
	if err := identity.CheckValid(tokens, time.Now()); err != nil {
		return path{}, err
	}
	if err := identity.CheckChained(tokens); err != nil {
		return path{}, err
	}
	return answered, identity.CheckSigned(tokens[own+1], caller.Certificate)
}
