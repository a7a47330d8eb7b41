package pocketvpp

import (
	"errors"
	"io"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	l3xcapi "go.fd.io/govpp/binapi/l3xc"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/core"
)

// retval is the VPP retval that err carries.
func retval(err error) int32 {
	if e := api.VPPApiError(0); errors.As(err, &e) {
		return int32(e)
	}
	if err != nil {
		return 1 // no retval
	}
	return 0
}

func dumpIfaces(t testing.TB, conn *core.Connection, q *interfaces.SwInterfaceDump) map[string]*interfaces.SwInterfaceDetails {
	t.Helper()
	stream, err := interfaces.NewServiceClient(conn).SwInterfaceDump(timeout(t), q)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*interfaces.SwInterfaceDetails{}
	for _, d := range collect(t, stream.Recv) {
		found[d.InterfaceName] = d
	}
	return found
}

// collect reads a dump to its end.
func collect[D any](t testing.TB, recv func() (D, error)) (all []D) {
	t.Helper()
	for {
		d, err := recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
}

func createHost(t testing.TB, conn *core.Connection, name string) interface_types.InterfaceIndex {
	t.Helper()
	reply, err := af_packet.NewServiceClient(conn).AfPacketCreateV3(timeout(t), hostRequest(name))
	if err != nil {
		t.Fatal(err)
	}
	return reply.SwIfIndex
}

func hostRequest(name string) *af_packet.AfPacketCreateV3 {
	return &af_packet.AfPacketCreateV3{
		Mode: af_packet.AF_PACKET_API_MODE_ETHERNET, UseRandomHwAddr: true, HostIfName: name,
		RxFramesPerBlock: 32, TxFramesPerBlock: 32, Flags: af_packet.AF_PACKET_API_FLAG_CKSUM_GSO,
	}
}

const nowhere = interface_types.InterfaceIndex(77)

func TestContractRetvals(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		sh(t, "ip -n %s link add name a type veth peer name b", ns(vpp.netns))
		sh(t, "ip -n %s link add name c type veth peer name d", ns(vpp.netns))
		ctx := timeout(t)
		ifs, hosts := interfaces.NewServiceClient(conn), af_packet.NewServiceClient(conn)
		l2s, l3s, taps := l2.NewServiceClient(conn), l3xcapi.NewServiceClient(conn), tapv2.NewServiceClient(conn)
		ips, neighbors := ip.NewServiceClient(conn), ip_neighbor.NewServiceClient(conn)
		a, c := createHost(t, conn, "a"), createHost(t, conn, "c")
		if a != 1 || c != 2 {
			t.Fatalf("indices %d and %d", a, c)
		}

		again, err := hosts.AfPacketCreateV3(ctx, hostRequest("a"))
		if retval(err) != int32(api.IF_ALREADY_EXISTS) || again.SwIfIndex != a {
			t.Errorf("second create: %v, %+v", err, again)
		}
		address := func(i interface_types.InterfaceIndex, prefix string, add bool) error {
			p, _ := ip_types.ParseAddressWithPrefix(prefix)
			_, err := ifs.SwInterfaceAddDelAddress(ctx, &interfaces.SwInterfaceAddDelAddress{SwIfIndex: i, IsAdd: add, Prefix: p})
			return err
		}
		neighbor := func(i interface_types.InterfaceIndex, addr string, mac byte, flags ip_neighbor.IPNeighborFlags, add bool) error {
			parsed, _ := ip_types.ParseAddress(addr)
			_, err := neighbors.IPNeighborAddDel(ctx, &ip_neighbor.IPNeighborAddDel{IsAdd: add, Neighbor: ip_neighbor.IPNeighbor{
				SwIfIndex: i, Flags: flags, MacAddress: [6]byte{2, 0, 0, 0, 0, mac}, IPAddress: parsed}})
			return err
		}
		cross := func(i interface_types.InterfaceIndex, paths ...fib_types.FibPath) error {
			_, err := l3s.L3xcUpdate(ctx, &l3xcapi.L3xcUpdate{L3xc: l3xcapi.L3xc{SwIfIndex: i, NPaths: uint8(len(paths)), Paths: paths}})
			return err
		}
		uncross := func(i interface_types.InterfaceIndex, is6 bool) error {
			_, err := l3s.L3xcDel(ctx, &l3xcapi.L3xcDel{SwIfIndex: i, IsIP6: is6})
			return err
		}
		const static = ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC
		for _, step := range []struct {
			name string
			err  error
			want int32
		}{
			{"flags", second(ifs.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: nowhere})), -2},
			{"flags of local0", second(ifs.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{Flags: 1})), 0},
			{"mtu", second(ifs.SwInterfaceSetMtu(ctx, &interfaces.SwInterfaceSetMtu{SwIfIndex: nowhere, Mtu: make([]uint32, 4)})), -2},
			{"tag", second(ifs.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{SwIfIndex: nowhere, IsAdd: true, Tag: "x"})), -2},
			{"empty tag", second(ifs.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{SwIfIndex: a, IsAdd: true})), -7},
			{"tag away", second(ifs.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{SwIfIndex: a})), 0},
			{"rx mode", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{SwIfIndex: nowhere, Mode: 1})), -2},
			{"rx mode of local0", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{Mode: 1})), 0},
			{"rx mode unknown", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{SwIfIndex: a})), 0},
			{"rx mode default", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{SwIfIndex: a, Mode: 4})), 0},
			{"rx mode of a queue", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{SwIfIndex: a, Mode: 1, QueueIDValid: true, QueueID: 3})), -9},
			{"rx mode adaptive", second(ifs.SwInterfaceSetRxMode(ctx, &interfaces.SwInterfaceSetRxMode{SwIfIndex: a, Mode: 3})), -9},
			{"rx placement", second(ifs.SwInterfaceSetRxPlacement(ctx, &interfaces.SwInterfaceSetRxPlacement{SwIfIndex: nowhere})), -2},
			{"rx placement of local0", second(ifs.SwInterfaceSetRxPlacement(ctx, &interfaces.SwInterfaceSetRxPlacement{})), -9},
			{"rx placement without workers", second(ifs.SwInterfaceSetRxPlacement(ctx, &interfaces.SwInterfaceSetRxPlacement{SwIfIndex: a})), 0},
			{"rx placement on no worker", second(ifs.SwInterfaceSetRxPlacement(ctx, &interfaces.SwInterfaceSetRxPlacement{SwIfIndex: a, WorkerID: 1})), -9},
			{"rx placement of no queue", second(ifs.SwInterfaceSetRxPlacement(ctx, &interfaces.SwInterfaceSetRxPlacement{SwIfIndex: a, QueueID: 7})), -9},
			{"mac", second(ifs.SwInterfaceGetMacAddress(ctx, &interfaces.SwInterfaceGetMacAddress{SwIfIndex: nowhere})), -2},
			{"mac of local0", second(ifs.SwInterfaceGetMacAddress(ctx, &interfaces.SwInterfaceGetMacAddress{})), 0},
			{"set mac", second(ifs.SwInterfaceSetMacAddress(ctx, &interfaces.SwInterfaceSetMacAddress{SwIfIndex: a, MacAddress: [6]byte{2, 1, 1, 1, 1, 1}})), 0},
			{"set mac of local0", second(ifs.SwInterfaceSetMacAddress(ctx, &interfaces.SwInterfaceSetMacAddress{MacAddress: [6]byte{2, 1, 1, 1, 1, 1}})), -9},
			{"host interface missing", second(hosts.AfPacketCreateV3(ctx, hostRequest("missing"))), -71},
			{"host interface in no mode", second(hosts.AfPacketCreateV3(ctx, &af_packet.AfPacketCreateV3{HostIfName: "b"})), -7},
			{"host interface delete", second(hosts.AfPacketDelete(ctx, &af_packet.AfPacketDelete{HostIfName: "b"})), -11},
			{"tap delete", second(taps.TapDeleteV2(ctx, &tapv2.TapDeleteV2{SwIfIndex: nowhere})), -2},
			{"tap delete of another kind", second(taps.TapDeleteV2(ctx, &tapv2.TapDeleteV2{SwIfIndex: a})), -2},
			{"tap in a namespace that is not", second(taps.TapCreateV3(ctx, &tapv2.TapCreateV3{ID: 9, HostNamespaceSet: true, HostNamespace: "missing"})), -12},
			{"l2 from", second(l2s.SwInterfaceSetL2Xconnect(ctx, &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: nowhere, TxSwIfIndex: a, Enable: true})), -2},
			{"l2 to", second(l2s.SwInterfaceSetL2Xconnect(ctx, &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: a, TxSwIfIndex: nowhere, Enable: true})), -2},
			{"l2 off", second(l2s.SwInterfaceSetL2Xconnect(ctx, &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: a, TxSwIfIndex: nowhere})), 0},
			{"l3 from", cross(nowhere, path(c, "10.0.0.2")), -2},
			{"l3 without paths", cross(a), -7},
			{"l3 to", cross(a, path(nowhere, "10.0.0.2")), -54},
			{"l3 none to delete", uncross(a, false), -7},
			{"l3", cross(a, path(c, "10.0.0.2")), 0},
			{"l3 again", cross(a, path(c, "10.0.0.3")), 0},
			{"l3 the other version", uncross(a, true), -7},
			{"l3 delete", uncross(a, false), 0},
			{"neighbor", neighbor(nowhere, "10.0.0.2", 1, static, true), -2},
			{"neighbor none to delete", neighbor(a, "10.0.0.2", 1, static, false), -6},
			{"neighbor static", neighbor(a, "10.0.0.2", 1, static, true), 0},
			{"neighbor static again", neighbor(a, "10.0.0.2", 1, static, true), 0},
			{"neighbor dynamic over static", neighbor(a, "10.0.0.2", 2, 0, true), -2},
			{"neighbor dynamic the same", neighbor(a, "10.0.0.2", 1, 0, true), 0},
			{"neighbor moves", neighbor(a, "10.0.0.2", 3, static, true), 0},
			{"neighbor delete", neighbor(a, "10.0.0.2", 0, 0, false), 0},
			{"address", address(nowhere, "10.0.0.1/24", true), -2},
			{"address of local0", address(0, "10.0.0.1/24", true), -126},
			{"address none to delete", address(a, "10.0.0.1/24", false), -60},
			{"address add", address(a, "10.0.0.1/24", true), 0},
			{"address again", address(a, "10.0.0.1/24", true), -105},
			{"address sibling", address(a, "10.0.0.5/24", true), 0},
			{"address overlapping", address(c, "10.0.0.9/25", true), -105},
			{"address delete", address(a, "10.0.0.1/24", false), 0},
			{"address6 add", address(a, "2001:db8::1/64", true), 0},
			{"address6 again", address(a, "2001:db8::1/64", true), -127},
			{"address6 delete", address(a, "2001:db8::1/64", false), 0},
			{"address6 enable", second(ips.SwInterfaceIP6EnableDisable(ctx, &ip.SwInterfaceIP6EnableDisable{SwIfIndex: a, Enable: true})), 0},
			{"address6 enable again", second(ips.SwInterfaceIP6EnableDisable(ctx, &ip.SwInterfaceIP6EnableDisable{SwIfIndex: a, Enable: true})), -81},
			{"address6 disable", second(ips.SwInterfaceIP6EnableDisable(ctx, &ip.SwInterfaceIP6EnableDisable{SwIfIndex: a})), 0},
			{"address6 disable again", second(ips.SwInterfaceIP6EnableDisable(ctx, &ip.SwInterfaceIP6EnableDisable{SwIfIndex: a})), 0},
			{"address6 disable once more", second(ips.SwInterfaceIP6EnableDisable(ctx, &ip.SwInterfaceIP6EnableDisable{SwIfIndex: a})), -62},
			{"events", second(ifs.WantInterfaceEvents(ctx, &interfaces.WantInterfaceEvents{EnableDisable: 1})), 0},
			{"events again", second(ifs.WantInterfaceEvents(ctx, &interfaces.WantInterfaceEvents{EnableDisable: 1})), -31},
			{"events off", second(ifs.WantInterfaceEvents(ctx, &interfaces.WantInterfaceEvents{})), 0},
			{"events off again", second(ifs.WantInterfaceEvents(ctx, &interfaces.WantInterfaceEvents{})), -31},
		} {
			if got := retval(step.err); got != step.want {
				t.Errorf("%s: %d, want %d (%v)", step.name, got, step.want, step.err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// path leads to a next hop by an interface.
func path(i interface_types.InterfaceIndex, nextHop string) fib_types.FibPath {
	addr, err := ip_types.ParseAddress(nextHop)
	if err != nil {
		panic(err)
	}
	p := fib_types.FibPath{SwIfIndex: uint32(i), Weight: 1, Nh: fib_types.FibPathNh{Address: addr.Un}}
	if addr.Af == ip_types.ADDRESS_IP6 {
		p.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	return p
}

func TestContractDumps(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		for _, pair := range []string{"name a type veth peer name b", "name c type veth peer name d"} {
			sh(t, "ip -n %s link add %s", ns(vpp.netns), pair)
		}
		ctx := timeout(t)
		ifs, hosts, l2s, l3s := interfaces.NewServiceClient(conn), af_packet.NewServiceClient(conn), l2.NewServiceClient(conn), l3xcapi.NewServiceClient(conn)

		local := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex})["local0"]
		if local == nil || local.InterfaceDevType != "local" || local.SwIfIndex != 0 || local.Flags != 0 || local.LinkMtu != 0 {
			t.Errorf("local0: %+v", local)
		}
		a, c := createHost(t, conn, "a"), createHost(t, conn, "c")
		all := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex})
		got := *all["host-a"]
		if got.L2Address[0] != 2 || got.L2Address[1] != 0xfe {
			t.Errorf("random address %v", got.L2Address)
		}
		want := interfaces.SwInterfaceDetails{
			SwIfIndex: 1, SupSwIfIndex: 1, L2Address: got.L2Address, Flags: interface_types.IF_STATUS_API_FLAG_LINK_UP,
			LinkMtu: 9000, Mtu: []uint32{9000, 0, 0, 0}, InterfaceName: "host-a", InterfaceDevType: "af-packet",
		}
		equal(t, "details", got, want)
		for _, filter := range []struct {
			q    interfaces.SwInterfaceDump
			want int
		}{
			{interfaces.SwInterfaceDump{SwIfIndex: anyIndex}, 3},
			{interfaces.SwInterfaceDump{SwIfIndex: 0}, 3},
			{interfaces.SwInterfaceDump{SwIfIndex: c}, 1},
			{interfaces.SwInterfaceDump{SwIfIndex: nowhere}, 0},
			{interfaces.SwInterfaceDump{SwIfIndex: c, NameFilterValid: true, NameFilter: "ost-A"}, 1},
			{interfaces.SwInterfaceDump{SwIfIndex: anyIndex, NameFilterValid: true, NameFilter: ""}, 3},
		} {
			if n := len(dumpIfaces(t, conn, &filter.q)); n != filter.want {
				t.Errorf("%+v: %d interfaces, want %d", filter.q, n, filter.want)
			}
		}

		tag := "hw:0123456789:0123456789:0123456789:0123456789:0123456789:0123456789"
		must(t, second(ifs.SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: a, Tag: tag})))
		must(t, second(ifs.SwInterfaceSetMtu(ctx, &interfaces.SwInterfaceSetMtu{SwIfIndex: a, Mtu: []uint32{1500, 1400, 0, 0}})))
		must(t, second(ifs.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: a, Flags: 1})))
		d := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: a})["host-a"]
		equal(t, "tag", d.Tag, tag[:63])
		equal(t, "mtu", d.Mtu, []uint32{1500, 1400, 0, 0})
		equal(t, "flags", d.Flags, 3)
		must(t, second(ifs.SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: a})))
		d = dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: a})["host-a"]
		equal(t, "flags", d.Flags, 0)

		placement, err := ifs.SwInterfaceRxPlacementDump(ctx, &interfaces.SwInterfaceRxPlacementDump{SwIfIndex: a})
		must(t, err)
		for _, p := range collect(t, placement.Recv) {
			equal(t, "placement", *p, interfaces.SwInterfaceRxPlacementDetails{SwIfIndex: a, Mode: interface_types.RX_MODE_API_INTERRUPT})
		}
		hostDump, err := hosts.AfPacketDump(ctx, &af_packet.AfPacketDump{})
		must(t, err)
		equal(t, "hosts", values(collect(t, hostDump.Recv)), []af_packet.AfPacketDetails{{SwIfIndex: a, HostIfName: "a"}, {SwIfIndex: c, HostIfName: "c"}})

		for _, q := range []l2.SwInterfaceSetL2Xconnect{{RxSwIfIndex: a, TxSwIfIndex: c, Enable: true}, {RxSwIfIndex: c, TxSwIfIndex: a, Enable: true}} {
			must(t, second(l2s.SwInterfaceSetL2Xconnect(ctx, &q)))
		}
		xconnects := func() []l2.L2XconnectDetails {
			dump, err := l2s.L2XconnectDump(ctx, &l2.L2XconnectDump{})
			must(t, err)
			return values(collect(t, dump.Recv))
		}
		equal(t, "xconnects", xconnects(), []l2.L2XconnectDetails{{RxSwIfIndex: a, TxSwIfIndex: c}, {RxSwIfIndex: c, TxSwIfIndex: a}})

		crosses := func(i interface_types.InterfaceIndex) []l3xcapi.L3xcDetails {
			dump, err := l3s.L3xcDump(ctx, &l3xcapi.L3xcDump{SwIfIndex: i})
			must(t, err)
			return values(collect(t, dump.Recv))
		}
		cross := func(i interface_types.InterfaceIndex, is6 bool, p fib_types.FibPath) {
			must(t, second(l3s.L3xcUpdate(ctx, &l3xcapi.L3xcUpdate{L3xc: l3xcapi.L3xc{SwIfIndex: i, IsIP6: is6, NPaths: 1, Paths: []fib_types.FibPath{p}}})))
		}
		cross(a, true, path(c, "2001:db8::2"))
		cross(a, false, path(c, "10.0.0.2"))
		four := l3xcapi.L3xcDetails{L3xc: l3xcapi.L3xc{SwIfIndex: a, NPaths: 1, Paths: []fib_types.FibPath{path(c, "10.0.0.2")}}}
		six := l3xcapi.L3xcDetails{L3xc: l3xcapi.L3xc{SwIfIndex: a, NPaths: 1, Paths: []fib_types.FibPath{path(c, "2001:db8::2")}}}
		equal(t, "l3xc", crosses(anyIndex), []l3xcapi.L3xcDetails{six, four})
		equal(t, "l3xc of a", crosses(a), []l3xcapi.L3xcDetails{four, six})
		equal(t, "l3xc of c", crosses(c), nil)

		// Deleting one end clears the l2 cross-connect and leaves the l3 ones; the index is reused.
		must(t, second(hosts.AfPacketDelete(ctx, &af_packet.AfPacketDelete{HostIfName: "a"})))
		equal(t, "xconnects", xconnects(), nil)
		equal(t, "l3xc", len(crosses(anyIndex)), 2)
		equal(t, "delete l3xc", retval(second(l3s.L3xcDel(ctx, &l3xcapi.L3xcDel{SwIfIndex: a}))), -2)
		equal(t, "index", createHost(t, conn, "a"), a)
		equal(t, "tag", dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: a})["host-a"].Tag, "")
		cross(a, false, path(c, "10.0.0.2"))
		must(t, second(l3s.L3xcDel(ctx, &l3xcapi.L3xcDel{SwIfIndex: a})))
		must(t, second(l3s.L3xcDel(ctx, &l3xcapi.L3xcDel{SwIfIndex: a, IsIP6: true})))
		equal(t, "l3xc", crosses(anyIndex), nil)

		// The index freed last is given out first.
		must(t, second(hosts.AfPacketDelete(ctx, &af_packet.AfPacketDelete{HostIfName: "c"})))
		must(t, second(hosts.AfPacketDelete(ctx, &af_packet.AfPacketDelete{HostIfName: "a"})))
		equal(t, "reused index", createHost(t, conn, "c"), a)
	})
}

