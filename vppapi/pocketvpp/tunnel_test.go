package pocketvpp

import (
	"crypto/ecdh"
	"net/netip"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/vxlan"
	"go.fd.io/govpp/binapi/wireguard"
)

func tunnelRequest(src, dst string, vni uint32, add bool) *vxlan.VxlanAddDelTunnelV3 {
	return &vxlan.VxlanAddDelTunnelV3{
		IsAdd: add, Instance: ^uint32(0), SrcAddress: apiAddr(netip.MustParseAddr(src)), DstAddress: apiAddr(netip.MustParseAddr(dst)),
		SrcPort: vxlanPort, DstPort: vxlanPort, McastSwIfIndex: anyIndex, DecapNextIndex: ^uint32(0), Vni: vni,
	}
}

// TestContractTunnels: what VPP answers about tunnels and routes, and how it shows them.
func TestContractTunnels(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		sh(t, "ip -n %s link add name a type veth peer name b", ns(vpp.netns))
		ctx := timeout(t)
		vx, wg, routes := vxlan.NewServiceClient(conn), wireguard.NewServiceClient(conn), ip.NewServiceClient(conn)
		host := createHost(t, conn, "a")
		_, err := interfaces.NewServiceClient(conn).SwInterfaceAddDelAddress(ctx, &interfaces.SwInterfaceAddDelAddress{SwIfIndex: host, IsAdd: true,
			Prefix: ip_types.AddressWithPrefix{Address: apiAddr(netip.MustParseAddr("192.0.2.1")), Len: 24}})
		must(t, err)
		made, err := vx.VxlanAddDelTunnelV3(ctx, tunnelRequest("192.0.2.1", "192.0.2.2", 7, true))
		must(t, err)
		key := func(b byte) []byte { k := make([]byte, 32); k[0], k[31] = b&248, 64; return k }
		guard, err := wg.WireguardInterfaceCreate(ctx, &wireguard.WireguardInterfaceCreate{Interface: wireguard.WireguardInterface{
			UserInstance: ^uint32(0), PrivateKey: key(8), PublicKey: make([]byte, 32), Port: 61440, SrcIP: apiAddr(netip.MustParseAddr("192.0.2.1")),
		}})
		must(t, err)
		peer := func(i interface_types.InterfaceIndex, k byte, allowed ...ip_types.Prefix) error {
			public := publicOf(t, key(k))
			_, err := wg.WireguardPeerAdd(ctx, &wireguard.WireguardPeerAdd{Peer: wireguard.WireguardPeer{
				PublicKey: public, Port: 61440, PersistentKeepalive: 10, Endpoint: apiAddr(netip.MustParseAddr("192.0.2.2")), SwIfIndex: i, AllowedIps: allowed,
			}})
			return err
		}
		path := func(i interface_types.InterfaceIndex, via string) fib_types.FibPath {
			a := netip.MustParseAddr(via)
			p := fib_types.FibPath{SwIfIndex: uint32(i), Weight: 1, Nh: fib_types.FibPathNh{Address: apiAddr(a).Un}}
			if a.Is6() {
				p.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
			}
			return p
		}
		route := func(prefix string, add bool, paths ...fib_types.FibPath) error {
			p := netip.MustParsePrefix(prefix)
			_, err := routes.IPRouteAddDel(ctx, &ip.IPRouteAddDel{IsAdd: add, Route: ip.IPRoute{
				Prefix: ip_types.Prefix{Address: apiAddr(p.Addr()), Len: uint8(p.Bits())}, NPaths: uint8(len(paths)), Paths: paths,
			}})
			return err
		}
		all := ip_types.Prefix{Address: apiAddr(netip.IPv4Unspecified())}
		for _, step := range []struct {
			name string
			err  error
			want api.VPPApiError
		}{
			{"vxlan again", second(vx.VxlanAddDelTunnelV3(ctx, tunnelRequest("192.0.2.1", "192.0.2.2", 7, true))), api.TUNNEL_EXIST},
			{"vxlan to itself", second(vx.VxlanAddDelTunnelV3(ctx, tunnelRequest("192.0.2.1", "192.0.2.1", 8, true))), api.SAME_SRC_DST},
			{"vxlan of two families", second(vx.VxlanAddDelTunnelV3(ctx, tunnelRequest("192.0.2.1", "2001:db8::1", 8, true))), api.INVALID_VALUE},
			{"vxlan that is not there", second(vx.VxlanAddDelTunnelV3(ctx, tunnelRequest("192.0.2.1", "192.0.2.2", 9, false))), api.NO_SUCH_ENTRY},
			{"wireguard delete", second(wg.WireguardInterfaceDelete(ctx, &wireguard.WireguardInterfaceDelete{SwIfIndex: nowhere})), api.INVALID_SW_IF_INDEX},
			{"wireguard delete of another kind", second(wg.WireguardInterfaceDelete(ctx, &wireguard.WireguardInterfaceDelete{SwIfIndex: host})), api.INVALID_VALUE},
			{"peer of nothing", peer(nowhere, 16, all), api.INVALID_SW_IF_INDEX},
			{"peer of another kind", peer(host, 16, all), api.INVALID_SW_IF_INDEX},
			{"peer that may nothing", peer(guard.SwIfIndex, 16), api.INVALID_VALUE},
			{"peer", peer(guard.SwIfIndex, 16, all), 0},
			{"peer again", peer(guard.SwIfIndex, 16, all), api.ENTRY_ALREADY_EXISTS},
			{"peer that is not there", second(wg.WireguardPeerRemove(ctx, &wireguard.WireguardPeerRemove{PeerIndex: 77})), api.NO_SUCH_ENTRY},
			{"route", route("198.51.100.0/24", true, path(host, "192.0.2.254")), 0},
			{"route again", route("198.51.100.0/24", true, path(host, "192.0.2.253")), 0},
			{"route away", route("203.0.113.0/24", false), 0},
		} {
			if got := retval(step.err); got != int32(step.want) {
				t.Errorf("%s: %d, want %d", step.name, got, step.want)
			}
		}
		found := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex})
		v, w := found["vxlan_tunnel0"], found["wg0"]
		if v == nil || w == nil || v.SwIfIndex != made.SwIfIndex || w.SwIfIndex != guard.SwIfIndex {
			t.Fatalf("%+v", found)
		}
		equal(t, "vxlan", []any{v.InterfaceDevType, v.Flags, v.Mtu, v.LinkMtu}, []any{"VXLAN", interface_types.IfStatusFlags(3), []uint32{9000, 0, 0, 0}, uint16(9000)})
		equal(t, "wireguard", []any{w.InterfaceDevType, w.Flags, w.Mtu, w.LinkMtu}, []any{"Wireguard Tunnel", interface_types.IfStatusFlags(0), []uint32{0, 0, 0, 0}, uint16(0)})
	})
}

func publicOf(t *testing.T, private []byte) []byte {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(private)
	must(t, err)
	return key.PublicKey().Bytes()
}
