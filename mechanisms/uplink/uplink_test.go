package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// TestMain runs the tests again in a network namespace of their own. Who is not root becomes it in a user namespace.
func TestMain(m *testing.M) {
	const inside = "HIGHWIRE_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Println("these tests need network namespaces, which this machine does not allow:", err)
		os.Exit(1)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// newInterface makes an interface with addresses, up, until the test ends.
func newInterface(t *testing.T, name string, addrs ...string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1500, HardwareAddr: []byte{2, 0, 0, 0, 0, 1}}, PeerName: name + "-far"}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	far, err := netlink.LinkByName(name + "-far")
	must(t, err, netlink.LinkSetUp(far))
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		addr.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(link, addr))
	}
	must(t, netlink.LinkSetUp(link))
	return link
}

func route(link netlink.Link, prefix, via string) *netlink.Route {
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		panic(err)
	}
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: netip.MustParseAddr(via).AsSlice()}
}

func plan(u *Uplink) string {
	want := make(map[vppapi.Key]vppapi.Object)
	for _, o := range u.Objects() {
		want[o.Key()] = o
	}
	return vppapi.Diff(want, nil).String()
}

// TestFollow: VPP's part of the uplink is as the kernel has it, from the first tunnel on, and changes with it.
func TestFollow(t *testing.T) {
	link := newInterface(t, "up0", "192.0.2.1/24", "2001:db8::1/64")
	must(t, netlink.RouteAdd(route(link, "0.0.0.0/0", "192.0.2.254")), netlink.RouteAdd(route(link, "::/0", "2001:db8::fe")))
	u, err := New(Config{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	if got := plan(u); got != "" {
		t.Errorf("before the first tunnel:\n%s", got)
	}
	for far, want := range map[string]string{"198.51.100.1": "192.0.2.1", "2001:db8:9::1": "2001:db8::1"} {
		if l, err := u.Local(netip.MustParseAddr(far)); err != nil || l.Addr.String() != want || l.MTU != 1500 {
			t.Errorf("towards %s: %v, %v", far, l, err)
		}
	}
	want := `+ link uplink:node: veth hwuplink to hwuplink-vpp mtu 1500
+ interface uplink:node: af_packet hwuplink-vpp mac 02:00:00:00:00:01 queues 1
+ tag uplink:node: tag hw:uplink:node
+ setting uplink:node mtu: mtu 1500
+ address uplink:node 192.0.2.1/24: address 192.0.2.1/24
+ address uplink:node 2001:db8::1/64: address 2001:db8::1/64
+ route 0.0.0.0/0: route 0.0.0.0/0 via 192.0.2.254 on uplink:node
+ route ::/0: route ::/0 via 2001:db8::fe on uplink:node
+ up uplink:node: admin up
+ carrier uplink:node up0: filters on up0 for tunnels to 192.0.2.1 and 2001:db8::1
`
	if got := plan(u); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	await := func(what, text string, present bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for strings.Contains(plan(u), text) != present {
			select {
			case <-u.Changed():
			case <-deadline:
				t.Fatalf("%s:\n%s", what, plan(u))
			}
		}
	}
	must(t, netlink.RouteReplace(route(link, "0.0.0.0/0", "192.0.2.253")))
	await("another gateway", "0.0.0.0/0 via 192.0.2.253", true)
	must(t, netlink.RouteAdd(route(link, "198.51.100.0/24", "192.0.2.7")))
	await("another route", "198.51.100.0/24 via 192.0.2.7", true)
	must(t, netlink.LinkSetMTU(link, 1400))
	await("another MTU", "mtu 1400", true)
	must(t, netlink.LinkSetHardwareAddr(link, []byte{2, 0, 0, 0, 0, 9}))
	await("another MAC", "mac 02:00:00:00:00:09", true)
	addr, _ := netlink.ParseAddr("192.0.2.1/24")
	must(t, netlink.AddrDel(link, addr))
	await("no IPv4 any more", "192.0.2.1", false)
	if _, err := u.Local(netip.MustParseAddr("198.51.100.1")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
	if u.Has(netip.MustParseAddr("192.0.2.1")) || !u.Has(netip.MustParseAddr("2001:db8::1")) {
		t.Error("which addresses are ours is not known")
	}
	must(t, netlink.LinkDel(link))
	await("no uplink any more", "uplink", false)
}

// TestNamed: an uplink or address that was named has to be there; one that was not may come later.
func TestNamed(t *testing.T) {
	if u, err := New(Config{}); err != nil || len(u.Objects()) != 0 {
		t.Errorf("no uplink yet: %v", err)
	}
	newInterface(t, "up1", "192.0.2.1/24", "198.51.100.1/24")
	for _, c := range []struct {
		cfg  Config
		want string
		kind fault.Kind
	}{
		{Config{Interface: "up1"}, "192.0.2.1", 0},
		{Config{Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}, "198.51.100.1", 0},
		{Config{Interface: "nowhere"}, "", fault.NotFound},
		{Config{Interface: "lo"}, "", fault.Invalid},
		{Config{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.99")}}, "", fault.NotFound},
		{Config{Interface: "up1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.99")}}, "", fault.NotFound},
		{Config{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")}}, "", fault.Invalid},
	} {
		u, err := New(c.cfg)
		if c.kind != 0 {
			if !fault.Is(err, c.kind) {
				t.Errorf("%+v: %v", c.cfg, err)
			}
			continue
		}
		if err != nil || !u.Has(netip.MustParseAddr(c.want)) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}

// TestFilters: they are made once, other people's stay, and nothing of ours is left.
func TestFilters(t *testing.T) {
	ctx := context.Background()
	link := newInterface(t, "up2", "192.0.2.1/24")
	must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	theirs := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 7, Protocol: unix.ETH_P_IP},
		Sel:         &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Keys: []nl.TcU32Key{match(8, 6<<16, 0xff<<16)}},
		Actions:     []netlink.Action{netlink.NewMirredAction(link.Attrs().Index)},
	}
	must(t, netlink.FilterAdd(theirs))
	pair := Pair{MTU: 1500}
	if _, err := pair.Realize(ctx); err != nil {
		t.Fatal(err)
	}
	f := Filters{uplink: "up2", index: link.Attrs().Index, addrs: [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	for i, want := range []bool{true, false} {
		if changed, err := f.Realize(ctx); err != nil || changed != want {
			t.Errorf("time %d: changed %v, %v", i, changed, err)
		}
	}
	f.addrs[1] = netip.Addr{}
	if changed, err := f.Realize(ctx); err != nil || !changed {
		t.Errorf("other addresses: changed %v, %v", changed, err)
	}
	have, foreign, err := filtersOn(link)
	if err != nil || len(have) != len(f.inward(0)) || foreign == 0 {
		t.Errorf("%d filters of ours, %d of others, %v", len(have), foreign, err)
	}
	must(t, f.Release(ctx), pair.Release(ctx), pair.Release(ctx))
	have, foreign, err = filtersOn(link)
	if err != nil || len(have) != 0 || foreign == 0 {
		t.Errorf("after release %d filters of ours, %d of others, %v", len(have), foreign, err)
	}
	if pair.Observe(ctx) {
		t.Error("the pair is still there")
	}
}