func TestContractNeighborsAndAddresses(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		sh(t, "ip -n %s link add name a type veth peer name b", ns(vpp.netns))
		ctx := timeout(t)
		a := createHost(t, conn, "a")
		for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
			parsed, _ := ip_types.ParseAddress(addr)
			n := ip_neighbor.IPNeighbor{SwIfIndex: a, Flags: ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC, MacAddress: [6]byte{2, 0, 0, 0, 0, 1}, IPAddress: parsed}
			must(t, second(ip_neighbor.NewServiceClient(conn).IPNeighborAddDel(ctx, &ip_neighbor.IPNeighborAddDel{IsAdd: true, Neighbor: n})))
			dump, err := ip_neighbor.NewServiceClient(conn).IPNeighborDump(ctx, &ip_neighbor.IPNeighborDump{SwIfIndex: anyIndex, Af: parsed.Af})
			must(t, err)
			for _, d := range collect(t, dump.Recv) {
				equal(t, "neighbor", d.Neighbor, n)
			}
			prefix := ip_types.AddressWithPrefix{Address: parsed, Len: 24}
			must(t, second(interfaces.NewServiceClient(conn).SwInterfaceAddDelAddress(ctx, &interfaces.SwInterfaceAddDelAddress{SwIfIndex: a, IsAdd: true, Prefix: prefix})))
			addresses, err := ip.NewServiceClient(conn).IPAddressDump(ctx, &ip.IPAddressDump{SwIfIndex: a, IsIPv6: parsed.Af == ip_types.ADDRESS_IP6})
			must(t, err)
			equal(t, "addresses", values(collect(t, addresses.Recv)), []ip.IPAddressDetails{{SwIfIndex: a, Prefix: prefix}})
		}
	})
}

