package forwarder_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi/fault"
)

// TestGiveUp: who does not want to wait for a VPP any longer is told so, and what he wanted is not done later.
func TestGiveUp(t *testing.T) {
	d := pocket(t, kernel.Veth, nil)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	p := newPair(t)
	v := kernelVWire(t, "impatient", p, mechanisms.Ethernet, families["ip4"])
	defer a.hold(t, p)()

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Set(short, v); !fault.Is(err, fault.Timeout) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Set(canceled, v); !fault.Is(err, fault.Canceled) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	d.start(t)
	ctx := within(t, 20*time.Second)
	// Answered only after all that came before it.
	if err := a.Record(ctx, v.ID, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	if list := a.List(); len(list) > 0 {
		t.Errorf("done all the same: %v", list)
	}
	if err := a.Set(ctx, v); err != nil {
		t.Error(err)
	}
	if err := a.Delete(ctx, v.ID); err != nil {
		t.Error(err)
	}
}

// TestGiveUpOnHang: VPP stops answering in the midst of a vWire. Its caller hears of it once that VPP is given up, though
// no other comes, and nothing of the vWire is left.
func TestGiveUpOnHang(t *testing.T) {
	var hung atomic.Bool
	d := pocket(t, kernel.Veth, func(name string) (int32, bool) {
		if name == "sw_interface_set_flags" && hung.CompareAndSwap(false, true) {
			return 0, true
		}
		return 0, hung.Load()
	})
	d.start(t)
	journal := filepath.Join(t.TempDir(), "journal")
	a := d.agent(t, journal, time.Nanosecond)
	p := newPair(t)
	v := kernelVWire(t, "hanging", p, mechanisms.Ethernet, families["ip4"])
	release := a.hold(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	if err := a.Set(ctx, v); !fault.Is(err, fault.Timeout) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("told after %v", took)
	}
	release()
	hung.Store(false)
	if err := a.Record(within(t, 30*time.Second), v.ID, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	a.nothingLeft(within(t, 20*time.Second), t)
}

// TestFormerStands: a change that fails half-way leaves the vWire as it was before, in the namespace too.
func TestFormerStands(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		d.start(t)
		ctx, a := within(t, time.Minute), d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		p, v := a.set(t, "former", mechanisms.IP)
		p.reaches(ctx, t, families["dual"][1])
		defer a.hold(t, p)()
		worse := v
		worse.Client.Routes = []mechanisms.Route{{Prefix: prefixes("10.0.0.0/8")[0], Via: prefixes("192.0.2.1/32")[0].Addr()}}
		if err := a.Set(ctx, worse); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", fault.KindOf(err), err)
		}
		if list := a.List(); len(list) != 1 || list[0].State != forwarder.Up || !list[0].VWire.Equal(v) {
			t.Errorf("%+v", list)
		}
		p.reaches(ctx, t, families["dual"][1])
		if err := a.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
	})
}
