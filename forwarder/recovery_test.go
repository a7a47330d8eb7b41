package forwarder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

// TestDrift: what is changed by hand in VPP is put right again.
func TestDrift(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		p, v := a.set(t, "drifting", mechanisms.Ethernet)
		c, err := a.VPP()
		if err != nil {
			t.Fatal(err)
		}
		for name, damage := range map[string]func(vppapi.Realized) []string{
			"shut": func(r vppapi.Realized) []string {
				return []string{"set interface state " + vppName(t, r, "drifting:client", c) + " down"}
			},
			"deleted": func(r vppapi.Realized) []string {
				return []string{deleteLine(t, r, "drifting:client", c)}
			},
		} {
			t.Run(name, func(t *testing.T) {
				have, err := c.Dump(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, line := range damage(have) {
					if out, err := c.CLI(ctx, line); err != nil {
						t.Skipf("this dataplane has no such command: %s: %v", out, err)
					}
				}
				p.reaches(ctx, t, families["dual"][1])
			})
		}
		if err := a.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		a.nothingLeft(ctx, t)
	})
}

func vppName(t *testing.T, r vppapi.Realized, end string, c *vppapi.Conn) string {
	t.Helper()
	switch o := r[vppapi.Interface(end)].Object.(type) {
	case vppapi.AFPacket:
		return "host-" + o.Host
	case vppapi.Tap:
		out, err := c.CLI(t.Context(), "show interface")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(out) {
			if strings.HasPrefix(f, "tap") || strings.HasPrefix(f, "tun") {
				return f
			}
		}
	}
	t.Fatalf("no interface of %s", end)
	return ""
}

func deleteLine(t *testing.T, r vppapi.Realized, end string, c *vppapi.Conn) string {
	name := vppName(t, r, end, c)
	if host, ok := strings.CutPrefix(name, "host-"); ok {
		return "delete host-interface name " + host
	}
	return "delete tap " + name
}

// TestFailures: every message that a Set sends fails once; each time the caller is told and nothing is left.
func TestFailures(t *testing.T) {
	for _, b := range []kernel.Backing{kernel.Veth, kernel.Tap} {
		for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
			t.Run(fmt.Sprintf("%s-%s", b, payload), func(t *testing.T) {
				if _, err := os.Stat("/dev/net/tun"); err != nil && b == kernel.Tap {
					t.Skip("no /dev/net/tun on this machine:", err)
				}
				ctx := within(t, time.Minute)
				var failing atomic.Int64 // the how manieth changing message fails; 0 none
				var seen atomic.Int64
				d := pocket(t, b, func(name string) (int32, bool) {
					if strings.Contains(name, "dump") || strings.Contains(name, "ping") || strings.Contains(name, "show") ||
						strings.HasPrefix(name, "want") || strings.HasPrefix(name, "cli") || strings.HasPrefix(name, "sockclnt") {
						return 0, false
					}
					if seen.Add(1) == failing.Load() {
						return -1, false
					}
					return 0, false
				})
				d.start(t)
				a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
				p := newPair(t)
				v := kernelVWire(t, "failing", p, payload, families["dual"])
				defer a.hold(t, p)()
				for n := int64(1); ; n++ {
					if n > 100 {
						t.Fatal("a vWire takes over 100 messages")
					}
					seen.Store(0)
					failing.Store(n)
					err := a.Set(ctx, v)
					failing.Store(0)
					if err == nil {
						if n < 6 {
							t.Errorf("only %d messages were made to fail", n-1)
						}
						break
					}
					if !strings.Contains(err.Error(), "VPP refused") {
						t.Errorf("message %d: %v", n, err)
					}
					if list := a.List(); len(list) != 0 {
						t.Errorf("message %d failed and the vWire is %s", n, list[0].State)
					}
				}
				p.reaches(ctx, t, families["dual"][1])
				if err := a.Delete(ctx, v.ID); err != nil {
					t.Error(err)
				}
			})
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
