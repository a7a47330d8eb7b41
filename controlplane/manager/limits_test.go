package manager_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"highwire/controlplane/manager"
)

// One client has so many connections and no more, also after a restart; what is closed or failed makes room, and others are
// not concerned.
func TestConnectionsPerIdentity(t *testing.T) {
	m := newMesh(t)
	few := func(c *manager.Config) { c.MaxPerIdentity = 2 }
	plane, source := newPlane(), m.source("agent")
	a := m.agent(source, plane, few)
	nse := m.source("nse")
	_, stop := m.endpoint(a, nse, offer("nse-a"))
	c, other := m.caller(a, m.source("nsc")), m.caller(a, m.source("other"))
	ask := func(n int) error {
		id := fmt.Sprintf("nsc-%d", n)
		_, err := c.do(c.request(id, "web", id))
		return err
	}
	refused := func(err error) {
		t.Helper()
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "limit of one identity") {
			t.Errorf("%v; want the limit of one identity", err)
		}
	}
	if _, err := c.do(c.request("nsc-9", "nowhere", "nsm-9")); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	first := c.must(c.request("nsc-0", "web", "nsm-0"))
	if err := ask(1); err != nil {
		t.Fatal(err)
	}
	refused(ask(2))
	first = c.must(c.again(first))
	other.must(other.request("other-0", "web", "nsm-0"))
	if err := c.close(first); err != nil {
		t.Fatal(err)
	}
	if err := ask(3); err != nil {
		t.Errorf("one was closed: %v", err)
	}
	refused(ask(4))

	stop()
	a.stop()
	a = m.agent(source, plane, few)
	m.endpoint(a, nse, offer("nse-a"))
	refused(ask(5))
}
