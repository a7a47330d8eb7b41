package forwarder_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// set makes a vWire between a new pair and checks that it works.
func (a *agent) set(t *testing.T, id string, payload mechanisms.Payload) (*pair, forwarder.VWire) {
	t.Helper()
	p := newPair(t)
	v := kernelVWire(t, id, p, payload, families["dual"])
	release := a.hold(t, p)
	defer release()
	if err := a.Set(within(t, time.Minute), v); err != nil {
		t.Fatal(err)
	}
	return p, v
}

func (a *agent) sent(t *testing.T) uint64 {
	t.Helper()
	c, err := a.VPP()
	if err != nil {
		t.Fatal(err)
	}
	return c.Sent()
}

// TestRefresh: setting again what is set, or only a new record, sends VPP nothing.
func TestRefresh(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, time.Minute)
		d.start(t)
		journal := filepath.Join(t.TempDir(), "journal")
		a := d.agent(t, journal, 0)
		_, v := a.set(t, "refreshed", mechanisms.Ethernet)
		// The events that the set has caused lead to one look at VPP, 200 ms later.
		<-time.After(time.Second)
		before := a.sent(t)
		for i := range 100 {
			v.Record = []byte{byte(i / 2)}
			if err := a.Set(ctx, v); err != nil {
				t.Fatal(err)
			}
			if err := a.Record(ctx, v.ID, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		// The session probes VPP once a second by itself.
		if n := a.sent(t) - before; n > 3 {
			t.Errorf("100 refreshes sent %d messages", n)
		}
		if err := a.Record(ctx, "nobody", nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("record of an unknown vWire: %v", err)
		}
		if err := a.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		a.nothingLeft(ctx, t)
	})
}

// TestVPPRestart: VPP dies without a word, and its successor gets every vWire back by itself.
func TestVPPRestart(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, time.Minute)
		kill := d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		var pairs []*pair
		for i := range 5 {
			p, _ := a.set(t, fmt.Sprintf("restart-%d", i), []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}[i%2])
			pairs = append(pairs, p)
		}
		old, err := a.VPP()
		if err != nil {
			t.Fatal(err)
		}
		if d.name == "VPP" {
			// process starts it again.
			if err := syscall.Kill(old.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			kill()
			d.start(t)
		}
		<-old.Done()
		begun := time.Now()
		for _, s := range a.awaitAfter(t, old, 5, forwarder.Up) {
			if s.Err != nil {
				t.Errorf("%s: %v", s.VWire.ID, s.Err)
			}
		}
		t.Log("all up again after", time.Since(begun))
		for _, p := range pairs {
			p.reaches(ctx, t, families["dual"][1])
		}
		a.explain(ctx, t)
		for _, s := range a.List() {
			if err := a.Delete(ctx, s.VWire.ID); err != nil {
				t.Error(err)
			}
		}
		a.nothingLeft(ctx, t)
	})
}

// TestVPPHangs: a VPP that is there and does not answer is ended, and its successor gets the vWires back.
func TestVPPHangs(t *testing.T) {
	d := real(t, kernel.Veth)
	hung := make(chan int, 1)
	d.onHang = func(pid int) {
		hung <- pid
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	p, v := a.set(t, "hanging", mechanisms.Ethernet)
	old, err := a.VPP()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := syscall.Kill(old.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if pid := <-hung; pid != old.PID() && old.PID() != 0 {
		t.Errorf("process %d hangs, want %d", pid, old.PID())
	}
	t.Log("noticed after", time.Since(begun))
	a.awaitAfter(t, old, 1, forwarder.Up)
	t.Log("up again after", time.Since(begun))
	p.reaches(within(t, time.Minute), t, families["dual"][1])
	if err := a.Delete(within(t, time.Minute), v.ID); err != nil {
		t.Error(err)
	}
	a.nothingLeft(within(t, time.Minute), t)
}

func (a *agent) await(t *testing.T, n int, s forwarder.State) []forwarder.Status {
	t.Helper()
	return a.awaitAfter(t, nil, n, s)
}

// awaitAfter waits until n vWires are in the state on another VPP than old. The reconciler has no event for outsiders, so
// this looks again and again.
func (a *agent) awaitAfter(t *testing.T, old *vppapi.Conn, n int, s forwarder.State) []forwarder.Status {
	t.Helper()
	ctx := within(t, 30*time.Second)
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		list := a.List()
		have := 0
		for _, st := range list {
			if st.State == s {
				have++
			}
		}
		if c, err := a.VPP(); err == nil && c != old && have == n && len(list) == n {
			return list
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("%d of %d vWires are %s", have, n, s)
		}
	}
}

// TestAgentRestart: a new agent adopts what its predecessor built and changes nothing about it.
func TestAgentRestart(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, time.Minute)
		d.start(t)
		journal := filepath.Join(t.TempDir(), "journal")
		first := d.agent(t, journal, 0)
		p, v := first.set(t, "adopted", mechanisms.IP)
		p.reaches(ctx, t, families["dual"][1])
		// The namespaces of the lab have no process inside, so the journal's next reader is shown the way.
		first.stop()

		second := d.agentHolding(t, journal, p)
		list := second.await(t, 1, forwarder.Up)
		if !list[0].VWire.Equal(v) {
			t.Errorf("restored %+v, want %+v", list[0].VWire, v)
		}
		p.reaches(ctx, t, families["dual"][1])
		c, err := second.VPP()
		if err != nil {
			t.Fatal(err)
		}
		// Greeting: version, events. Dump: thirteen requests. Probes: one a second. Anything that changes VPP would come on top.
		if n := c.Sent(); n > 19 {
			t.Errorf("adopting sent %d messages", n)
		}
		if err := second.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		second.nothingLeft(ctx, t)
	})
}

