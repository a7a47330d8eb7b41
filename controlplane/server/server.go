package server

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"highwire/controlplane/api/connection"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/identity"
)

// stopTime is how long calls under way may take to finish when the server stops.
const stopTime = 3 * time.Second

// Config is what a mesh server serves.
type Config struct {
	Source *identity.Source
	// Listen are addresses: unix:///path (mode 0777: mutual TLS decides who is who) or tcp://host:port.
	Listen []string
	// Handler answers NetworkService and MonitorConnection.
	Handler Handler
	// Register adds further services, such as the registries; nil adds none.
	Register func(grpc.ServiceRegistrar)
	Limits   Limits
}

// Server is a gRPC server with its sockets open.
type Server struct {
	grpc      *grpc.Server
	health    *health.Server
	listeners []net.Listener
	ctx       context.Context // ends when the server stops; streams end with it
	stop      context.CancelFunc
}

// New opens the sockets of a mesh server. Once it returns, clients can connect; they are answered by Run.
func New(c Config) (*Server, error) {
	limits := c.Limits.withDefaults()
	under := &calls{most: limits.CallsPerIdentity, of: map[string]int{}}
	s := newServer(grpc.Creds(c.Source.ServerCredentials()), grpc.MaxRecvMsgSize(limits.MessageBytes), grpc.MaxHeaderListSize(maxHeaders),
		grpc.ChainUnaryInterceptor(under.unary), grpc.ChainStreamInterceptor(under.stream, limits.impatient))
	networkservice.RegisterNetworkServiceServer(s.grpc, networkServices{handler: c.Handler})
	connection.RegisterMonitorConnectionServer(s.grpc, monitors{handler: c.Handler})
	if c.Register != nil {
		c.Register(s.grpc)
	}
	return s, s.open(c.Listen, 0o777)
}

// NewAdmin opens the unix socket at path for inspection, for the own user only. Further services of the socket are added
// by more.
func NewAdmin(path string, inspect *Inspect, more ...func(grpc.ServiceRegistrar)) (*Server, error) {
	s := newServer()
	highwirev1.RegisterInspectServer(s.grpc, inspect)
	for _, register := range more {
		register(s.grpc)
	}
	return s, s.open([]string{"unix://" + path}, 0o600)
}

func newServer(options ...grpc.ServerOption) *Server {
	s := &Server{health: health.NewServer()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(UnaryErrors),
		grpc.ChainStreamInterceptor(s.untilStop, StreamErrors),
		grpc.ConnectionTimeout(10 * time.Second),
		// A thousand clients keep a connection each, mostly silent, and TLS buffers what is read.
		grpc.ReadBufferSize(0),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}, options...)...)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	return s
}

func (s *Server) open(addresses []string, mode os.FileMode) error {
	for _, a := range addresses {
		l, err := listen(a, mode)
		if err != nil {
			s.close()
			return err
		}
		s.listeners = append(s.listeners, l)
	}
	for service := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
	return nil
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// Addrs are the addresses that the server listens on, in the order of Config.Listen.
func (s *Server) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, l := range s.listeners {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

// Run serves until ctx ends or a socket fails. It ends streams at once and gives other calls three seconds; then sockets are
// closed and removed.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving sync.WaitGroup
	errs := make([]error, len(s.listeners))
	for i, l := range s.listeners {
		serving.Go(func() {
			defer cancel()
			// Stopped before it began, it was only asked to stop early.
			if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
				errs[i] = err
			}
		})
	}
	<-ctx.Done()
	s.health.Shutdown()
	s.stop()
	hard := time.AfterFunc(stopTime, s.grpc.Stop)
	s.grpc.GracefulStop()
	hard.Stop()
	serving.Wait()
	return errors.Join(errs...)
}

// untilStop ends the context of streams when the server stops: watches would go on for ever.
func (s *Server) untilStop(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return handle(srv, stoppable{stream, ctx})
}

type stoppable struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stoppable) Context() context.Context { return s.ctx }
