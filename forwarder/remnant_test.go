package forwarder_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
)

// named tells whether the namespace has an interface of that name.
func named(t *testing.T, n *lab.Namespace, name string) (found bool) {
	t.Helper()
	if err := n.Do(func() error {
		_, err := net.InterfaceByName(name)
		found = err == nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDeleteInBackground: once a Delete is answered the name of the interface is free, for another vWire and for the same one,
// though VPP still holds what was behind it; and in the end nothing is left.
func TestDeleteInBackground(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("VPP removes a tap at once")
		}
		for _, pool := range []int{0, 4} {
			t.Run(fmt.Sprintf("pool-%d", pool), func(t *testing.T) {
				ctx := within(t, 2*time.Minute)
				d.pool = pool
				kill := d.start(t)
				defer kill()
				a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
				a.ready(t, pool)
				for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
					p, v := a.set(t, "first-"+string(payload), payload)
					p.reaches(ctx, t, families["dual"][1])
					begun := time.Now()
					if err := a.Delete(ctx, v.ID); err != nil {
						t.Fatal(err)
					}
					t.Log(payload, "delete took", time.Since(begun))
					for _, n := range []*lab.Namespace{p.client, p.endpoint} {
						if named(t, n, "nsm-1") {
							t.Error("the interface still has its name")
						}
					}
					release := a.hold(t, p)
					// Another vWire, then the first again, then that one with other settings, each right after the other's Delete.
					renamed := kernelVWire(t, v.ID, p, payload, families["ip4"])
					renamed.Client.Params[mechanisms.ParamName], renamed.Client.MTU, renamed.Endpoint.MTU = "other", 1400, 1400
					other := kernelVWire(t, "other-"+string(payload), p, payload, families["dual"])
					for i, w := range []forwarder.VWire{other, v, v, renamed, v} {
						if err := a.Set(ctx, w); err != nil {
							t.Fatalf("%d, %s: %v", i, w.ID, err)
						}
						p.reaches(ctx, t, w.Endpoint.Addresses)
						a.explain(ctx, t)
						if err := a.Delete(ctx, w.ID); err != nil {
							t.Fatal(err)
						}
					}
					release()
					p.gone(t)
				}
				a.ready(t, pool)
				a.stop()
				d.pool = 0
				last := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
				last.await(t, 0, forwarder.Up)
				last.nothingLeft(ctx, t)
				last.stop()
			})
		}
	})
}

// TestDeathBeforeCleanUp: VPP and the agent end between the answer to a Delete and the removal of what it has left; the next
// agent removes it.
func TestDeathBeforeCleanUp(t *testing.T) {
	d := pocket(t, kernel.Veth, nil)
	kill := d.start(t)
	journal := filepath.Join(t.TempDir(), "journal")
	a := d.agent(t, journal, 0)
	p, v := a.set(t, "mortal", mechanisms.Ethernet)
	if err := a.Delete(within(t, time.Minute), v.ID); err != nil {
		t.Fatal(err)
	}
	kill()
	a.stop()
	d.start(t)
	next := d.agent(t, journal, time.Nanosecond)
	next.await(t, 0, forwarder.Up)
	next.nothingLeft(within(t, time.Minute), t)
	p.gone(t)
}

// TestVPPDiesBeforeCleanUp: what the Delete has left in the kernel goes in the next VPP's lifetime, also before the grace period ends.
func TestVPPDiesBeforeCleanUp(t *testing.T) {
	d := pocket(t, kernel.Veth, nil)
	kill := d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	p, v := a.set(t, "mortal", mechanisms.IP)
	old, err := a.VPP()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(within(t, time.Minute), v.ID); err != nil {
		t.Fatal(err)
	}
	kill()
	d.start(t)
	a.awaitAfter(t, old, 0, forwarder.Up)
	p.gone(t)
	a.nothingLeft(within(t, time.Minute), t)
}