// TestDrift: what others change in VPP or in the client's namespace is put right again, and the vWire says so. The slow look finds
// everything; most of it is heard of at once.
func TestDrift(t *testing.T) {
	t.Run("looking", func(t *testing.T) { drift(t, func(d *dataplane) { d.resyncEvery = 100 * time.Millisecond }) })
	t.Run("hearing", func(t *testing.T) { drift(t, func(d *dataplane) { d.hears = true }) })
}

func drift(t *testing.T, set func(*dataplane)) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 2*time.Minute)
		set(d)
		kill := d.start(t)
		defer kill()
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		p, v := a.set(t, "drifting", mechanisms.Ethernet)
		hand, err := vppapi.Dial(ctx, d.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hand.Close)
		inVPP := func(k vppapi.Key) func() error {
			return func() error {
				have, err := hand.Dump(ctx)
				if err != nil {
					return err
				}
				return hand.Apply(ctx, vppapi.Plan{Remove: []vppapi.Object{have[k].Object}}, have)[k]
			}
		}
		inNamespace := func(do func(netlink.Link) error) func() error {
			return func() error {
				return p.client.Do(func() error {
					link, err := netlink.LinkByName("nsm-1")
					if err != nil {
						return err
					}
					return do(link)
				})
			}
		}
		client := v.Client.Name()
		for _, damage := range []struct {
			name, what string
			do         func() error
		}{
			{"shut", "up " + client, inVPP(vppapi.Up{Name: client}.Key())},
			{"cross-connect", "xconnect " + client + " l2", inVPP(vppapi.L2XConnect{From: client}.Key())},
			{"untagged", "tag " + client, inVPP(vppapi.Tag{Name: client}.Key())},
			{"deleted", "interface " + client, inVPP(vppapi.Interface(client))},
			{"kernel: shut", "carrier " + client, inNamespace(netlink.LinkSetDown)},
			{"kernel: address", "netns " + client, inNamespace(func(l netlink.Link) error {
				addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
				if err != nil {
					return err
				}
				return netlink.AddrDel(l, &addresses[0])
			})},
			{"kernel: route", "carrier " + client, inNamespace(func(l netlink.Link) error {
				return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IP{172, 16, 1, 2}, Mask: net.CIDRMask(32, 32)}})
			})},
			{"kernel: renamed", "netns " + client, inNamespace(func(l netlink.Link) error {
				return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "mine"))
			})},
			{"kernel: deleted", client, inNamespace(netlink.LinkDel)},
		} {
			t.Run(damage.name, func(t *testing.T) {
				if d.hears && slices.Contains([]string{"cross-connect", "untagged"}, damage.name) {
					t.Skip("VPP tells nobody of it")
				}
				if damage.name == "kernel: deleted" && d.backing == kernel.Tap {
					t.Skip("VPP does not tell that the kernel's side of a tap is gone")
				}
				before := a.List()[0].Drift
				if err := damage.do(); err != nil {
					t.Fatal(err)
				}
				s := a.awaitStatus(ctx, t, func(s forwarder.Status) bool { return s.Drift.Count > before.Count && s.State == forwarder.Up })
				if !strings.Contains(s.Drift.What, damage.what) || !s.Drift.Last.After(before.Last) {
					t.Errorf("drift %+v, want %q", s.Drift, damage.what)
				}
				p.reaches(ctx, t, families["dual"][1])
			})
		}
		a.explain(ctx, t)
		if err := a.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		a.nothingLeft(ctx, t)
		a.stop()
	})
}

