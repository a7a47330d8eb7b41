package forwarder_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
)

// TestMemifGuard: a memif client that a guard keeps from VPP has its packets through, with either payload and large ones, and again
// after the agent was restarted; nothing is left.
func TestMemifGuard(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("no kernel interfaces here")
		}
		ctx := within(t, 2*time.Minute)
		d.start(t)
		d.memifGuard = filepath.Dir(d.socket)
		journal, pins := filepath.Join(t.TempDir(), "journal"), filepath.Join(t.TempDir(), "netns")
		for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
			start := func() *agent {
				n, err := kernel.NewPinnedNamespaces(pins, "")
				if err != nil {
					t.Fatal(err)
				}
				return d.agentWith(t, journal, 0, n)
			}
			a := start()
			p := newPair(t)
			v := memifVWire(t, "guarded-"+string(payload), p, memifKinds["memif-memif"], payload, families["dual"])
			v.Client.MTU, v.Endpoint.MTU = 9000, 9000
			far, _ := occupy(t, v.Endpoint, p.endpoint)
			near, probe := occupy(t, v.Client, p.client)
			release := a.hold(t, p) // beyond this agent's end, as a process in the namespaces would
			if err := a.Set(ctx, v); err != nil {
				t.Fatal(err)
			}
			awaitLink(t, near, far)
			reachable(ctx, t, probe, families["dual"][1])
			if e, err := near.Ping(ctx, families["dual"][1][0].Addr(), 3, 9000); err != nil || e.Received != 3 {
				t.Errorf("9000 bytes: %s, %v", e, err)
			}
			a.stop()
			if err := near.Await(ctx, false); err != nil {
				t.Error("still connected through a guard that is gone:", err)
			}
			a = start()
			a.await(t, 1, forwarder.Up)
			release()
			awaitLink(t, near, far)
			reachable(ctx, t, probe, families["dual"][1])
			a.explain(ctx, t)
			if err := a.Delete(ctx, v.ID); err != nil {
				t.Error(err)
			}
			a.nothingLeft(ctx, t)
			a.stop()
		}
		files, err := os.ReadDir(d.memifGuard)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name(), ".sock") && len(f.Name()) == len("0123456789abcdef.sock") {
				t.Errorf("left: %s", f.Name())
			}
		}
	})
}
