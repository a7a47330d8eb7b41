package vppapi

import (
	"context"
	"slices"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/l3xc"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/binapi/vxlan"
	"go.fd.io/govpp/binapi/wireguard"
)

// every is the sw_if_index that stands for all interfaces in a dump request.
const every = ^interface_types.InterfaceIndex(0)

// required are the messages without which a VPP is of no use to us. A VPP of another release has other ones, or the same
// with another layout and so another CRC.
func required() []api.Message {
	return []api.Message{
		&memclnt.ControlPing{}, &vlib.CliInband{}, &vlib.ShowThreads{},
		&interfaces.SwInterfaceDump{}, &interfaces.SwInterfaceSetFlags{}, &interfaces.SwInterfaceSetMtu{},
		&interfaces.SwInterfaceTagAddDel{}, &interfaces.SwInterfaceSetRxMode{}, &interfaces.SwInterfaceRxPlacementDump{},
		&interfaces.SwInterfaceSetRxPlacement{}, &interfaces.WantInterfaceEvents{},
		&tapv2.TapCreateV3{}, &tapv2.TapDeleteV2{}, &tapv2.SwInterfaceTapV2Dump{},
		&af_packet.AfPacketCreateV3{}, &af_packet.AfPacketDelete{}, &af_packet.AfPacketDump{},
		&l2.SwInterfaceSetL2Xconnect{}, &l2.L2XconnectDump{},
		&l3xc.L3xcUpdate{}, &l3xc.L3xcDel{}, &l3xc.L3xcDump{},
		&ip_neighbor.IPNeighborAddDel{}, &ip_neighbor.IPNeighborDump{},
	}
}

// Dump reads everything of ours that VPP holds: interfaces with our tag and what is configured on them, and what can only be
// ours though it has no tag. All requests are pipelined. Objects are as far as the dump shows them; [Realized.Adopt] makes them whole.
func (c *Conn) Dump(ctx context.Context) (Realized, error) {
	d := dumped{
		names:   make(map[interface_types.InterfaceIndex]string),
		packets: make(map[interface_types.InterfaceIndex]string),
		taps:    make(map[interface_types.InterfaceIndex]*tapv2.SwInterfaceTapV2Details),
		memifs:  make(map[interface_types.InterfaceIndex]*memif.MemifDetails),
		sockets: make(map[uint32]string),
		tunnels: make(map[interface_types.InterfaceIndex]Object),
		have:    make(Realized),
	}
	requests := []api.Message{
		&interfaces.SwInterfaceDump{SwIfIndex: every}, &af_packet.AfPacketDump{}, &tapv2.SwInterfaceTapV2Dump{SwIfIndex: every},
		&memif.MemifSocketFilenameDump{}, &memif.MemifDump{},
		&vxlan.VxlanTunnelV2Dump{SwIfIndex: every}, &wireguard.WireguardInterfaceDump{SwIfIndex: every}, &wireguard.WireguardPeersDump{PeerIndex: ^uint32(0)},
		&interfaces.SwInterfaceRxPlacementDump{SwIfIndex: every}, &l2.L2XconnectDump{}, &l3xc.L3xcDump{SwIfIndex: every},
		&ip_neighbor.IPNeighborDump{SwIfIndex: every, Af: ip_types.ADDRESS_IP4},
		&ip_neighbor.IPNeighborDump{SwIfIndex: every, Af: ip_types.ADDRESS_IP6},
	}
	// A VPP without a plugin has nothing of its kind.
	requests = slices.DeleteFunc(requests, func(m api.Message) bool { return c.knows(m) != nil })
	var rest []api.Message
	err := c.dump(ctx, func(m api.Message) {
		switch m := m.(type) {
		case *interfaces.SwInterfaceDetails:
			d.interfaces = append(d.interfaces, m)
		case *af_packet.AfPacketDetails:
			d.packets[m.SwIfIndex] = text(m.HostIfName)
		case *tapv2.SwInterfaceTapV2Details:
			d.taps[interface_types.InterfaceIndex(m.SwIfIndex)] = m
		case *memif.MemifDetails:
			d.memifs[m.SwIfIndex] = m
		case *memif.MemifSocketFilenameDetails:
			d.sockets[m.SocketID] = text(m.SocketFilename)
		case *vxlan.VxlanTunnelV2Details:
			d.tunnels[m.SwIfIndex] = vxlanOf(m)
		case *wireguard.WireguardInterfaceDetails:
			d.tunnels[m.Interface.SwIfIndex] = wireguardOf(m)
		default:
			rest = append(rest, m)
		}
	}, requests...)
	if err != nil {
		return nil, err
	}
	for id, file := range d.sockets {
		if ownSocket(id, file) {
			d.add(MemifSocket{File: file, shown: id})
		}
	}
	for _, i := range d.interfaces {
		d.addInterface(i)
	}
	for _, m := range rest {
		d.addSetting(m)
	}
	if requests := d.nodeRequests(); len(requests) > 0 {
		err = c.dump(ctx, d.addSetting, requests...)
	}
	return d.have, err
}

