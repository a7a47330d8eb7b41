package pocketvpp

import (
	"net/netip"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"

	"highwire/vppapi/stats"
)

// port is what an interface sends packets to. It calls back with those it receives, see device.
type port interface {
	// transmit sends p, whose bytes it may change and which is valid during the call only. It never blocks: an error
	// means that the packet is lost.
	transmit(p *packet) error
	// setAdmin follows the administrative state; link is whether packets can flow then. As in VPP an error is for the log.
	setAdmin(up bool) (link bool, err error)
	// close ends the port and everything it runs, and gives back what it made.
	close()
}

// hardwareAddr is an Ethernet address.
type hardwareAddr = [6]byte

// iface is an interface of VPP. Its index, name, kind and port never change.
type iface struct {
	index   uint32
	name    string
	devType string
	local   bool // local0, which has no port
	eth     bool // packets have an Ethernet header
	linkMTU uint16
	port    port

	tag    string
	rxMode interface_types.RxMode
	// threads serve the receive queues; 0 is the main one.
	threads []uint32
	// ip6Locks counts how often IPv6 was enabled.
	ip6Locks int

	// Guarded by Server.fwd.
	admin     bool
	link      bool
	mac       hardwareAddr
	mtu       [4]uint32 // L3, IP4, IP6, MPLS; zero is "as L3" but for L3
	xconnect  *iface    // where all frames go, in l2 mode
	l3xc      [2]*l3xc  // by ipVersion
	neighbors map[netip.Addr]neighbor
	addresses []netip.Prefix
	learned   learned // has its own lock

	// counters are in the stats segment.
	counters stats.Live
}

// defaultRxMode is what VPP gives an interface of the kind at first.
func (i *iface) defaultRxMode() interface_types.RxMode {
	if i.devType == devTap || i.devType == devMemif {
		return interface_types.RX_MODE_API_POLLING
	}
	return interface_types.RX_MODE_API_INTERRUPT
}

// ethernetMTU is VPP's default L3 MTU of an Ethernet interface.
const ethernetMTU = 9000

// startDevice lets i receive from its device.
func (s *Server) startDevice(i *iface, d *device) {
	d.start(func(p *packet) { s.input(i, p) }, func(err error) {
		s.fwd.RLock()
		defer s.fwd.RUnlock()
		if i.admin { // otherwise it was us who brought it down
			s.log.Warn("interface lost its kernel side", "interface", i.name, "error", err)
		}
	})
}

// addIface gives i an index.
func (s *Server) addIface(i *iface) {
	if i.neighbors == nil {
		i.neighbors = map[netip.Addr]neighbor{}
	}
	if i.threads == nil {
		i.threads = s.spread(1)
	}
	s.fwd.Lock()
	i.index = s.ifaces.add(i)
	i.counters = s.stats.Add(i.index, i.name)
	s.fwd.Unlock()
	s.setPool()
	if !i.local {
		s.event(i, eventAdded)
		if i.link {
			s.event(i, eventLinkUp)
		}
	}
}

// deleteIface takes i out of the packet path, closes its port, and frees its index. As in VPP, l2 cross-connects go in both
// directions; entries of l3xc stay and are without effect.
func (s *Server) deleteIface(i *iface) {
	s.fwd.Lock()
	for other := range s.ifaces.values() {
		if other.xconnect == i {
			other.xconnect = nil
		}
	}
	i.xconnect, i.l3xc, i.admin, i.link = nil, [2]*l3xc{}, false, false
	clear(i.neighbors)
	s.ifaces.remove(i.index)
	s.stats.Remove(i.index)
	s.fwd.Unlock()
	s.setPool()
	i.port.close()
	s.event(i, eventDeleted)
}

// setFlags follows sw_interface_set_flags.
func (s *Server) setFlags(i *iface, up bool) {
	if i.admin == up || i.local {
		return
	}
	if up {
		s.event(i, eventAdminUp)
	} else {
		s.event(i, eventAdminDown)
	}
	s.fwd.Lock()
	i.admin = up
	s.restack(i)
	s.fwd.Unlock()
	link, err := i.port.setAdmin(up)
	if err != nil {
		s.log.Warn("interface state", "interface", i.name, "up", up, "error", err)
	}
	s.setLink(i, link)
}

// setLink records the state of the link and tells of a change.
func (s *Server) setLink(i *iface, up bool) {
	if i.link == up {
		return
	}
	s.fwd.Lock()
	i.link = up
	s.fwd.Unlock()
	if up {
		s.event(i, eventLinkUp)
	} else {
		s.event(i, eventLinkDown)
	}
}

// flags is the state as the API gives it.
func (i *iface) flags() interface_types.IfStatusFlags {
	var f interface_types.IfStatusFlags
	if i.admin {
		f |= interface_types.IF_STATUS_API_FLAG_ADMIN_UP
	}
	if i.link {
		f |= interface_types.IF_STATUS_API_FLAG_LINK_UP
	}
	return f
}

func (i *iface) details() interfaces.SwInterfaceDetails {
	return interfaces.SwInterfaceDetails{
		SwIfIndex:        interface_types.InterfaceIndex(i.index),
		SupSwIfIndex:     i.index,
		L2Address:        i.mac,
		Flags:            i.flags(),
		LinkMtu:          i.linkMTU,
		Mtu:              i.mtu[:],
		InterfaceName:    i.name,
		InterfaceDevType: i.devType,
		Tag:              i.tag,
	}
}

// find returns the interface with that index, or the retval that says there is none.
func (s *Server) find(index interface_types.InterfaceIndex) (*iface, int32) {
	if i, ok := s.ifaces.get(uint32(index)); ok {
		return i, 0
	}
	return nil, int32(api.INVALID_SW_IF_INDEX)
}
