package pocketvpp

import (
	"net/netip"
	"slices"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
)

// addressMessages are those about IP addresses of interfaces.
func (s *Server) addressMessages(t *table) {
	request(t, func(_ *call, q *interfaces.SwInterfaceAddDelAddress) (p interfaces.SwInterfaceAddDelAddressReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		p.Retval = int32(s.changeAddress(i, q))
		return p
	})
	request(t, func(_ *call, q *ip.SwInterfaceIP6EnableDisable) (p ip.SwInterfaceIP6EnableDisableReply) {
		i, rv := s.find(q.SwIfIndex)
		switch {
		case i == nil:
			p.Retval = rv
		case q.Enable:
			if i.ip6Locks > 0 {
				p.Retval = int32(api.VALUE_EXIST) // and counted all the same
			}
			i.ip6Locks++
		case i.ip6Locks == 0:
			p.Retval = int32(api.IP6_NOT_ENABLED)
		default:
			i.ip6Locks--
		}
		return p
	})
	dump(t, func(_ *call, q *ip.IPAddressDump, emit func(ip.IPAddressDetails)) {
		i, _ := s.find(q.SwIfIndex)
		if i == nil {
			return
		}
		for _, prefix := range i.addresses {
			if prefix.Addr().Is6() == q.IsIPv6 {
				emit(ip.IPAddressDetails{SwIfIndex: q.SwIfIndex, Prefix: ip_types.AddressWithPrefix{
					Address: apiAddr(prefix.Addr()), Len: uint8(prefix.Bits()),
				}})
			}
		}
	})
}

// changeAddress adds or removes addresses of i. VPP keeps interfaces apart: no two may have overlapping prefixes, and one
// has several addresses of a prefix only with the same length.
func (s *Server) changeAddress(i *iface, q *interfaces.SwInterfaceAddDelAddress) api.VPPApiError {
	prefix := netip.PrefixFrom(addrOf(q.Prefix.Address), int(q.Prefix.Len))
	switch {
	case i.local:
		return api.UNSUPPORTED
	case q.DelAll:
		s.fwd.Lock()
		defer s.fwd.Unlock()
		i.addresses = nil
		return 0
	case !prefix.IsValid():
		return api.ADDRESS_LENGTH_MISMATCH
	}
	at := slices.Index(i.addresses, prefix)
	switch {
	case !q.IsAdd && at < 0:
		return api.ADDRESS_NOT_FOUND_FOR_INTERFACE
	case q.IsAdd && s.conflicts(i, prefix):
		if prefix.Addr().Is6() {
			return api.DUPLICATE_IF_ADDRESS
		}
		return api.ADDRESS_IN_USE
	}
	s.fwd.Lock()
	defer s.fwd.Unlock()
	if q.IsAdd {
		i.addresses = append(slices.Clip(i.addresses), prefix)
	} else {
		i.addresses = slices.Delete(slices.Clone(i.addresses), at, at+1)
	}
	return 0
}

func (s *Server) conflicts(i *iface, prefix netip.Prefix) bool {
	for other := range s.ifaces.values() {
		for _, p := range other.addresses {
			sibling := other == i && p.Bits() == prefix.Bits() && p != prefix
			if p.Overlaps(prefix) && !sibling {
				return true
			}
		}
	}
	return false
}
