package registry

import (
	"fmt"
	"testing"
	"time"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// One identity registers so many endpoints and services and no more; refreshes are none, what is unregistered makes room, and
// others are not concerned.
func TestPerIdentity(t *testing.T) {
	m := newMesh(t)
	nse, other := m.source("/nse"), m.source("/other")
	_, target := m.serve("tcp", WithPerIdentity(2))
	ctx := m.timeout(20 * time.Second)
	one, two := m.endpoints(target, nse), m.endpoints(target, other)
	endpoint := func(n int) *registryapi.NetworkServiceEndpoint {
		return &registryapi.NetworkServiceEndpoint{Name: fmt.Sprintf("e-%d", n), NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}
	}
	for n := range 2 {
		if _, err := one.Register(ctx, endpoint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := one.Register(ctx, endpoint(2)); !isKind(err, fault.Exhausted) {
		t.Errorf("a third endpoint: %v", err)
	}
	if _, err := one.Register(ctx, endpoint(0)); err != nil {
		t.Errorf("a refresh: %v", err)
	}
	if _, err := two.Register(ctx, endpoint(3)); err != nil {
		t.Errorf("another identity's: %v", err)
	}
	if _, err := one.Unregister(ctx, endpoint(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Register(ctx, endpoint(2)); err != nil {
		t.Errorf("one has gone: %v", err)
	}
	services := registryapi.NewNetworkServiceRegistryClient(m.dial(target, nse.DialOptions()...))
	for n := range 3 {
		_, err := services.Register(ctx, &registryapi.NetworkService{Name: fmt.Sprintf("s-%d", n)})
		if n < 2 && err != nil || n == 2 && !isKind(err, fault.Exhausted) {
			t.Errorf("service %d: %v", n, err)
		}
	}
}