// dumped gathers details until all are there: settings refer to interfaces by index.
type dumped struct {
	interfaces []*interfaces.SwInterfaceDetails
	packets    map[interface_types.InterfaceIndex]string
	taps       map[interface_types.InterfaceIndex]*tapv2.SwInterfaceTapV2Details
	memifs     map[interface_types.InterfaceIndex]*memif.MemifDetails
	sockets    map[uint32]string
	tunnels    map[interface_types.InterfaceIndex]Object // without their names
	names      map[interface_types.InterfaceIndex]string // ends, of interfaces that are ours
	have       Realized
}

func (d *dumped) add(o Object) { d.have[o.Key()] = Entry{Object: o} }

func (d *dumped) addInterface(i *interfaces.SwInterfaceDetails) {
	end, ours := strings.CutPrefix(text(i.Tag), tagPrefix)
	if !ours {
		d.addStray(i)
		return
	}
	var o Object = foreign{end, text(i.InterfaceDevType)}
	if host, ok := d.packets[i.SwIfIndex]; ok {
		o = AFPacket{Name: end, Host: host, MAC: HardwareAddr(i.L2Address)}
	} else if t, ok := d.taps[i.SwIfIndex]; ok {
		o = tapOf(end, i, t)
	}
	if m, ok := d.memifs[i.SwIfIndex]; ok {
		socket := MemifSocket{File: d.sockets[m.SocketID], shown: m.SocketID}
		o = Memif{
			Name: end, Socket: socket, Master: m.Role == memif.MEMIF_ROLE_API_MASTER, L3: m.Mode == memif.MEMIF_MODE_API_IP,
			MAC: HardwareAddr(m.HwAddr), RingSize: m.RingSize, ZeroCopy: m.ZeroCopy,
		}
		d.add(RxMode{Name: end}) // until a queue says more
	}
	if t, ok := d.tunnels[i.SwIfIndex].(named); ok {
		o = t.named(end)
	}
	d.names[i.SwIfIndex] = end
	d.have[o.Key()] = Entry{o, uint32(i.SwIfIndex)}
	d.add(Tag{end})
	if len(i.Mtu) > 0 && i.Mtu[0] != 0 {
		d.add(MTU{end, i.Mtu[0]})
	}
	if i.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0 {
		d.add(Up{end})
	}
}

// named is a tunnel; its details do not tell its owner.
type named interface {
	straying
	named(end string) Object
}

