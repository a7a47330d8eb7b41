package pocketvpp

import (
	"net/netip"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	"go.fd.io/govpp/binapi/interface_types"
	l3xcapi "go.fd.io/govpp/binapi/l3xc"
)

// l3xcKey finds an entry: as in VPP the table goes by index, not by interface, and outlives interfaces.
type l3xcKey struct {
	index   uint32
	version ipVersion
}

// l3xc is a cross-connect of all unicast packets of one version of IP.
type l3xc struct {
	id    uint32 // in the pool of entries
	key   l3xcKey
	paths []fib_types.FibPath // the last ones given
	next  hop                 // where they lead
	// via is where packets go. VPP does not restack an entry when it is updated, only when something changes about the
	// interface or the neighbour its paths lead to; until then packets go where they went before. Guarded by Server.fwd.
	via hop
}

// hop is where an entry sends packets. Without an interface it drops.
type hop struct {
	out     *iface
	nextHop netip.Addr
}

// l3xcMessages are those of l3xc.api.
func (s *Server) l3xcMessages(t *table) {
	request(t, func(_ *call, q *l3xcapi.L3xcUpdate) (p l3xcapi.L3xcUpdateReply) {
		i, rv := s.find(q.L3xc.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		p.Retval = int32(s.updateL3xc(i, versionOf(q.L3xc.IsIP6), q.L3xc.Paths))
		return p
	})
	request(t, func(_ *call, q *l3xcapi.L3xcDel) (p l3xcapi.L3xcDelReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		key := l3xcKey{i.index, versionOf(q.IsIP6)}
		entry := s.l3xcs[key]
		if entry == nil {
			p.Retval = int32(api.INVALID_VALUE)
			return p
		}
		delete(s.l3xcs, key)
		s.l3xcList.remove(entry.id)
		s.fwd.Lock()
		defer s.fwd.Unlock()
		i.l3xc[key.version] = nil
		return p
	})
	dump(t, func(_ *call, q *l3xcapi.L3xcDump, emit func(l3xcapi.L3xcDetails)) {
		if q.SwIfIndex == anyIndex {
			for entry := range s.l3xcList.values() {
				emit(entry.details())
			}
			return
		}
		for _, version := range []ipVersion{ip4, ip6} {
			if entry := s.l3xcs[l3xcKey{uint32(q.SwIfIndex), version}]; entry != nil {
				emit(entry.details())
			}
		}
	})
}

// updateL3xc makes an entry and puts it on i, or changes the paths of one that is there, which then neither moves
// packets elsewhere nor puts an entry left by a former interface of that index to work.
func (s *Server) updateL3xc(i *iface, version ipVersion, paths []fib_types.FibPath) api.VPPApiError {
	if len(paths) == 0 {
		return api.INVALID_VALUE
	}
	for n := range paths {
		if paths[n].Proto > fib_types.FIB_API_PATH_NH_PROTO_BIER {
			return api.UNSPECIFIED
		}
		if _, rv := s.find(interface_types.InterfaceIndex(paths[n].SwIfIndex)); rv != 0 && paths[n].SwIfIndex != uint32(anyIndex) {
			return api.NO_MATCHING_INTERFACE
		}
		paths[n].Weight = max(paths[n].Weight, 1)
	}
	key := l3xcKey{i.index, version}
	if entry := s.l3xcs[key]; entry != nil {
		entry.paths, entry.next = paths, s.resolve(paths[0])
		return 0
	}
	next := s.resolve(paths[0])
	entry := &l3xc{key: key, paths: paths, next: next, via: next}
	entry.id = s.l3xcList.add(entry)
	s.l3xcs[key] = entry
	s.fwd.Lock()
	defer s.fwd.Unlock()
	i.l3xc[version] = entry
	return 0
}

// restack lets the entries whose paths lead to i follow them. It is called with Server.fwd held.
func (s *Server) restack(i *iface) {
	for _, entry := range s.l3xcs {
		if entry.next.out == i {
			entry.via = entry.next
		}
	}
}

// resolve finds where a path leads; what is no path to a next hop by an interface drops.
func (s *Server) resolve(path fib_types.FibPath) hop {
	out, _ := s.find(interface_types.InterfaceIndex(path.SwIfIndex))
	if out == nil || path.Type != fib_types.FIB_API_PATH_TYPE_NORMAL {
		return hop{}
	}
	return hop{out, pathAddr(path)}
}

// pathAddr is the next hop.
func pathAddr(path fib_types.FibPath) netip.Addr {
	if path.Proto == fib_types.FIB_API_PATH_NH_PROTO_IP6 {
		return netip.AddrFrom16(path.Nh.Address.GetIP6())
	}
	return netip.AddrFrom4(path.Nh.Address.GetIP4())
}

// details leaves is_ip6 unset, as VPP does: the version shows in the paths.
func (e *l3xc) details() l3xcapi.L3xcDetails {
	return l3xcapi.L3xcDetails{L3xc: l3xcapi.L3xc{
		SwIfIndex: interface_types.InterfaceIndex(e.key.index), NPaths: uint8(len(e.paths)), Paths: e.paths,
	}}
}
