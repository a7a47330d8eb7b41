package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// bench is an end and the namespace of its peer.
type bench struct {
	m   *Mechanism
	ns  *lab.Namespace
	end mechanisms.End
}

// newBench is one whose vWire nobody else has.
func newBench(t *testing.T, vwire string, b Backing, payload mechanisms.Payload) bench {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil && b == Tap {
		t.Skip("no /dev/net/tun on this machine:", err)
	}
	n := NewNamespaces()
	ns, id := newNamespace(t, n)
	e := sample(payload, "ip4", "ip6")
	e.VWire, e.Params = vwire, map[string]string{mechanisms.ParamInode: id.String(), mechanisms.ParamName: "nsm-1"}
	for _, def := range []string{"0.0.0.0/0", "::/0"} {
		via := e.Remote[0].Addr()
		if def == "::/0" {
			via = e.Remote[1].Addr()
		}
		e.Routes = append(e.Routes, mechanisms.Route{Prefix: netip.MustParsePrefix(def), Via: via})
	}
	return bench{New(Config{Namespaces: n, Backing: b}), ns, e}
}

// device makes what Netns and Carrier stand on: the link, or as VPP would, the tap.
func (b bench) device(t *testing.T) {
	t.Helper()
	if b.m.backing == Veth {
		l := local(t, b.m, b.end, vppapi.KindLink)
		if !realize(t, l) {
			t.Error("the link was there before")
		}
		t.Cleanup(func() { _ = l.Release(t.Context()) })
		return
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP}
	if b.end.Payload == mechanisms.IP {
		tap.Mode = netlink.TUNTAP_MODE_TUN
	}
	tap.Name = HostName(b.end.Name())
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(tap.Name); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
}

// damage calls fn with the interface in the peer's namespace.
func (b bench) damage(t *testing.T, fn func(netlink.Link) error) {
	t.Helper()
	do(t, b.ns, func() error {
		l, err := netlink.LinkByName("nsm-1")
		if err != nil {
			return err
		}
		return fn(l)
	})
}

func onBacking(t *testing.T, vwire string, test func(t *testing.T, b bench)) {
	for _, backing := range []Backing{Veth, Tap} {
		for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
			name := string(backing) + "-" + string(payload)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newBench(t, vwire+"-"+name, backing, payload))
			})
		}
	}
}

// TestRealizeTwice: the second time there is nothing to do.
func TestRealizeTwice(t *testing.T) {
	t.Parallel()
	onBacking(t, "twice", func(t *testing.T, b bench) {
		b.device(t)
		kinds := []vppapi.Kind{vppapi.KindNetns, vppapi.KindCarrier}
		if b.m.backing == Veth {
			kinds = append(kinds, vppapi.KindLink)
		}
		for i := range 3 {
			for _, k := range kinds {
				o := local(t, b.m, b.end, k)
				if changed := realize(t, o); changed != (i == 0 && k != vppapi.KindLink) {
					t.Errorf("round %d: %s: changed %v", i, o.Key(), changed)
				}
			}
		}
		if l, err := netlink.LinkByName(HostName(b.end.Name())); (err == nil) != (b.m.backing == Veth) {
			t.Errorf("in the agent's namespace: %v, %v", l, err)
		}
		b.damage(t, func(l netlink.Link) error {
			if a := l.Attrs(); a.MTU != 1500 || a.Flags&net.FlagUp == 0 || a.Alias != "hw:"+b.end.Name() {
				t.Errorf("%+v", a)
			}
			return nil
		})
	})
}

// TestRepair: what the peer has changed is put right, what is not ours stays.
func TestRepair(t *testing.T) {
	t.Parallel()
	cidr := func(s string) *net.IPNet { return ipNet(netip.MustParsePrefix(s)) }
	onBacking(t, "repair", func(t *testing.T, b bench) {
		b.device(t)
		netns, carrier := local(t, b.m, b.end, vppapi.KindNetns), local(t, b.m, b.end, vppapi.KindCarrier)
		realize(t, netns)
		realize(t, carrier)
		good := b.state(t)
		for name, damage := range map[string]func(netlink.Link) error{
			"MTU":       func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) },
			"address":   func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("10.0.0.1/32")}) },
			"IPv6":      func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: cidr("fd00::1/128")}) },
			"one more":  func(l netlink.Link) error { return netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr("192.0.2.1/24")}) },
			"IPv6 more": func(l netlink.Link) error { return netlink.AddrAdd(l, &netlink.Addr{IPNet: cidr("fd09::1/64")}) },
			"no IPv6": func(netlink.Link) error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/nsm-1/disable_ipv6", []byte("1"), 0)
			},
			"down":       netlink.LinkSetDown,
			"route":      func(netlink.Link) error { return netlink.RouteDel(&netlink.Route{Dst: cidr("10.1.0.0/16")}) },
			"IPv6 route": func(netlink.Link) error { return netlink.RouteDel(&netlink.Route{Dst: cidr("fd01::/64")}) },
			"default":    func(netlink.Link) error { return netlink.RouteDel(&netlink.Route{Dst: cidr("0.0.0.0/0")}) },
			"stale route": func(l netlink.Link) error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("10.9.0.0/16"), Protocol: routeProtocol, Scope: netlink.SCOPE_LINK})
			},
		} {
			b.damage(t, damage)
			if slices.Equal(b.state(t), good) {
				t.Errorf("%s did no damage", name)
			}
			first, second := realize(t, netns), realize(t, carrier)
			if !first && !second {
				t.Errorf("%s: nobody changed anything", name)
			}
			if got := b.state(t); !slices.Equal(got, good) {
				t.Errorf("%s:\n got %q\nwant %q", name, got, good)
			}
			if realize(t, netns) || realize(t, carrier) {
				t.Errorf("%s: not done with it", name)
			}
		}
		b.damage(t, func(l netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("198.51.100.0/24"), Scope: netlink.SCOPE_LINK})
		})
		peers := b.state(t)
		if realize(t, netns) || realize(t, carrier) || !slices.Equal(b.state(t), peers) {
			t.Errorf("a route of the peer's own is gone: %q", b.state(t))
		}
	})
}

