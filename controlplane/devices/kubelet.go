package devices

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// KubeletDir is where the kubelet and its device plugins meet.
const KubeletDir = "/var/lib/kubelet/device-plugins"

// kubeletSocket is the kubelet's own socket in that directory. It makes it anew, and removes everybody else's, at every start.
const kubeletSocket = "kubelet.sock"

// tokenEnv is followed by the token's name; the value is a comma separated list of token ids (wire page §2.2).
const tokenEnv = "NSM_SRIOV_TOKENS_"

// Kubelet offers tokens to the kubelet, one resource for each name "<service domain>/<capability>".
type Kubelet struct {
	// Dir is KubeletDir but in tests.
	Dir string
	// Tokens are the ids by name.
	Tokens func() map[string][]string
	Log    *slog.Logger

	mu      sync.Mutex
	plugins map[string]*plugin // by name
	changed chan struct{}      // closed and made anew with every change
}

// NewKubelet makes a Kubelet; Run starts it.
func NewKubelet(dir string, tokens func() map[string][]string, log *slog.Logger) *Kubelet {
	return &Kubelet{Dir: dir, Tokens: tokens, Log: log, plugins: map[string]*plugin{}, changed: make(chan struct{})}
}

// Changed tells the kubelet of new or lost tokens.
func (k *Kubelet) Changed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *Kubelet) change() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Run registers with the kubelet, and again whenever that was restarted, until ctx ends.
func (k *Kubelet) Run(ctx context.Context) error {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the kubelet: %w", err)
	}
	defer watch.Close()
	if err := watch.Add(k.Dir); err != nil {
		return fmt.Errorf("the kubelet's directory %s: %w; is it mounted into the agent's container?", k.Dir, err)
	}
	defer k.stopAll()
	for {
		next := k.change()
		var again <-chan time.Time
		if !k.serve(ctx) {
			again = time.After(registerAgain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		case <-again:
		case e, ok := <-watch.Events:
			if !ok {
				return errors.New("the watch of the kubelet's directory ended")
			}
			if filepath.Base(e.Name) == kubeletSocket && e.Has(fsnotify.Create) {
				k.Log.Info("the kubelet has started, registering with it")
				k.stopAll()
			}
		case err := <-watch.Errors:
			k.Log.Warn("watching the kubelet's directory", "reason", err)
		}
	}
}

// registerAgain is when a registration that failed is tried again.
const registerAgain = 5 * time.Second

// serve makes a plugin for each name that has none and registers it. Without a kubelet there is nothing to do until one
// appears. It tells whether all went well.
func (k *Kubelet) serve(ctx context.Context) bool {
	if _, err := os.Stat(filepath.Join(k.Dir, kubeletSocket)); err != nil {
		return true
	}
	well := true
	for _, name := range slices.Sorted(maps.Keys(k.Tokens())) {
		if k.plugins[name] != nil {
			continue
		}
		p, err := k.start(name)
		if err == nil {
			if err = k.register(ctx, p); err != nil {
				p.stop()
			}
		}
		if err != nil {
			k.Log.Warn("a resource could not be offered to the kubelet, trying again", "resource", name, "reason", err)
			well = false
			continue
		}
		k.plugins[name] = p
	}
	return well
}

func (k *Kubelet) stopAll() {
	for name, p := range k.plugins {
		p.stop()
		delete(k.plugins, name)
	}
}

// plugin serves one resource on a socket of its own.
type plugin struct {
	v1beta1.UnimplementedDevicePluginServer
	kubelet *Kubelet
	name    string
	socket  string
	server  *grpc.Server
	done    chan struct{}
}

func (k *Kubelet) start(name string) (*plugin, error) {
	sum := sha256.Sum256([]byte(name))
	p := &plugin{kubelet: k, name: name, socket: "highwire-" + hex.EncodeToString(sum[:6]) + ".sock", server: grpc.NewServer(), done: make(chan struct{})}
	path := filepath.Join(k.Dir, p.socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	v1beta1.RegisterDevicePluginServer(p.server, p)
	go func() {
		defer close(p.done)
		if err := p.server.Serve(l); err != nil {
			k.Log.Warn("the device plugin ended", "resource", name, "reason", err)
		}
	}()
	return p, nil
}

func (p *plugin) stop() {
	p.server.Stop()
	<-p.done
}

// registerWithin bounds the kubelet's answer.
const registerWithin = 10 * time.Second

func (k *Kubelet) register(ctx context.Context, p *plugin) error {
	ctx, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+filepath.Join(k.Dir, kubeletSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = v1beta1.NewRegistrationClient(conn).Register(ctx, &v1beta1.RegisterRequest{
		Version: v1beta1.Version, Endpoint: p.socket, ResourceName: p.name, Options: &v1beta1.DevicePluginOptions{},
	}, grpc.WaitForReady(true)) // the socket's file is there a moment before it listens
	return err
}

// GetDevicePluginOptions asks for no further calls.
func (p *plugin) GetDevicePluginOptions(context.Context, *v1beta1.Empty) (*v1beta1.DevicePluginOptions, error) {
	return &v1beta1.DevicePluginOptions{}, nil
}

// ListAndWatch sends the token ids, and again after each change, until the kubelet goes.
func (p *plugin) ListAndWatch(_ *v1beta1.Empty, stream v1beta1.DevicePlugin_ListAndWatchServer) error {
	for {
		next := p.kubelet.change()
		list := &v1beta1.ListAndWatchResponse{}
		for _, id := range p.kubelet.Tokens()[p.name] {
			list.Devices = append(list.Devices, &v1beta1.Device{ID: id, Health: v1beta1.Healthy})
		}
		if err := stream.Send(list); err != nil {
			return err
		}
		select {
		case <-next:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Allocate hands the tokens to a container by its environment; which VF they mean is decided when they are used.
func (p *plugin) Allocate(_ context.Context, r *v1beta1.AllocateRequest) (*v1beta1.AllocateResponse, error) {
	known := p.kubelet.Tokens()[p.name]
	answer := &v1beta1.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		for _, id := range c.DevicesIds {
			if !slices.Contains(known, id) {
				return nil, fmt.Errorf("resource %s has no device %q", p.name, id)
			}
		}
		answer.ContainerResponses = append(answer.ContainerResponses, &v1beta1.ContainerAllocateResponse{
			Envs: map[string]string{tokenEnv + p.name: strings.Join(c.DevicesIds, ",")},
		})
	}
	return answer, nil
}
