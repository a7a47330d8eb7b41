package forwarder_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
)

// What somebody else changed in VPP is found and planned for, and left as it is until a resync.
func TestPreview(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		d.start(t)
		a := d.agent(t, t.TempDir()+"/journal", time.Hour)
		id := strings.ReplaceAll(t.Name(), "/", "-") // names of kernel interfaces come from it, and the one before may go a little later
		p, v := a.set(t, id, mechanisms.Ethernet)
		ctx := within(t, time.Minute)
		p.reaches(ctx, t, v.Endpoint.Addresses)

		// A machine may have leftovers of other agents.
		mine := func(list []forwarder.Difference) []forwarder.Difference {
			return slices.DeleteFunc(list, func(d forwarder.Difference) bool { return d.VWire != id })
		}
		list, compared, err := a.Compare(ctx)
		if err != nil || len(mine(list)) != 0 || compared < 6 {
			t.Fatalf("at first: %v of %d, %v", list, compared, err)
		}
		if plan, err := a.PlanSet(ctx, v, false); err != nil || len(plan.Steps) != 0 {
			t.Errorf("asked again: %+v, %v", plan, err)
		}
		anew, err := a.PlanSet(ctx, v, true)
		if err != nil || len(anew.Steps) < 6 {
			t.Fatalf("anew: %+v, %v", anew, err)
		}
		for _, s := range anew.Steps {
			if _, kernel := s.Object.(vppapi.Local); s.Action != forwarder.Create || kernel == (len(s.Messages) > 0) {
				t.Errorf("step %s %s with %q", s.Action, s.Object.Key(), s.Messages)
			}
		}
		other := v
		other.Client.Payload, other.Endpoint.Payload = "SMOKE", "SMOKE"
		if _, err := a.PlanSet(ctx, other, false); err == nil {
			t.Error("a plan for what cannot be built")
		}

		vpp, err := vppapi.Dial(ctx, d.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer vpp.Close()
		have, err := vpp.Dump(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var crossed vppapi.Plan
		for k, e := range have {
			if k.Kind == vppapi.KindXConnect {
				crossed.Remove = append(crossed.Remove, e.Object)
			}
		}
		if errs := vpp.Apply(ctx, crossed, have); len(errs) > 0 || len(crossed.Remove) != 2 {
			t.Fatal(errs, crossed)
		}
		for range 2 { // looking changes nothing
			if list, _, err = a.Compare(ctx); err != nil {
				t.Fatal(err)
			}
			list = mine(list)
			if len(list) != 2 || list[0].Key.Kind != vppapi.KindXConnect || list[0].Have != nil || list[0].Want == nil {
				t.Errorf("differences: %+v", list)
			}
			plan, err := a.PlanResync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			made := 0
			for _, s := range plan.Steps {
				if s.Action == forwarder.Create && strings.HasPrefix(s.Object.Key().Name, id+":") {
					made++
					if s.Object.Key().Kind != vppapi.KindXConnect || !strings.HasPrefix(s.Messages[0], "sw_interface_set_l2_xconnect ") {
						t.Errorf("a resync would make %s by %q", s.Object.Key(), s.Messages)
					}
				}
			}
			if made != 2 {
				t.Errorf("a resync would make %d objects: %+v", made, plan.Steps)
			}
		}
	})
}

// Each end has the counters of its own interface.
func TestCounters(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		for _, direct := range []bool{false, true} {
			d.direct = direct
			stop := d.start(t)
			a := d.agent(t, t.TempDir()+"/journal", time.Hour)
			id := strings.ReplaceAll(t.Name(), "/", "-") + fmt.Sprint("-", direct)
			p, v := a.set(t, id, mechanisms.Ethernet)
			ctx := within(t, time.Minute)
			by := forwarder.ByVPP
			if direct {
				by = forwarder.ByKernel
			}
			p.reaches(ctx, t, v.Endpoint.Addresses)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				all, snapshot, err := a.Counters(ctx)
				if err != nil || snapshot == nil {
					t.Fatal(err)
				}
				c := all[id]
				if c.By == by && c.Client.RxPackets > 0 && c.Client.TxBytes > 0 && c.Endpoint.RxBytes > 0 && c.Endpoint.TxPackets > 0 {
					break
				}
				select {
				case <-tick.C: // counters tell of no change
				case <-ctx.Done():
					t.Fatalf("direct %v: %+v", direct, c)
				}
			}
			a.stop()
			stop()
		}
	})
}
