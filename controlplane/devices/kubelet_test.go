package devices

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeKubelet is the kubelet's side of the device plugin API on a real socket.
type fakeKubelet struct {
	v1beta1.UnimplementedRegistrationServer
	server     *grpc.Server
	done       chan struct{}
	registered chan *v1beta1.RegisterRequest
}

func startKubelet(t *testing.T, dir string) *fakeKubelet {
	t.Helper()
	// As the real one does: everything in the directory goes at its start.
	sockets, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
	for _, s := range sockets {
		_ = os.Remove(s)
	}
	l, err := net.Listen("unix", filepath.Join(dir, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeKubelet{server: grpc.NewServer(), done: make(chan struct{}), registered: make(chan *v1beta1.RegisterRequest, 8)}
	v1beta1.RegisterRegistrationServer(f.server, f)
	go func() { defer close(f.done); _ = f.server.Serve(l) }()
	return f
}

func (f *fakeKubelet) stop() { f.server.Stop(); <-f.done }

func (f *fakeKubelet) Register(_ context.Context, r *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
	f.registered <- r
	return &v1beta1.Empty{}, nil
}

// await takes the next of a channel, or gives up after a minute.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("waited in vain for ", what)
		panic("unreachable")
	}
}

func TestKubelet(t *testing.T) {
	dir, err := os.MkdirTemp("", "hw-kubelet") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var mu sync.Mutex
	tokens := map[string][]string{"blue/10G": {"sriov-1", "sriov-2"}}
	k := NewKubelet(dir, func() map[string][]string {
		mu.Lock()
		defer mu.Unlock()
		return map[string][]string{"blue/10G": tokens["blue/10G"]}
	}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	defer func() {
		cancel()
		if err := await(t, "the end", ended); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()

	// The agent is there before the kubelet.
	kubelet := startKubelet(t, dir)
	r := await(t, "a registration", kubelet.registered)
	if r.ResourceName != "blue/10G" || r.Version != "v1beta1" || filepath.Base(r.Endpoint) != r.Endpoint {
		t.Errorf("registered %v", r)
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	plugin := v1beta1.NewDevicePluginClient(conn)
	stream, err := plugin.ListAndWatch(ctx, &v1beta1.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	receive := func() int {
		list, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Devices {
			if d.Health != v1beta1.Healthy {
				t.Errorf("device %v", d)
			}
		}
		return len(list.Devices)
	}
	if n := receive(); n != 2 {
		t.Errorf("%d devices, want 2", n)
	}
	mu.Lock()
	tokens["blue/10G"] = []string{"sriov-1"}
	mu.Unlock()
	k.Changed()
	if n := receive(); n != 1 {
		t.Errorf("%d devices after one went, want 1", n)
	}
	allocate := func(id string) (*v1beta1.AllocateResponse, error) {
		return plugin.Allocate(ctx, &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{{DevicesIds: []string{id}}}})
	}
	answer, err := allocate("sriov-1")
	if err != nil || answer.ContainerResponses[0].Envs["NSM_SRIOV_TOKENS_blue/10G"] != "sriov-1" {
		t.Errorf("allocated %v, %v", answer, err)
	}
	if _, err := allocate("sriov-2"); err == nil {
		t.Error("allocated a device that is gone")
	}

	// The kubelet restarts, and the plugin registers with the new one.
	kubelet.stop()
	kubelet = startKubelet(t, dir)
	defer kubelet.stop()
	if r := await(t, "a registration with the next kubelet", kubelet.registered); r.ResourceName != "blue/10G" {
		t.Errorf("registered %v", r)
	}
}
