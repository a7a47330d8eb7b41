package identity

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source starts a Workload API of the CA in dir that names everybody path, and returns a Source of it.
func source(t *testing.T, domain, dir, path string, opts ...CAOption) *Source {
	t.Helper()
	ca, err := NewCA(domain, dir, append(opts, WithIDs(func(Process) string { return path }))...)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "api.sock")
	serve(t, ca, socket)
	return connect(t, socket)
}

// serve runs the CA's Workload API until stop is called or the test ends.
func serve(t *testing.T, ca *CA, socket string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ca.Serve(ctx, socket) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func connect(t *testing.T, socket string) *Source {
	t.Helper()
	s, err := NewSource(timeout(t, 10*time.Second), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// service is a NetworkService whose Request is a function of the test.
type service struct {
	networkservice.UnimplementedNetworkServiceServer
	request func(ctx context.Context, r *networkservice.NetworkServiceRequest) (*connection.Connection, error)
}

func (s service) Request(ctx context.Context, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	return s.request(ctx, r)
}

// listenMTLS serves the function on a unix socket and returns its gRPC target.
func listenMTLS(t *testing.T, creds credentials.TransportCredentials, s service) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	networkservice.RegisterNetworkServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return "unix://" + socket
}

func dial(t *testing.T, target string, opts ...grpc.DialOption) networkservice.NetworkServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return networkservice.NewNetworkServiceClient(conn)
}
