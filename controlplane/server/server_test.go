package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory has a short name: socket paths are limited to 108 bytes.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := map[codes.Code]error{
		codes.Internal:          errors.New("x"),
		codes.InvalidArgument:   fault.New(fault.Invalid, "x"),
		codes.NotFound:          fault.New(fault.NotFound, "x"),
		codes.AlreadyExists:     fault.New(fault.Conflict, "x"),
		codes.PermissionDenied:  fault.New(fault.Denied, "x"),
		codes.ResourceExhausted: fault.New(fault.Exhausted, "x"),
		codes.Unavailable:       fault.New(fault.Unavailable, "x"),
		codes.DeadlineExceeded:  context.DeadlineExceeded,
		codes.Canceled:          context.Canceled,
		codes.DataLoss:          status.Error(codes.DataLoss, "x"),
		codes.OK:                nil,
	}
	for code, err := range tests {
		got := statusOf("test", err)
		if status.Code(got) != code || err != nil && status.Convert(got).Message() != status.Convert(err).Message() {
			t.Errorf("%v became %v, want %s", err, got, code)
		}
		if back := hop.FromStatus(got); code != codes.DataLoss && err != nil && fault.KindOf(back) != fault.KindOf(err) {
			t.Errorf("%v came back as %s", err, fault.KindOf(back))
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	path := filepath.Join(dir, "new", "nsm.sock")
	l, err := listen("unix://"+path, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("socket is %v, %v", info, err)
	}
	if _, err := listen("unix://"+path, 0o777); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}

	// What a dead process left behind is replaced; what is no socket is not.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	l, err = listen("unix://"+path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen("unix://"+file, 0o777); !fault.Is(err, fault.Conflict) {
		t.Errorf("a file in the way: %v", err)
	}

	tcp, err := listen("tcp://127.0.0.1:0", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, err := listen("tcp://"+tcp.Addr().String(), 0); !fault.Is(err, fault.Conflict) {
		t.Errorf("a port in use: %v", err)
	}
	for _, bad := range []string{"", "nsm.sock", "unix:nsm.sock", "unix://host/path", "tcp://", "tcp://127.0.0.1:1/x", "http://127.0.0.1:1", "tcp://%zz"} {
		if _, err := listen(bad, 0); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

type lists struct{}

func (lists) Services(context.Context) ([]*registryapi.NetworkService, error) {
	return []*registryapi.NetworkService{{Name: "web"}}, nil
}

func (lists) Endpoints(context.Context) ([]*registryapi.NetworkServiceEndpoint, error) {
	return nil, fault.New(fault.Unavailable, "the store is away")
}

func TestDatapath(t *testing.T) {
	t.Parallel()
	for want, keys := range map[string][]vppapi.Key{
		"":       nil,
		"vpp":    {{Kind: vppapi.KindSocket, Name: "2147483649"}, {Kind: vppapi.KindInterface, Name: "w:direct"}},
		"direct": {{Kind: vppapi.KindSocket, Name: "w:direct"}},
	} {
		var objects []forwarder.ObjectStatus
		for _, k := range keys {
			objects = append(objects, forwarder.ObjectStatus{Key: k})
		}
		if got := datapath(forwarder.Status{Objects: objects}); got != want {
			t.Errorf("%v: %q, want %q", keys, got, want)
		}
	}
	if got := datapath(forwarder.Status{Objects: []forwarder.ObjectStatus{{Key: vppapi.Key{Kind: vppapi.KindLink, Name: "w:direct"}}}}); got != "direct" {
		t.Errorf("a direct veth: %q", got)
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	path := filepath.Join(directory(t), "admin.sock")
	wire := forwarder.VWire{ID: "w-1", Client: mechanisms.End{Type: "KERNEL", Payload: "IP", Params: map[string]string{"name": "nsm-1", "inodeURL": "inode://4/5"}}}
	s, err := NewAdmin(path, &Inspect{
		Name: "agent", AgentVersion: "v1", DataplaneVersion: func() string { return "test" }, SPIFFEID: func() string { return "spiffe://t/a" },
		Connections: func() []manager.Connection {
			return []manager.Connection{{
				Connection: &connection.Connection{Id: "w-1", NetworkService: "web", NetworkServiceEndpointName: "nse", Path: &connection.Path{PathSegments: []*connection.PathSegment{{Name: "nsc", Token: "secret"}}}},
				Owner:      hop.Caller{Name: "nsc"}, Endpoint: &connection.Mechanism{}, Down: true,
			}}
		},
		VWires: func() []forwarder.Status {
			return []forwarder.Status{
				{VWire: wire, State: forwarder.Up, Objects: []forwarder.ObjectStatus{{Key: vppapi.Key{Kind: vppapi.KindInterface, Name: "w-1:client"}, HasIndex: true, Realized: true}}},
				{VWire: forwarder.VWire{ID: "w-2"}, State: forwarder.Failed, Err: errors.New("no memory")},
			}
		},
		Registry: lists{},
		CLI:      func(_ context.Context, line string) (string, error) { return "ran " + line, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v, %v", info, err)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := highwirev1.NewInspectClient(conn)
	v, err := api.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: "w-1"})
	if err != nil {
		t.Fatal(err)
	}
	if v.State != "degraded" || v.Client.Name != "nsc" || v.Client.Interface != "nsm-1" || v.Endpoint.Name != "nse" || v.Datapath != "vpp" || len(v.Objects) != 1 || v.Objects[0].SwIfIndex == nil {
		t.Errorf("vWire %v", v)
	}
	if strings.Contains(v.String(), "secret") {
		t.Errorf("a token is shown: %v", v)
	}
	if v, err := api.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: "w-2"}); err != nil || v.Error != "no memory" || v.State != "failed" || v.Datapath != "" {
		t.Errorf("failed vWire %v, %v", v, err)
	}
	for id, code := range map[string]codes.Code{"w": codes.InvalidArgument, "x": codes.NotFound} {
		if _, err := api.GetVWire(ctx, &highwirev1.GetVWireRequest{Id: id}); status.Code(err) != code {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := api.ListEndpoints(ctx, &highwirev1.ListEndpointsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("endpoints: %v", err)
	}
	if answer, err := api.RunCLI(ctx, &highwirev1.RunCLIRequest{Line: "show version"}); err != nil || answer.Text != "ran show version" {
		t.Errorf("CLI: %v, %v", answer, err)
	}
	for _, service := range []string{"", "highwire.v1.Inspect"} {
		if answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}); err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, answer, err)
		}
	}
	// A watch does not hold up the end.
	watch, err := healthpb.NewHealthClient(conn).Watch(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cancel()
	for {
		if _, err := watch.Recv(); err != nil {
			break
		}
	}
	if took := time.Since(began); took > stopTime/2 {
		t.Errorf("a watch held up the end for %s", took)
	}
}
