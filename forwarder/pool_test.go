package forwarder_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"highwire/mechanisms"
	"highwire/vppapi"
)

// ready waits until the pool is full.
func (a *agent) ready(t *testing.T, spares int) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for n := -1; n != spares; {
		if c, err := a.VPP(); err == nil {
			have, err := c.Dump(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n = 0
			for k := range have {
				if k.Kind == vppapi.KindUp && len(k.Name) > 6 && k.Name[:6] == "spare-" {
					n++
				}
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("%d spare devices, want %d", n, spares)
		}
	}
}

// TestPool: Requests get devices that VPP holds already, give them back, and the pool fills up again; VPP and the agent may
// die in between; the end leaves nothing.
func TestPool(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != "veth" {
			t.Skip("taps need no pool: VPP makes one in a millisecond")
		}
		const spares = 4
		d.pool = spares
		ctx := within(t, 2*time.Minute)
		d.start(t)
		journal := filepath.Join(t.TempDir(), "journal")
		a := d.agent(t, journal, 0)
		var took []time.Duration
		for i := range 6 {
			a.ready(t, spares)
			payload := []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}[i%2]
			p := newPair(t)
			v := kernelVWire(t, fmt.Sprintf("pool-%d", i), p, payload, families["dual"])
			release := a.hold(t, p)
			begun := time.Now()
			err := a.Set(ctx, v)
			took = append(took, time.Since(begun))
			release()
			if err != nil {
				t.Fatal(err)
			}
			p.reaches(ctx, t, families["dual"][1])
			if i%3 == 2 {
				a.stop()
				a = d.agentHolding(t, journal, p)
				a.await(t, 1, "up")
				p.reaches(ctx, t, families["dual"][1])
			}
			begun = time.Now()
			if err := a.Delete(ctx, v.ID); err != nil {
				t.Fatal(err)
			}
			t.Log(payload, "set", took[i], "delete", time.Since(begun))
			p.gone(t)
		}
		slices.Sort(took)
		t.Log("set from the pool, median", took[len(took)/2])
		// A taken name is a conflict, with the pool too, and costs at most the devices it got.
		p := newPair(t)
		defer a.hold(t, p)()
		a.ready(t, spares)
		v := kernelVWire(t, "taken", p, mechanisms.Ethernet, families["ip4"])
		v.Client.Params[mechanisms.ParamName] = "lo"
		if err := a.Set(ctx, v); err == nil {
			t.Error("an interface got the name of the loopback")
		}
		a.ready(t, spares)
		// What the pool holds goes with its agent.
		a.stop()
		d.pool = 0
		last := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		last.await(t, 0, "up")
		last.nothingLeft(ctx, t)
	})
}
