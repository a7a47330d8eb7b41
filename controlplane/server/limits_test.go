package server

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
)

const patience = 30 * time.Second

// handler answers Requests with what it was sent, and watches with events of some size until that fails.
type handler struct {
	size    int
	watched chan error // how each Watch ended
}

func (handler) Request(_ context.Context, _ identity.Caller, _ hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	return r.Connection, nil
}

func (handler) Close(context.Context, identity.Caller, *connection.Connection) error { return nil }

func (h handler) Watch(ctx context.Context, _ *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) (err error) {
	defer func() { h.watched <- err }()
	event := &connection.ConnectionEvent{Connections: map[string]*connection.Connection{"x": {Id: strings.Repeat("x", h.size)}}}
	for {
		if err := send(event); err != nil {
			return err
		}
		if h.size == 0 {
			<-ctx.Done()
			return ctx.Err()
		}
	}
}

// serve runs a mesh server and returns a connection to it.
func serve(t *testing.T, h handler, limits Limits) *grpc.ClientConn {
	t.Helper()
	dir := directory(t)
	ca, err := identity.NewCA("test.highwire", filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(fn func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- fn(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	workload := filepath.Join(dir, "wl.sock")
	run(func(ctx context.Context) error { return ca.Serve(ctx, workload) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	source, err := identity.NewSource(ctx, "unix://"+workload)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	target := "unix://" + filepath.Join(dir, "s.sock")
	s, err := New(Config{Source: source, Listen: []string{target}, Handler: h, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	run(s.Run)
	conn, err := hop.Dial(target, source.DialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestMessageLimit(t *testing.T) {
	t.Parallel()
	conn := serve(t, handler{}, Limits{MessageBytes: 4096})
	api := networkservice.NewNetworkServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for size, want := range map[int]codes.Code{1000: codes.OK, 5000: codes.ResourceExhausted} {
		r := &networkservice.NetworkServiceRequest{Connection: &connection.Connection{Id: strings.Repeat("x", size)}}
		if _, err := api.Request(ctx, r); status.Code(err) != want {
			t.Errorf("%d bytes: %v, want %s", size, err, want)
		}
	}
}

// One identity has so many streams and no more; one that ends makes room.
func TestCallsPerIdentity(t *testing.T) {
	t.Parallel()
	watched := make(chan error, 10)
	conn := serve(t, handler{watched: watched}, Limits{CallsPerIdentity: 2})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch := func() (stop func(), err error) {
		ctx, stop := context.WithCancel(ctx)
		stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, &connection.MonitorScopeSelector{})
		if err == nil {
			_, err = stream.Recv()
		}
		return stop, err
	}
	var stops []func()
	for range 2 {
		stop, err := watch()
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	defer stops[1]()
	stop, err := watch()
	stop()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "2 calls and streams") {
		t.Errorf("a third stream: %v", err)
	}
	if _, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, &networkservice.NetworkServiceRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a call beside: %v", err)
	}
	stops[0]()
	<-watched
	// The handler has ended; the interceptor around it is about to.
	for {
		_, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, &networkservice.NetworkServiceRequest{Connection: &connection.Connection{Id: "x"}})
		if err == nil {
			break
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
}

// A stream that nobody reads ends with a status, and the server keeps nothing for it.
func TestSlowReceiver(t *testing.T) {
	t.Parallel()
	watched := make(chan error, 1)
	conn := serve(t, handler{size: 10_000, watched: watched}, Limits{SendTime: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, &connection.MonitorScopeSelector{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-watched:
		if err == nil || !strings.Contains(err.Error(), "nothing of the stream was taken") {
			t.Errorf("the watch ended with %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the server still waits for a receiver that takes nothing")
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the receiver is told %v", err)
	}
}
