package forwarder_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
)

// TestUntagged: what an agent that died between create and tag has left is removed, and nothing that is not ours.
func TestUntagged(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("a tap gets its tag with the create")
		}
		ctx := within(t, time.Minute)
		d.start(t)
		ours, foreign := vppapi.HostName([6]byte{1, 2, 3, 4, 5, 6}), "foreign0"
		for name, alias := range map[string]string{ours: "hw:dead:client", foreign: ""} {
			veth(t, name, alias)
		}
		socket := vppapi.MemifSocket{File: "abstract:" + strings.Repeat("x", 80) + ",netns_name=/proc/self/ns/net"} // longer than a dump shows
		dead := []vppapi.Object{
			socket, vppapi.MemifSocket{File: "abstract:alone"},
			vppapi.Memif{Name: "dead:endpoint", Socket: socket, RingSize: 1024, Queues: 1},
			vppapi.AFPacket{Name: "dead:client", Host: ours}, vppapi.AFPacket{Name: "foreign:client", Host: foreign},
		}
		hand := byHand(ctx, t, d)
		if errs := hand.Apply(ctx, vppapi.Plan{Create: dead}, vppapi.Realized{}); len(errs) > 0 {
			t.Fatal(errs)
		}
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), time.Nanosecond)
		a.eventually(ctx, t, "the leftovers go", func(have vppapi.Realized) bool { return len(have) == 0 })
		if out, err := hand.CLI(ctx, "show interface"); err != nil || !strings.Contains(out, "host-"+foreign) || strings.Contains(out, ours) || strings.Contains(out, "memif") {
			t.Errorf("VPP has\n%s%v", out, err)
		}
		if out, err := hand.CLI(ctx, "show memif"); err != nil || strings.Contains(out, "abstract:") {
			t.Errorf("VPP has\n%s%v", out, err)
		}
		if errs := hand.Apply(ctx, vppapi.Plan{Remove: dead[4:]}, vppapi.Realized{}); len(errs) > 0 {
			t.Error(errs)
		}
		a.nothingLeft(ctx, t)
	})
}

// byHand is a session beside the agent's, until the test ends. A VPP on a busy machine takes its time to start.
func byHand(ctx context.Context, t *testing.T, d *dataplane) *vppapi.Conn {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		hand, err := vppapi.Dial(ctx, d.socket)
		if err == nil {
			t.Cleanup(hand.Close)
			return hand
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// veth makes a pair in the agent's namespace that goes with the test.
func veth(t *testing.T, name, alias string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if alias != "" {
		if err := netlink.LinkSetAlias(link, alias); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits until VPP's dump is as told.
func (a *agent) eventually(ctx context.Context, t *testing.T, what string, is func(vppapi.Realized) bool) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		var have vppapi.Realized
		c, err := a.VPP()
		if err == nil {
			have, err = c.Dump(ctx)
		}
		if err == nil && is(have) {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v, %v", what, have, err)
		}
	}
}

// TestUntaggedWanted: the next agent adopts interfaces of a vWire that its predecessor had made and not yet tagged.
func TestUntaggedWanted(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("a tap gets its tag with the create")
		}
		ctx := within(t, time.Minute)
		d.start(t)
		journal := filepath.Join(t.TempDir(), "journal")
		pins := filepath.Join(t.TempDir(), "netns")
		p := newPair(t)
		start := func() (a *agent, release func()) {
			n, err := kernel.NewPinnedNamespaces(pins, "")
			if err != nil {
				t.Fatal(err)
			}
			release = (&agent{namespaces: n}).hold(t, p) // as processes in them would
			return d.agentWith(t, journal, time.Nanosecond, n), release
		}
		v := memifVWire(t, "wanted", p, [2]string{mechanisms.Kernel, mechanisms.Memif}, mechanisms.Ethernet, families["ip4"])
		far, _ := occupy(t, v.Endpoint, p.endpoint)
		first, releaseFirst := start()
		if err := first.Set(ctx, v); err != nil {
			t.Fatal(err)
		}
		awaitLink(t, far)
		p.reaches(ctx, t, families["ip4"][1])
		first.stop()

		hand, err := vppapi.Dial(ctx, d.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hand.Close)
		before, err := hand.Dump(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{v.Client.Name(), v.Endpoint.Name()} {
			if errs := hand.Apply(ctx, vppapi.Plan{Remove: []vppapi.Object{vppapi.Tag{Name: end}}}, before); len(errs) > 0 {
				t.Fatal(errs)
			}
		}
		second, release := start()
		second.await(t, 1, forwarder.Up)
		after, err := hand.Dump(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{v.Client.Name(), v.Endpoint.Name()} {
			k := vppapi.Interface(end)
			if b, a := before[k], after[k]; a.Object == nil || b.Index != a.Index {
				t.Errorf("%s: %v, was %v", end, a, b)
			}
		}
		p.reaches(ctx, t, families["ip4"][1])
		if err := second.Delete(ctx, v.ID); err != nil {
			t.Error(err)
		}
		release()
		second.nothingLeft(ctx, t)
		releaseFirst()
	})
}

// TestTwoAgents: an agent that looks for leftovers leaves alone what another one has in the same namespace, and finds its own.
func TestTwoAgents(t *testing.T) {
	ctx := within(t, time.Minute)
	namespaces := func(owner string) *kernel.Namespaces {
		n, err := kernel.NewPinnedNamespaces(t.TempDir(), owner)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one, other := pocket(t, kernel.Veth, nil), pocket(t, kernel.Veth, nil)
	one.pool, other.pool = 1, 1
	one.start(t)
	other.start(t)
	a := one.agentWith(t, filepath.Join(t.TempDir(), "journal"), 0, namespaces("one"))
	a.ready(t, 1)
	p, v := a.set(t, "mine", mechanisms.Ethernet)
	orphan := vppapi.HostName([6]byte{6, 5, 4, 3, 2, 1})
	veth(t, orphan, "hw:spare-"+orphan+":pool@other")
	b := other.agentWith(t, filepath.Join(t.TempDir(), "journal"), time.Nanosecond, namespaces("other"))
	b.ready(t, 1)
	emptied(t, func() (left []string, err error) {
		if _, err := netlink.LinkByName(orphan); err == nil {
			left = append(left, orphan)
		}
		return left, nil
	})
	p.reaches(ctx, t, families["dual"][1])
	if s := a.List()[0]; s.Drift.Count > 0 {
		t.Errorf("somebody has changed the other's vWire: %+v", s.Drift)
	}
	if err := a.Delete(ctx, v.ID); err != nil {
		t.Error(err)
	}
	a.stop()
	b.stop()
}

// TestPruneAmongEvents: what happens in VPP during the grace period does not put off the look that ends it.
func TestPruneAmongEvents(t *testing.T) {
	ctx := within(t, time.Minute)
	d := pocket(t, kernel.Veth, nil)
	d.start(t)
	hand := byHand(ctx, t, d)
	if errs := hand.Apply(ctx, vppapi.Plan{Create: []vppapi.Object{vppapi.MemifSocket{File: "abstract:alone"}}}, vppapi.Realized{}); len(errs) > 0 {
		t.Fatal(errs)
	}
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 2*time.Second)
	a.await(t, 0, forwarder.Up)
	_, v := a.set(t, "eventful", mechanisms.Ethernet) // interfaces come and go up
	if err := a.Delete(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	a.nothingLeft(ctx, t)
}
