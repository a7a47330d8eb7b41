package pocketvpp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	l3xcapi "go.fd.io/govpp/binapi/l3xc"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/core"
)

// end is a namespace with an interface eth0 that leads to VPP. Its addresses are 10.0.0.N and 2001:db8::N.
type end struct {
	netns string
	n     int
	index interface_types.InterfaceIndex // of VPP's side
}

func (e end) address(version ipVersion) string {
	return fmt.Sprintf([]string{"10.0.0.%d", "2001:db8::%d"}[version], e.n)
}

func (e end) mac() string { return fmt.Sprintf("02:00:00:00:01:%02x", e.n) }

func (e end) setAddresses(t testing.TB) {
	sh(t, "ip -n %s addr add %s/24 dev eth0", ns(e.netns), e.address(ip4))
	sh(t, "ip -n %s addr add %s/64 dev eth0 nodad", ns(e.netns), e.address(ip6))
	sh(t, "ip -n %s link set eth0 up", ns(e.netns))
}

// hostEnd makes an end on a veth pair; the other side is an af_packet interface.
func hostEnd(t testing.TB, conn *core.Connection, vpp target, n int, flags af_packet.AfPacketFlags) end {
	t.Helper()
	e := end{netns: newNetns(t), n: n}
	sh(t, "ip -n %s link add name v%d type veth peer name eth0 netns %s", ns(vpp.netns), n, ns(e.netns))
	sh(t, "ip -n %s link set eth0 address %s", ns(e.netns), e.mac())
	e.setAddresses(t)
	q := hostRequest(fmt.Sprintf("v%d", n))
	q.Flags = flags
	reply, err := af_packet.NewServiceClient(conn).AfPacketCreateV3(timeout(t), q)
	must(t, err)
	e.index = reply.SwIfIndex
	up(t, conn, e.index)
	return e
}

// tapEnd makes an end on a tap, or a tun.
func tapEnd(t testing.TB, conn *core.Connection, n int, flags tapv2.TapFlags) end {
	t.Helper()
	e := end{netns: newNetns(t), n: n}
	mac, _ := net.ParseMAC(e.mac())
	reply, err := tapv2.NewServiceClient(conn).TapCreateV3(timeout(t), &tapv2.TapCreateV3{
		ID: ^uint32(0), UseRandomMac: true, TapFlags: flags, NumRxQueues: 1, NumTxQueues: 1, Tag: "tagged",
		HostNamespaceSet: true, HostNamespace: e.netns, HostIfNameSet: true, HostIfName: "eth0",
		HostMacAddrSet: true, HostMacAddr: [6]byte(mac), HostMtuSet: true, HostMtuSize: 1500,
	})
	must(t, err)
	e.index = reply.SwIfIndex
	e.setAddresses(t)
	up(t, conn, e.index)
	return e
}

func up(t testing.TB, conn *core.Connection, i interface_types.InterfaceIndex) {
	t.Helper()
	must(t, second(interfaces.NewServiceClient(conn).SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: i, Flags: 1})))
}

// connectL2 joins two ends by frames.
func connectL2(t testing.TB, conn *core.Connection, a, b end) {
	t.Helper()
	for _, q := range []l2.SwInterfaceSetL2Xconnect{{RxSwIfIndex: a.index, TxSwIfIndex: b.index, Enable: true}, {RxSwIfIndex: b.index, TxSwIfIndex: a.index, Enable: true}} {
		must(t, second(l2.NewServiceClient(conn).SwInterfaceSetL2Xconnect(timeout(t), &q)))
	}
}

// connectL3 joins two ends by IP packets; neighbours are set on both sides, for VPP asks and answers nobody.
func connectL3(t testing.TB, conn *core.Connection, a, b end) {
	t.Helper()
	ctx := timeout(t)
	for _, pair := range [][2]end{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		mac, err := interfaces.NewServiceClient(conn).SwInterfaceGetMacAddress(ctx, &interfaces.SwInterfaceGetMacAddress{SwIfIndex: from.index})
		must(t, err)
		for _, version := range []ipVersion{ip4, ip6} {
			addr, _ := ip_types.ParseAddress(to.address(version))
			toMAC, _ := net.ParseMAC(to.mac())
			if isEthernet(t, to) {
				must(t, second(ip_neighbor.NewServiceClient(conn).IPNeighborAddDel(ctx, &ip_neighbor.IPNeighborAddDel{IsAdd: true, Neighbor: ip_neighbor.IPNeighbor{
					SwIfIndex: to.index, Flags: ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC, MacAddress: [6]byte(toMAC), IPAddress: addr}})))
			}
			must(t, second(l3xcapi.NewServiceClient(conn).L3xcUpdate(ctx, &l3xcapi.L3xcUpdate{L3xc: l3xcapi.L3xc{
				SwIfIndex: from.index, IsIP6: version == ip6, NPaths: 1, Paths: []fib_types.FibPath{path(to.index, to.address(version))}}})))
			if isEthernet(t, from) {
				sh(t, "ip -n %s neigh replace %s lladdr %s dev eth0", ns(from.netns), to.address(version), mac.MacAddress)
			}
		}
	}
}

