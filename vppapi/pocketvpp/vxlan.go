package pocketvpp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/binapi/vxlan"
)

const (
	devVXLAN    = "VXLAN"
	vxlanPort   = 4789
	vxlanHeader = 8
	vxlanFlags  = 0x08 // the VNI is valid (RFC 7348, section 5)
	// Where a tunnel's frames go: to switching, or to routing once add_node_next has made that a way.
	toSwitching, toRouting = 1, 2
)

// vxlanKey is what a received frame is told apart by. Like VPP, IPv6 leaves out our own address.
type vxlanKey struct {
	remote, local netip.Addr
	port          uint16 // ours
	vni           uint32
}

// tunnelKey is the key of a tunnel.
func tunnelKey(remote, local netip.Addr, port uint16, vni uint32) vxlanKey {
	if remote.Is6() {
		local = netip.Addr{}
	}
	return vxlanKey{remote, local, port, vni}
}

// vxlanTunnel is a port that sends frames to another VTEP.
type vxlanTunnel struct {
	s        *Server
	iface    *iface
	instance uint32
	key      vxlanKey
	src, dst netip.AddrPort
	next     uint32
}

// vxlanMessages are those of vxlan.api in their latest versions.
func (s *Server) vxlanMessages(t *table) {
	request(t, func(_ *call, q *vxlan.VxlanAddDelTunnelV3) (p vxlan.VxlanAddDelTunnelV3Reply) {
		i, rv := s.changeVXLAN(q)
		p.Retval, p.SwIfIndex = int32(rv), anyIndex
		if i != nil {
			p.SwIfIndex = interface_types.InterfaceIndex(i.index)
		}
		return p
	})
	request(t, func(_ *call, q *vlib.AddNodeNext) (p vlib.AddNodeNextReply) {
		if q.NodeName != "vxlan4-input" && q.NodeName != "vxlan6-input" || q.NextName != "ethernet-input" {
			p.Retval = int32(api.NO_SUCH_NODE)
			return p
		}
		s.vxlanRoutes = true
		p.NextIndex = toRouting
		return p
	})
	dump(t, func(_ *call, q *vxlan.VxlanTunnelV2Dump, emit func(vxlan.VxlanTunnelV2Details)) {
		for i := range s.ifaces.values() {
			v, ok := i.port.(*vxlanTunnel)
			if ok && (q.SwIfIndex == anyIndex || uint32(q.SwIfIndex) == i.index) {
				emit(vxlan.VxlanTunnelV2Details{
					SwIfIndex: interface_types.InterfaceIndex(i.index), Instance: v.instance, SrcAddress: apiAddr(v.src.Addr()), DstAddress: apiAddr(v.dst.Addr()),
					SrcPort: v.src.Port(), DstPort: v.dst.Port(), McastSwIfIndex: anyIndex, DecapNextIndex: v.next, Vni: v.key.vni,
				})
			}
		}
	})
}

func (s *Server) changeVXLAN(q *vxlan.VxlanAddDelTunnelV3) (*iface, api.VPPApiError) {
	src, dst := addrOf(q.SrcAddress), addrOf(q.DstAddress)
	switch {
	case src.Is4() != dst.Is4(), q.Vni>>24 != 0:
		return nil, api.INVALID_VALUE
	case src == dst:
		return nil, api.SAME_SRC_DST
	case dst.IsMulticast():
		return nil, api.INVALID_SW_IF_INDEX // not done here
	}
	key := tunnelKey(dst, src, cmp.Or(q.SrcPort, vxlanPort), q.Vni)
	old := s.vxlans[key]
	if !q.IsAdd {
		if old == nil {
			return nil, api.NO_SUCH_ENTRY
		}
		s.fwd.Lock()
		delete(s.vxlans, key)
		s.fwd.Unlock()
		s.instances.remove(old.instance)
		s.deleteIface(old.iface)
		return old.iface, 0
	}
	if old != nil {
		return nil, api.TUNNEL_EXIST
	}
	next := q.DecapNextIndex
	switch {
	case next == ^uint32(0):
		next = toSwitching
	case next > toRouting, next == toRouting && !s.vxlanRoutes:
		return nil, api.INVALID_DECAP_NEXT
	}
	v := &vxlanTunnel{s: s, key: key, src: netip.AddrPortFrom(src, key.port), dst: netip.AddrPortFrom(dst, cmp.Or(q.DstPort, vxlanPort)), next: next}
	v.instance = s.instances.add(v)
	v.iface = &iface{
		name: fmt.Sprintf("vxlan_tunnel%d", v.instance), devType: devVXLAN, eth: !q.IsL3, port: v, admin: true, link: true, linkMTU: ethernetMTU,
		mtu: [4]uint32{ethernetMTU}, mac: randomMAC(),
	}
	if q.IsL3 {
		v.iface.linkMTU, v.iface.mac = 0, hardwareAddr{}
	}
	s.addIface(v.iface)
	s.fwd.Lock()
	defer s.fwd.Unlock()
	s.vxlans[key] = v
	s.udp[key.port] = vtep{s}
	return v.iface, 0
}

// vtep takes the frames of all tunnels.
type vtep struct{ s *Server }

func (v vtep) receive(_ *iface, p *packet) error {
	src, dst, err := p.datagram()
	if err != nil {
		return err
	}
	b := p.bytes()
	if len(b) < vxlanHeader || b[0]&vxlanFlags == 0 {
		return errHeader
	}
	v.s.fwd.RLock()
	tunnel := v.s.vxlans[tunnelKey(src.Addr(), dst.Addr(), dst.Port(), binary.BigEndian.Uint32(b[4:])>>8)]
	v.s.fwd.RUnlock()
	if tunnel == nil {
		return errNoTunnel
	}
	p.shift(vxlanHeader)
	p.offload = offload{} // of the outer packet
	v.s.input(tunnel.iface, p)
	return nil
}

func (v *vxlanTunnel) transmit(p *packet) error {
	if err := p.settle(false, false); err != nil {
		return err
	}
	p.shift(-vxlanHeader)
	b := p.bytes()
	binary.BigEndian.PutUint32(b, vxlanFlags<<24)
	binary.BigEndian.PutUint32(b[4:], v.key.vni<<8)
	return v.s.sendUDP(p, v.src, v.dst)
}

func (v *vxlanTunnel) setAdmin(up bool) (bool, error) { return up, nil }
func (v *vxlanTunnel) setMAC(hardwareAddr) error      { return nil }
func (v *vxlanTunnel) close()                         {}
