package pocketvpp

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/ip_types"
)

// neighbor is the Ethernet address behind an IP address on an interface.
type neighbor struct {
	mac   hardwareAddr
	flags ip_neighbor.IPNeighborFlags
	since time.Time // the last time it was set
}

// errStaticNeighbor is what VPP answers where a dynamic neighbour would change a static one.
const errStaticNeighbor = -2

// neighborMessages are those of ip_neighbor.api. Neighbours come from the API only: nothing is learned.
func (s *Server) neighborMessages(t *table) {
	request(t, func(_ *call, q *ip_neighbor.IPNeighborAddDel) (p ip_neighbor.IPNeighborAddDelReply) {
		p.StatsIndex = ^uint32(0)
		i, rv := s.find(q.Neighbor.SwIfIndex)
		switch addr := addrOf(q.Neighbor.IPAddress); {
		case i == nil:
			p.Retval = rv
		case q.IsAdd:
			p.Retval = s.addNeighbor(i, addr, q.Neighbor)
		default:
			p.Retval = s.removeNeighbor(i, addr)
		}
		return p
	})
	dump(t, func(_ *call, q *ip_neighbor.IPNeighborDump, emit func(ip_neighbor.IPNeighborDetails)) {
		for i := range s.ifaces.values() {
			if q.SwIfIndex != anyIndex && uint32(q.SwIfIndex) != i.index {
				continue
			}
			for _, addr := range slices.SortedFunc(maps.Keys(i.neighbors), netip.Addr.Compare) {
				if addr.Is6() == (q.Af == ip_types.ADDRESS_IP6) {
					n := i.neighbors[addr]
					emit(ip_neighbor.IPNeighborDetails{Age: time.Since(n.since).Seconds(), Neighbor: ip_neighbor.IPNeighbor{
						SwIfIndex: interface_types.InterfaceIndex(i.index), Flags: n.flags, MacAddress: n.mac, IPAddress: apiAddr(addr),
					}})
				}
			}
		}
	})
}

func (s *Server) addNeighbor(i *iface, addr netip.Addr, q ip_neighbor.IPNeighbor) int32 {
	const static = ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC
	old, exists := i.neighbors[addr]
	n := neighbor{q.MacAddress, q.Flags, time.Now()}
	if exists && old.flags&static != 0 && n.flags&static == 0 {
		if old.mac == n.mac {
			return 0
		}
		return errStaticNeighbor
	}
	s.fwd.Lock()
	defer s.fwd.Unlock()
	i.neighbors[addr] = n
	s.restack(i)
	return 0
}

func (s *Server) removeNeighbor(i *iface, addr netip.Addr) int32 {
	if _, ok := i.neighbors[addr]; !ok {
		return int32(api.NO_SUCH_ENTRY)
	}
	s.fwd.Lock()
	defer s.fwd.Unlock()
	delete(i.neighbors, addr)
	return 0
}

// addrOf and apiAddr convert addresses between the API and Go.
func addrOf(a ip_types.Address) netip.Addr {
	if a.Af == ip_types.ADDRESS_IP6 {
		return netip.AddrFrom16(a.Un.GetIP6())
	}
	return netip.AddrFrom4(a.Un.GetIP4())
}

func apiAddr(a netip.Addr) ip_types.Address {
	if a.Is4() {
		return ip_types.Address{Af: ip_types.ADDRESS_IP4, Un: ip_types.AddressUnionIP4(a.As4())}
	}
	return ip_types.Address{Af: ip_types.ADDRESS_IP6, Un: ip_types.AddressUnionIP6(a.As16())}
}