func isEthernet(t testing.TB, e end) bool {
	return strings.Contains(sh(t, "ip -n %s link show eth0", ns(e.netns)), "link/ether")
}

// ping sends some echo requests from a to b, of small and of full size, and returns what ping says.
func ping(t testing.TB, a, b end, version ipVersion) string {
	t.Helper()
	sh(t, "ip netns exec %s ping -n -c 2 -i 0.05 -W 2 -s 1400 %s", ns(a.netns), b.address(version))
	return sh(t, "ip netns exec %s ping -n -c 3 -i 0.05 -W 2 %s", ns(a.netns), b.address(version))
}

func noPing(t testing.TB, a, b end) {
	t.Helper()
	if out, err := try("ip netns exec %s ping -n -c 1 -W 1 %s", ns(a.netns), b.address(ip4)); err == nil {
		t.Errorf("packets pass that should not:\n%s", out)
	}
}

// transfer moves size bytes by TCP from a to b and returns the bits a second. Kernels leave checksums and segments to the
// interface, so this shows whether those are cared for.
func transfer(t testing.TB, a, b end, version ipVersion, size int64) float64 {
	t.Helper()
	var listener net.Listener
	must(t, inNetns(b.netns, func(*netlink.Handle) (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(b.address(version), "7"))
		return err
	}))
	defer func() { _ = listener.Close() }()
	received := make(chan int64, 1)
	go func() {
		var n int64
		if conn, err := listener.Accept(); err == nil {
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			n, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
		received <- n
	}()
	var conn net.Conn
	must(t, inNetns(a.netns, func(*netlink.Handle) (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		return err
	}))
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	start := time.Now()
	_, err := io.CopyN(conn, zeros{}, size)
	_ = conn.Close()
	if n := <-received; n != size || err != nil {
		t.Errorf("%d of %d bytes arrived: %v", n, size, err)
	}
	return float64(size*8) / time.Since(start).Seconds()
}

