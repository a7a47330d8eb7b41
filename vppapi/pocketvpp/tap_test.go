package pocketvpp

import (
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/tapv2"
)

func TestTaps(t *testing.T) {
	home, away := newNetns(t), newNetns(t)
	s := startServer(t, Config{Netns: home})
	conn := dial(t, s.cfg.Socket)
	ctx, taps := timeout(t), tapv2.NewServiceClient(conn)
	four, _ := ip_types.ParseIP4Prefix("10.0.0.1/24")
	six, _ := ip_types.ParseIP6Prefix("2001:db8::1/64")
	full := &tapv2.TapCreateV3{
		ID: 7, MacAddress: ethernet_types.MacAddress{2, 1, 2, 3, 4, 5}, NumRxQueues: 1, NumTxQueues: 1, RxRingSz: 512,
		HostMtuSet: true, HostMtuSize: 1400, HostMacAddrSet: true, HostMacAddr: ethernet_types.MacAddress{2, 9, 9, 9, 9, 9},
		HostIP4PrefixSet: true, HostIP4Prefix: ip_types.IP4AddressWithPrefix(four),
		HostIP6PrefixSet: true, HostIP6Prefix: ip_types.IP6AddressWithPrefix(six),
		HostNamespaceSet: true, HostNamespace: away, HostIfNameSet: true, HostIfName: "client0",
		TapFlags: tapv2.TAP_API_FLAG_GSO, Tag: "hw:x:client",
	}
	reply, err := taps.TapCreateV3(ctx, full)
	must(t, err)
	link := sh(t, "ip -n %s addr show client0", ns(away))
	for _, want := range []string{"mtu 1400", "02:09:09:09:09:09", "10.0.0.1/24", "2001:db8::1/64", "LOWER_UP"} {
		if !contains(link, want) {
			t.Errorf("no %s in\n%s", want, link)
		}
	}
	d := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: reply.SwIfIndex})["tap7"]
	if d == nil {
		t.Fatal("no tap7")
	}
	equal(t, "details", *d, interfaces.SwInterfaceDetails{
		SwIfIndex: 1, SupSwIfIndex: 1, L2Address: full.MacAddress, Flags: 2, LinkMtu: 9000, Mtu: []uint32{9000, 0, 0, 0},
		InterfaceName: "tap7", InterfaceDevType: "virtio", Tag: "hw:x:client",
	})
	dump, err := taps.SwInterfaceTapV2Dump(ctx, &tapv2.SwInterfaceTapV2Dump{SwIfIndex: anyIndex})
	must(t, err)
	equal(t, "tap", values(collect(t, dump.Recv)), []tapv2.SwInterfaceTapV2Details{{
		SwIfIndex: 1, ID: 7, TxRingSz: 256, RxRingSz: 512, HostMtuSize: 1400, HostMacAddr: full.HostMacAddr,
		HostIP4Prefix: full.HostIP4Prefix, HostIP6Prefix: full.HostIP6Prefix, TapFlags: full.TapFlags,
		DevName: "tap7", HostIfName: "client0", HostNamespace: away,
	}})

	equal(t, "same id", retval(second(taps.TapCreateV3(ctx, full))), int32(api.INVALID_INTERFACE))
	bad := &tapv2.TapCreateV3{ID: ^uint32(0), HostIfNameSet: true, HostIfName: "much-too-long-a-name"}
	equal(t, "name too long", retval(second(taps.TapCreateV3(ctx, bad))), int32(api.SYSCALL_ERROR_3))
	tun, err := taps.TapCreateV3(ctx, &tapv2.TapCreateV3{ID: ^uint32(0), TapFlags: tapv2.TAP_API_FLAG_TUN})
	must(t, err)
	if out := sh(t, "ip -n %s link show tun0", ns(home)); !contains(out, "link/none") {
		t.Error(out)
	}
	for _, i := range []tapv2.TapDeleteV2{{SwIfIndex: reply.SwIfIndex}, {SwIfIndex: tun.SwIfIndex}} {
		must(t, second(taps.TapDeleteV2(ctx, &i)))
	}
	for path, name := range map[string]string{home: "tun0", away: "client0"} {
		if out, err := try("ip -n %s link show %s", ns(path), name); err == nil {
			t.Errorf("left behind: %s", out)
		}
	}
}

// The end of the server takes its taps away.
func TestShutdownLeavesNothing(t *testing.T) {
	away := newNetns(t)
	t.Run("server", func(t *testing.T) {
		s := startServer(t, Config{Netns: newNetns(t)})
		must(t, second(tapv2.NewServiceClient(dial(t, s.cfg.Socket)).TapCreateV3(timeout(t), &tapv2.TapCreateV3{
			ID: 1, HostNamespaceSet: true, HostNamespace: away, HostIfNameSet: true, HostIfName: "eth0"})))
		sh(t, "ip -n %s link show eth0", ns(away))
	})
	if out, err := try("ip -n %s link show eth0", ns(away)); err == nil {
		t.Errorf("left behind: %s", out)
	}
}
