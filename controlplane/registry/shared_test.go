package registry

import (
	"fmt"
	"sync"
	"testing"
	"time"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Three agents, one store: an endpoint of each is found from all, belongs to who registered it on all, and goes from all.
func threeAgents(t *testing.T, m *mesh, nodes []*node) {
	t.Helper()
	ctx := m.timeout(2 * time.Minute)
	nse, other := m.source("/nse"), m.source("/other")
	for i, n := range nodes {
		// All register the same service at once.
		if _, err := m.services(n.target, nse).Register(ctx, &registryapi.NetworkService{Name: "s", Payload: "ETHERNET"}); err != nil {
			t.Fatal(err)
		}
		n.register(nse, fmt.Sprintf("e%d", i), "s")
	}
	for i, n := range nodes {
		for j, of := range nodes {
			n.sees(fmt.Sprintf("e%d", j), func(e *registryapi.NetworkServiceEndpoint) bool {
				return (e.Url == of.public) == (i != j) && e.PathIds[0] == nse.ID()
			})
		}
		if s, err := n.reg.FindService(ctx, "s"); err != nil || s.Payload != "ETHERNET" {
			t.Errorf("node %d: service %v, %v", i, s, err)
		}
		if _, err := m.endpoints(n.target, other).Register(ctx, &registryapi.NetworkServiceEndpoint{Name: "e0", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"}); !isKind(err, fault.Denied) {
			t.Errorf("node %d: registered by another: %v", i, err)
		}
	}
	// The owner may unregister it anywhere.
	if _, err := m.endpoints(nodes[2].target, nse).Unregister(ctx, &registryapi.NetworkServiceEndpoint{Name: "e0"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.sees("e0", nil)
	}
}

// Many claim one name on three agents at the same moment; exactly one owner gets it.
func oneOwner(t *testing.T, m *mesh, nodes []*node) {
	t.Helper()
	ctx := m.timeout(2 * time.Minute)
	ids := []*identity.Source{m.source("/one"), m.source("/two"), m.source("/three")}
	for round := range 5 {
		name := fmt.Sprintf("claimed-%d", round)
		errs := make([]error, len(nodes))
		var all sync.WaitGroup
		for i, n := range nodes {
			client := m.endpoints(n.target, ids[i])
			all.Go(func() {
				_, errs[i] = client.Register(ctx, &registryapi.NetworkServiceEndpoint{Name: name, NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1"})
			})
		}
		all.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
			case !isKind(err, fault.Denied):
				t.Errorf("claim %d: %v", i, err)
			}
		}
		if won != 1 {
			t.Errorf("%s has %d owners", name, won)
		}
	}
}