// addStray notes an interface without a tag that can only be ours: an agent that dies between the two flushes leaves one, and
// people take tags away. An af_packet interface or a tap shows it by the name of its kernel interface, a memif by the number
// of its socket. Adopt gives it to whoever wants one there. A tunnel shows nothing, and is ours if somebody wants just that.
func (d *dumped) addStray(i *interfaces.SwInterfaceDetails) {
	if text(i.Tag) != "" {
		return
	}
	t, isTap := d.taps[i.SwIfIndex]
	m, isMemif := d.memifs[i.SwIfIndex]
	tunnel, isTunnel := d.tunnels[i.SwIfIndex].(named)
	var o Object
	switch host := d.packets[i.SwIfIndex]; {
	case OwnHost(host):
		o = AFPacket{Name: strayName(host), Host: host, MAC: HardwareAddr(i.L2Address)}
	case isTap && OwnHost(text(t.HostIfName)):
		o = tapOf(strayName(text(t.HostIfName)), i, t)
	case isMemif && ownSocket(m.SocketID, d.sockets[m.SocketID]):
		socket := MemifSocket{File: d.sockets[m.SocketID], shown: m.SocketID}
		o = Memif{
			Name: strayName(socket.Key().Name), Socket: socket, Master: m.Role == memif.MEMIF_ROLE_API_MASTER, L3: m.Mode == memif.MEMIF_MODE_API_IP,
		}
	case isTunnel:
		o = tunnel.named(strayName(tunnel.stray()))
	default:
		return
	}
	d.have[o.Key()] = Entry{o, uint32(i.SwIfIndex)}
}

func tapOf(end string, i *interfaces.SwInterfaceDetails, t *tapv2.SwInterfaceTapV2Details) Tap {
	return Tap{
		Name: end, Host: text(t.HostIfName), MAC: HardwareAddr(i.L2Address), HostMAC: HardwareAddr(t.HostMacAddr), MTU: t.HostMtuSize,
		L3: t.TapFlags&tapv2.TAP_API_FLAG_TUN != 0, Offload: t.TapFlags&tapv2.TAP_API_FLAG_GSO != 0,
	}
}

// strayName cannot be the name of an end.
func strayName(of string) string { return "?" + of }

func (d *dumped) nameOf(index uint32) (end string, ours bool) {
	end, ours = d.names[interface_types.InterfaceIndex(index)]
	return end, ours
}

func (d *dumped) addSetting(m api.Message) {
	switch m := m.(type) {
	case *interfaces.SwInterfaceRxPlacementDetails:
		if end, ours := d.names[m.SwIfIndex]; ours {
			d.add(RxMode{end, Mode(m.Mode)})
			if m.WorkerID > 0 { // 0 is the main thread here
				d.add(RxPlacement{end, m.QueueID, m.WorkerID - 1})
			}
		}
	case *l2.L2XconnectDetails:
		if from, ours := d.names[m.RxSwIfIndex]; ours {
			d.add(L2XConnect{from, d.names[m.TxSwIfIndex]})
		}
	case *l3xc.L3xcDetails:
		from, ours := d.names[m.L3xc.SwIfIndex]
		if !ours || len(m.L3xc.Paths) == 0 {
			return
		}
		// is_ip6 of the message is never set; the path knows.
		p := m.L3xc.Paths[0]
		d.add(L3XConnect{from, d.names[interface_types.InterfaceIndex(p.SwIfIndex)], address(p.Proto == fib_types.FIB_API_PATH_NH_PROTO_IP6, p.Nh.Address)})
	case *wireguard.WireguardPeersDetails:
		if end, ours := d.names[m.Peer.SwIfIndex]; ours {
			p := wireguardPeerOf(end, m)
			d.have[p.Key()] = Entry{p, m.Peer.PeerIndex}
		}
	case *ip.IPAddressDetails:
		d.addAddress(m)
	case *ip.IPRouteV2Details:
		d.addRoute(m)
	case *ip_neighbor.IPNeighborDetails:
		end, ours := d.names[m.Neighbor.SwIfIndex]
		if ours && m.Neighbor.Flags&ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC != 0 {
			a := m.Neighbor.IPAddress
			d.add(Neighbor{end, address(a.Af == ip_types.ADDRESS_IP6, a.Un), HardwareAddr(m.Neighbor.MacAddress)})
		}
	}
}

// text is a fixed-size string of a message without its padding.
func text(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}