// state is all that may be damaged, in lines to compare.
func (b bench) state(t *testing.T) (lines []string) {
	t.Helper()
	b.damage(t, func(l netlink.Link) error {
		lines = append(lines, fmt.Sprintf("mtu %d up %v", l.Attrs().MTU, l.Attrs().Flags&net.FlagUp != 0))
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() {
				lines = append(lines, a.IPNet.String())
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(l, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() {
					lines = append(lines, prefixOf(r.Dst).String()+" via "+r.Gw.String())
				}
			}
		}
		return nil
	})
	slices.Sort(lines)
	return lines
}

// TestTaken: an interface of the peer's own that has the name is left as it is, and nothing else is.
func TestTaken(t *testing.T) {
	t.Parallel()
	onBacking(t, "taken", func(t *testing.T, b bench) {
		vethIn(t, b.ns, "nsm-1", "other")
		before := b.state(t)
		if b.m.backing == Veth {
			_, err := local(t, b.m, b.end, vppapi.KindLink).Realize(within(t))
			if !fault.Is(err, fault.Conflict) {
				t.Errorf("link: %v: %v", fault.KindOf(err), err)
			}
			if l, err := netlink.LinkByName(HostName(b.end.Name())); err == nil {
				t.Errorf("half a pair is left: %v", l.Attrs())
			}
		} else {
			b.device(t)
		}
		for range 2 {
			for _, k := range []vppapi.Kind{vppapi.KindNetns, vppapi.KindCarrier} {
				if _, err := local(t, b.m, b.end, k).Realize(within(t)); !fault.Is(err, fault.Conflict) {
					t.Errorf("%s: %v: %v", k, fault.KindOf(err), err)
				}
			}
		}
		if after := b.state(t); !slices.Equal(after, before) {
			t.Errorf("the peer's interface was\n%q and is\n%q", before, after)
		}
		if b.m.backing == Tap { // once the name is free, the same tap gets it
			b.damage(t, netlink.LinkDel)
			realize(t, local(t, b.m, b.end, vppapi.KindNetns))
			realize(t, local(t, b.m, b.end, vppapi.KindCarrier))
		}
	})
}

// TestLink: the pair is found, made anew when half of it is gone, and goes as a whole, once and for all.
func TestLink(t *testing.T) {
	t.Parallel()
	b := newBench(t, "link", Veth, mechanisms.IP)
	ctx, l := within(t), local(t, b.m, b.end, vppapi.KindLink)
	observed := func() bool { return l.(vppapi.Observer).Observe(ctx) }
	listed := func() bool {
		list, err := New(Config{Namespaces: NewNamespaces(), Backing: Veth}).List(ctx)
		if err != nil {
			t.Error(err)
		}
		return slices.ContainsFunc(list, func(o vppapi.Object) bool { return o.Key() == l.Key() })
	}
	if observed() || listed() {
		t.Error("observed before it was made")
	}
	b.device(t)
	if !observed() || !listed() {
		t.Error("not observed")
	}
	for name, damage := range map[string]func(netlink.Link) error{
		"deleted": netlink.LinkDel,
		"claimed": func(l netlink.Link) error { return netlink.LinkSetAlias(l, "mine") },
	} {
		b.damage(t, damage)
		if observed() {
			t.Errorf("%s: observed still", name)
		}
		if !realize(t, l) || !observed() || realize(t, l) {
			t.Errorf("%s: not made anew", name)
		}
	}
	b.damage(t, func(l netlink.Link) error { return netlink.LinkSetName(l, "mine-now") })
	if n := local(t, b.m, b.end, vppapi.KindNetns); !observed() || !realize(t, n) || realize(t, n) {
		t.Error("an interface that was renamed does not get its name back")
	}
	for range 2 {
		if err := l.Release(ctx); err != nil {
			t.Error(err)
		}
	}
	if observed() || listed() {
		t.Error("observed after its release")
	}
	do(t, b.ns, func() error {
		var none netlink.LinkNotFoundError
		if _, err := netlink.LinkByName("nsm-1"); !errors.As(err, &none) {
			t.Errorf("left in the peer's namespace: %v", err)
		}
		return nil
	})
}