// tagged sends a frame with a VLAN tag from a to b, by sockets of our own: not every kernel has VLAN interfaces.
func tagged(t testing.TB, a, b end) {
	t.Helper()
	var from, to afPacket
	from.host, to.host = "eth0", "eth0"
	must(t, inNetns(a.netns, from.open))
	must(t, inNetns(b.netns, to.open))
	frame := append([]byte{2, 0, 0, 0, 1, byte(b.n), 2, 0, 0, 0, 1, byte(a.n), 0x81, 0, 0, 5, 0x88, 0xb5}, make([]byte, 60)...)
	arrived := make(chan struct{})
	var once sync.Once
	to.start(func(p *packet) {
		if bytes.Equal(p.bytes(), frame) {
			once.Do(func() { close(arrived) })
		}
	}, func(error) {})
	from.start(func(*packet) {}, func(error) {})
	defer from.close()
	defer to.close()
	p := newPacket()
	must(t, p.received(offloadHeader+copy(p.buf[headroom:], frame)))
	must(t, from.transmit(p))
	select {
	case <-arrived:
	case <-time.After(5 * time.Second):
		t.Error("the tagged frame does not arrive as it was sent")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// echoUDP sends datagrams from a to b and back; only those with a right checksum arrive.
func echoUDP(t testing.TB, a, b end, version ipVersion) {
	t.Helper()
	var server, client net.PacketConn
	must(t, inNetns(b.netns, func(*netlink.Handle) (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(b.address(version), "7"))
		return err
	}))
	defer func() { _ = server.Close() }()
	must(t, inNetns(a.netns, func(*netlink.Handle) (err error) {
		client, err = net.ListenPacket("udp", net.JoinHostPort(a.address(version), "0"))
		return err
	}))
	defer func() { _ = client.Close() }()
	deadline := time.Now().Add(5 * time.Second)
	must(t, server.SetDeadline(deadline))
	must(t, client.SetDeadline(deadline))
	for _, size := range []int{1, 2, 3, 100, 1001, 1400} {
		sent, buf := []byte(strings.Repeat("x", size)), make([]byte, 2000)
		_, err := client.WriteTo(sent, server.LocalAddr())
		must(t, err)
		n, from, err := server.ReadFrom(buf)
		must(t, err)
		_, err = server.WriteTo(buf[:n], from)
		must(t, err)
		n, _, err = client.ReadFrom(buf)
		must(t, err)
		equal(t, "datagram", string(buf[:n]), string(sent))
	}
}

func TestForwardL2(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		a := hostEnd(t, conn, vpp, 1, af_packet.AF_PACKET_API_FLAG_CKSUM_GSO)
		b := hostEnd(t, conn, vpp, 2, af_packet.AF_PACKET_API_FLAG_CKSUM_GSO)
		noPing(t, a, b)
		connectL2(t, conn, a, b)
		for _, version := range []ipVersion{ip4, ip6} {
			if out := ping(t, a, b, version); !strings.Contains(out, "ttl=64") {
				t.Error(out)
			}
			echoUDP(t, a, b, version)
		}
		t.Logf("tcp %.1f Gb/s", transfer(t, a, b, ip4, 256<<20)/1e9)
		tagged(t, a, b)
		if out := cli(t, conn, "show interface"); !contains(out, "rx packets") || !contains(out, "tx bytes") {
			t.Errorf("nothing counted:\n%s", out)
		}

		// An interface that is down neither sends nor receives.
		must(t, second(interfaces.NewServiceClient(conn).SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: b.index})))
		noPing(t, a, b)
		up(t, conn, b.index)
		ping(t, a, b, ip4)
		must(t, second(l2.NewServiceClient(conn).SwInterfaceSetL2Xconnect(timeout(t), &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: a.index, TxSwIfIndex: b.index})))
		noPing(t, a, b)
	})
}

func TestForwardL3(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		a := hostEnd(t, conn, vpp, 1, af_packet.AF_PACKET_API_FLAG_CKSUM_GSO)
		b := hostEnd(t, conn, vpp, 2, af_packet.AF_PACKET_API_FLAG_CKSUM_GSO)
		connectL3(t, conn, a, b)
		for _, version := range []ipVersion{ip4, ip6} {
			if out := ping(t, a, b, version); !strings.Contains(out, "ttl=63") {
				t.Error(out)
			}
			echoUDP(t, a, b, version)
		}
		t.Logf("tcp %.1f Gb/s", transfer(t, a, b, ip4, 256<<20)/1e9)
		t.Logf("tcp %.1f Gb/s", transfer(t, a, b, ip6, 256<<20)/1e9)
		if out, err := try("ip netns exec %s ping -n -c 1 -W 1 -t 1 %s", ns(a.netns), b.address(ip4)); err == nil {
			t.Errorf("a packet of TTL 1 passes:\n%s", out)
		}

		// A new path of an entry takes effect only once something happens to where it leads.
		c := hostEnd(t, conn, vpp, 3, af_packet.AF_PACKET_API_FLAG_CKSUM_GSO)
		must(t, second(l3xcapi.NewServiceClient(conn).L3xcUpdate(timeout(t), &l3xcapi.L3xcUpdate{L3xc: l3xcapi.L3xc{
			SwIfIndex: a.index, NPaths: 1, Paths: []fib_types.FibPath{path(c.index, c.address(ip4))}}})))
		ping(t, a, b, ip4)
		addr, _ := ip_types.ParseAddress(c.address(ip4))
		must(t, second(ip_neighbor.NewServiceClient(conn).IPNeighborAddDel(timeout(t), &ip_neighbor.IPNeighborAddDel{IsAdd: true, Neighbor: ip_neighbor.IPNeighbor{
			SwIfIndex: c.index, Flags: ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC, MacAddress: [6]byte{2, 0, 0, 0, 1, 3}, IPAddress: addr}})))
		noPing(t, a, b)

		// A frame for somebody else is not taken.
		sh(t, "ip -n %s neigh replace %s lladdr 02:00:00:00:00:99 dev eth0", ns(b.netns), a.address(ip4))
		noPing(t, b, a)
	})
}