// awaitStatus waits until the only vWire is as told.
func (a *agent) awaitStatus(ctx context.Context, t *testing.T, is func(forwarder.Status) bool) forwarder.Status {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		list := a.List()
		if len(list) == 1 && is(list[0]) {
			return list[0]
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("it stays %+v", list)
		}
	}
}

// TestSetFaults: what cannot be built is refused with its reason, and the namespaces stay clean.
func TestSetFaults(t *testing.T) {
	ctx := within(t, time.Minute)
	d := pocket(t, kernel.Veth, nil)
	d.start(t)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	p := newPair(t)
	good := kernelVWire(t, "good", p, mechanisms.Ethernet, families["ip4"])
	func() {
		defer a.hold(t, p)()
		if err := a.Set(ctx, good); err != nil {
			t.Fatal(err)
		}
	}()
	with := func(change func(*forwarder.VWire)) forwarder.VWire {
		v := kernelVWire(t, "bad", p, mechanisms.Ethernet, families["ip4"])
		change(&v)
		return v
	}
	param := func(key, value string) func(*forwarder.VWire) {
		return func(v *forwarder.VWire) { v.Client.Params[key] = value }
	}
	for name, c := range map[string]struct {
		v    forwarder.VWire
		kind fault.Kind
		says string
	}{
		"id":            {forwarder.VWire{ID: "../x"}, fault.Invalid, "vWire id"},
		"ends":          {with(func(v *forwarder.VWire) { v.Client.Side = mechanisms.Endpoint }), fault.Invalid, "says it is"},
		"payloads":      {with(func(v *forwarder.VWire) { v.Client.Payload = mechanisms.IP }), fault.Invalid, "different payloads"},
		"mechanism":     {with(func(v *forwarder.VWire) { v.Client.Type = "CARRIER-PIGEON" }), fault.Invalid, "not supported"},
		"long name":     {with(param(mechanisms.ParamName, "sixteen-bytes-xx")), fault.Invalid, "1 to 15 bytes"},
		"slash":         {with(param(mechanisms.ParamName, "../eth0")), fault.Invalid, "no '/'"},
		"inode":         {with(param(mechanisms.ParamInode, "inode://a/b")), fault.Invalid, "inode://<dev>/<ino>"},
		"no such netns": {with(param(mechanisms.ParamInode, "inode://4/1")), fault.NotFound, "is gone"},
		"name is taken": {with(func(*forwarder.VWire) {}), fault.Conflict, "exists already"},
		"loopback's":    {with(param(mechanisms.ParamName, "lo")), fault.Conflict, "exists already"},
		"multicast MAC": {with(func(v *forwarder.VWire) { v.Client.MAC = "01:00:5e:00:00:01" }), fault.Invalid, "unicast"},
		"absurd route": {with(func(v *forwarder.VWire) {
			v.Client.Params[mechanisms.ParamName], v.Endpoint.Params[mechanisms.ParamName] = "x", "y"
			v.Endpoint.Routes = nil
			v.Client.Routes = []mechanisms.Route{{Prefix: prefixes("10.0.0.0/8")[0], Via: prefixes("192.0.2.1/32")[0].Addr()}}
		}), fault.Invalid, "route 10.0.0.0/8"},
		"route is taken": {with(func(v *forwarder.VWire) {
			v.Client.Params[mechanisms.ParamName], v.Endpoint.Params[mechanisms.ParamName] = "x", "y"
		}), fault.Conflict, "another interface"},
	} {
		t.Run(name, func(t *testing.T) {
			defer a.hold(t, p)()
			err := a.Set(ctx, c.v)
			if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (%v), want %v with %q", err, fault.KindOf(err), c.kind, c.says)
			}
		})
	}
	if flow, err := p.client.Ping(ctx, families["ip4"][1][0].Addr(), 2); err != nil || flow.Received == 0 {
		t.Errorf("the good vWire does not work any more: %v, %v", flow, err)
	}
	if err := a.Delete(ctx, "good"); err != nil {
		t.Error(err)
	}
	if err := a.Delete(ctx, "good"); err != nil {
		t.Error("deleting twice:", err)
	}
	a.nothingLeft(ctx, t)
}