// cli runs a line that is understood.
func cli(t testing.TB, conn *core.Connection, line string) string {
	t.Helper()
	reply, err := vlib.NewServiceClient(conn).CliInband(timeout(t), &vlib.CliInband{Cmd: line})
	must(t, err)
	return reply.Reply
}

func TestContractCLI(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		for _, pair := range []string{"name a type veth peer name b", "name c type veth peer name d"} {
			sh(t, "ip -n %s link add %s", ns(vpp.netns), pair)
		}
		ctx := timeout(t)
		a, c := createHost(t, conn, "a"), createHost(t, conn, "c")
		must(t, second(interfaces.NewServiceClient(conn).SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: a, Flags: 1})))
		must(t, second(l2.NewServiceClient(conn).SwInterfaceSetL2Xconnect(ctx, &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: c, TxSwIfIndex: a, Enable: true})))
		for _, line := range []struct {
			cmd    string
			retval int32
			want   string
		}{
			{"show mode", 0, "l3 local0  \nl3 host-a  \nl2 xconnect host-c host-a\n"},
			{"sh mod", 0, "l3 local0  \nl3 host-a  \nl2 xconnect host-c host-a\n"},
			{"show interface address", 0, "host-a (up):\nhost-c (dn):\n  L2 xconnect host-a\nlocal0 (dn):\n"},
			{"bogus", -1, "unknown input `bogus'\n"},
			{"bogus words", -1, "unknown input `bogus words'\n"},
			{"show bogus", -1, "show: unknown input `bogus'\n"},
		} {
			reply, err := vlib.NewServiceClient(conn).CliInband(ctx, &vlib.CliInband{Cmd: line.cmd})
			equal(t, line.cmd, retval(err), line.retval)
			if reply != nil {
				equal(t, line.cmd, reply.Reply, line.want)
			}
		}
		addr, _ := ip_types.ParseAddress("10.0.0.2")
		must(t, second(ip_neighbor.NewServiceClient(conn).IPNeighborAddDel(ctx, &ip_neighbor.IPNeighborAddDel{IsAdd: true, Neighbor: ip_neighbor.IPNeighbor{
			SwIfIndex: a, Flags: ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC, MacAddress: [6]byte{2, 0, 0, 0, 0, 1}, IPAddress: addr}})))
		for _, line := range []struct{ cmd, want string }{
			{"show interface", "              Name               Idx    State  MTU (L3/IP4/IP6/MPLS)     Counter          Count     "},
			{"show interface", "host-a                            1      up          9000/0/0/0     "},
			{"show hardware-interfaces brief", "              Name                Idx   Link  Hardware"},
			{"show hardware-interfaces brief", "host-a                             1     up   host-a"},
			{"show hardware-interfaces brief", "local0                             0    down  local0"},
			{"show ip neighbor", "     Age                       IP                    Flags      Ethernet              Interface       "},
			{"show ip neighbor", "                10.0.0.2                   S    02:00:00:00:00:01 host-a"},
			{"show interface rx-placement", " node af-packet-input:\n    host-a queue 0 (interrupt)\n    host-c queue 0 (interrupt)\n"},
		} {
			if out := cli(t, conn, line.cmd); !contains(out, line.want) {
				t.Errorf("%s: no line\n%s\nin\n%s", line.cmd, line.want, out)
			}
		}
	})
}