// Taps need no vhost-net here, which VPP cannot do without; so they are tried on the stand-in alone.
func TestForwardTaps(t *testing.T) {
	const gso = tapv2.TAP_API_FLAG_GSO
	for _, c := range []struct {
		name  string
		flags tapv2.TapFlags
		l3    bool
	}{
		{"tap", 0, false}, {"tap gso", gso, false}, {"tap csum", tapv2.TAP_API_FLAG_CSUM_OFFLOAD, false},
		{"tap l3", gso, true}, {"tun", tapv2.TAP_API_FLAG_TUN, true}, {"tun gso", tapv2.TAP_API_FLAG_TUN | gso, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, Config{Netns: newNetns(t)})
			conn := dial(t, s.cfg.Socket)
			a, b := tapEnd(t, conn, 1, c.flags), tapEnd(t, conn, 2, c.flags)
			if c.l3 {
				connectL3(t, conn, a, b)
			} else {
				connectL2(t, conn, a, b)
			}
			for _, version := range []ipVersion{ip4, ip6} {
				ping(t, a, b, version)
				echoUDP(t, a, b, version)
			}
			t.Logf("tcp %.1f Gb/s", transfer(t, a, b, ip4, 64<<20)/1e9)
			sh(t, "ip -n %s link set dev eth0 down", ns(b.netns))
			sh(t, "ip -n %s link set dev eth0 up", ns(b.netns))
			if !c.l3 { // the kernel forgot the neighbours
				ping(t, a, b, ip4)
			}
		})
	}
}

// Ends of different kinds: what one leaves to hardware the other may not take.
func TestForwardMixed(t *testing.T) {
	const cksumGSO, gso, csum, tun = af_packet.AF_PACKET_API_FLAG_CKSUM_GSO, tapv2.TAP_API_FLAG_GSO, tapv2.TAP_API_FLAG_CSUM_OFFLOAD, tapv2.TAP_API_FLAG_TUN
	for _, c := range []struct {
		name string
		host af_packet.AfPacketFlags
		tap  tapv2.TapFlags
		tcp  bool // gso packets from the host interface pass
	}{
		{"offloads", cksumGSO, gso, true}, {"tun", cksumGSO, gso | tun, true},
		{"checksum in software", cksumGSO, 0, false}, {"no offloads", 0, 0, false}, {"host without", 0, csum, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			netns := newNetns(t)
			s := startServer(t, Config{Netns: netns})
			conn := dial(t, s.cfg.Socket)
			a, b := hostEnd(t, conn, target{netns: netns}, 1, c.host), tapEnd(t, conn, 2, c.tap)
			if c.tap&tun != 0 {
				connectL3(t, conn, a, b)
			} else {
				connectL2(t, conn, a, b)
			}
			for _, version := range []ipVersion{ip4, ip6} {
				ping(t, a, b, version)
				echoUDP(t, a, b, version)
			}
			transfer(t, b, a, ip4, 1<<20)
			if c.tcp {
				transfer(t, a, b, ip4, 16<<20)
			}
		})
	}
}

// Interfaces come and go under load without harm to those that stay.
func TestDeleteUnderLoad(t *testing.T) {
	netns := newNetns(t)
	s := startServer(t, Config{Netns: netns})
	conn := dial(t, s.cfg.Socket)
	a, b := hostEnd(t, conn, target{netns: netns}, 1, 0), hostEnd(t, conn, target{netns: netns}, 2, 0)
	var sender net.PacketConn
	must(t, inNetns(a.netns, func(*netlink.Handle) (err error) {
		sender, err = net.ListenPacket("udp", net.JoinHostPort(a.address(ip4), "0"))
		return err
	}))
	sh(t, "ip -n %s neigh replace %s lladdr %s dev eth0", ns(a.netns), b.address(ip4), b.mac())
	to := &net.UDPAddr{IP: net.ParseIP(b.address(ip4)), Port: 9}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := sender.WriteTo(make([]byte, 100), to); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
	for range 10 {
		connectL2(t, conn, a, b)
		must(t, second(af_packet.NewServiceClient(conn).AfPacketDelete(timeout(t), &af_packet.AfPacketDelete{HostIfName: "v2"})))
		b.index = createHost(t, conn, "v2")
		up(t, conn, b.index)
	}
	_ = sender.Close()
	wg.Wait()
	connectL2(t, conn, a, b)
	ping(t, a, b, ip4)
}
