package endpoint

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/vppapi/fault"
)

const (
	// pathKey is the metadata key of a registration's path, in the request and in the answer's header (§3.8). What is in it
	// is the registry's: it is sent back as it came.
	pathKey   = "path"
	emptyPath = `{"Index":0,"PathSegments":null}`
)

// registration keeps an endpoint registered.
type registration struct {
	config Config
	target string
	socket *os.File
	log    *slog.Logger

	path  string // of the endpoint's registration
	entry *registryapi.NetworkServiceEndpoint
	known bool // the registry has us
}

// register keeps the endpoint whose socket is at path registered until ctx ends.
func register(ctx context.Context, config Config, path string) error {
	target, err := hop.Target(config.Target)
	if err != nil {
		return err
	}
	socket, inode, err := hop.OpenFile(path)
	if err != nil {
		return err
	}
	defer socket.Close()
	r := &registration{config: config, target: target, socket: socket, log: slog.With("endpoint", config.Name), path: emptyPath}
	r.entry = &registryapi.NetworkServiceEndpoint{
		Name: config.Name, NetworkServiceNames: config.Services, Url: inode.String(),
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{},
	}
	for _, s := range config.Services {
		r.entry.NetworkServiceLabels[s] = &registryapi.NetworkServiceLabels{Labels: config.Labels}
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		err := r.round(ctx)
		if err == nil {
			wait.Reset()
			continue
		}
		if ctx.Err() != nil {
			break
		}
		r.known = false
		r.log.Warn("not registered", "error", err)
		config.Events(Event{Kind: Unregistered, Err: err})
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
	if r.known && !config.KeepRegistered {
		return r.unregister(context.WithoutCancel(ctx))
	}
	return nil
}

// round registers anew on a connection of its own, as the registry's rules want tokens fresh, and returns when the
// registration is to be renewed; an error means that it failed or was lost.
func (r *registration) round(ctx context.Context) error {
	conn, err := hop.Dial(r.target, r.config.Source.DialOptions()...)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !r.known && r.config.Payload != "" {
		for _, s := range r.config.Services {
			if err := r.registerService(ctx, conn, s); err != nil {
				return err
			}
		}
	}
	// The watch begins before the registration and on the same connection: a registry that restarts in between, and has lost
	// our socket with its connections, ends it.
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Find(watching, &registryapi.NetworkServiceEndpointQuery{
		NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{Name: r.config.Name}, Watch: true,
	})
	if err != nil {
		return hop.FromStatus(err)
	}
	expires, err := r.registerEndpoint(ctx, conn)
	if err != nil {
		return err
	}
	if !r.known {
		r.known = true
		r.log.Info("registered", "services", r.config.Services)
		r.config.Events(Event{Kind: Registered})
	}
	// A registry whose registrations end at once must not make us register without pause.
	renew := max(time.Until(expires)*2/3, 100*time.Millisecond)
	defer time.AfterFunc(renew, cancel).Stop()
	err = r.watch(stream)
	if watching.Err() != nil {
		return nil
	}
	return err
}

func (r *registration) registerService(ctx context.Context, conn *grpc.ClientConn, name string) error {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pathKey, emptyPath), r.config.RequestTimeout)
	defer cancel()
	_, err := registryapi.NewNetworkServiceRegistryClient(conn).Register(ctx,
		&registryapi.NetworkService{Name: name, Payload: string(r.config.Payload)}, grpc.WaitForReady(true))
	err = hop.FromStatus(err)
	if kind := fault.KindOf(err); err != nil && (kind == fault.Denied || kind == fault.Conflict) {
		// Somebody else registered the service and decides about it; we only offer it.
		r.log.Info("the network service is registered by somebody else", "service", name, "error", err)
		return nil
	}
	return err
}

func (r *registration) registerEndpoint(ctx context.Context, conn *grpc.ClientConn) (expires time.Time, err error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pathKey, r.path), r.config.RequestTimeout)
	defer cancel()
	var header metadata.MD
	answer, err := registryapi.NewNetworkServiceEndpointRegistryClient(conn).Register(ctx, r.entry,
		grpc.Header(&header), hop.WithFile(r.socket), grpc.WaitForReady(true))
	if err != nil {
		return time.Time{}, hop.FromStatus(err)
	}
	switch {
	case answer.Name != r.entry.Name || answer.Url != r.entry.Url:
		return time.Time{}, fault.New(fault.Unavailable, "the registry answered endpoint %q at %s, we are %q at %s", answer.Name, answer.Url, r.entry.Name, r.entry.Url)
	case !answer.ExpirationTime.IsValid():
		return time.Time{}, fault.New(fault.Unavailable, "the registry answered no expiration time")
	}
	if p := header.Get(pathKey); len(p) == 1 {
		r.path = p[0]
	}
	expires = answer.ExpirationTime.AsTime()
	r.entry = proto.CloneOf(answer)
	r.entry.ExpirationTime = nil
	return expires, nil
}

// watch returns when the registry no longer has us, or the stream's context ends.
func (r *registration) watch(stream grpc.ServerStreamingClient[registryapi.NetworkServiceEndpointResponse]) error {
	for {
		answer, err := stream.Recv()
		switch {
		case err != nil:
			return errors.Join(fault.New(fault.Unavailable, "the registry ended the watch"), hop.FromStatus(err))
		case answer.NetworkServiceEndpoint.GetName() != r.config.Name:
			// Queries match by parts of names in some registries.
		case answer.Deleted:
			return fault.New(fault.Unavailable, "the registration was removed")
		}
	}
}

func (r *registration) unregister(ctx context.Context) error {
	conn, err := hop.Dial(r.target, r.config.Source.DialOptions()...)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, pathKey, r.path), min(r.config.RequestTimeout, 5*time.Second))
	defer cancel()
	_, err = registryapi.NewNetworkServiceEndpointRegistryClient(conn).Unregister(ctx, r.entry, hop.WithFile(r.socket))
	if err != nil {
		r.log.Warn("not unregistered; the registration will expire", "error", hop.FromStatus(err))
	}
	return nil
}
