package pocketvpp

import (
	"strings"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// anyIndex is the sw_if_index that stands for all interfaces, or for none.
const anyIndex = ^interface_types.InterfaceIndex(0)

// maxTag is the longest tag; VPP cuts what is longer.
const maxTag = 63

// interfaceMessages are those of interface.api that concern every kind of interface.
func (s *Server) interfaceMessages(t *table) {
	dump(t, s.dumpInterfaces)
	dump(t, s.dumpRxPlacement)
	request(t, func(_ *call, q *interfaces.SwInterfaceSetFlags) (p interfaces.SwInterfaceSetFlagsReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
		} else {
			s.setFlags(i, q.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0)
		}
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceSetMtu) (p interfaces.SwInterfaceSetMtuReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		s.fwd.Lock()
		defer s.fwd.Unlock()
		copy(i.mtu[:], q.Mtu)
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceTagAddDel) (p interfaces.SwInterfaceTagAddDelReply) {
		i, rv := s.find(q.SwIfIndex)
		switch {
		case i == nil:
			p.Retval = rv
		case !q.IsAdd:
			i.tag = ""
		case q.Tag == "":
			p.Retval = int32(api.INVALID_VALUE)
		default:
			i.tag = q.Tag[:min(len(q.Tag), maxTag)]
		}
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceSetRxMode) (p interfaces.SwInterfaceSetRxModeReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
		} else if !i.setRxMode(q) {
			p.Retval = int32(api.UNIMPLEMENTED)
		}
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceSetRxPlacement) (p interfaces.SwInterfaceSetRxPlacementReply) {
		i, rv := s.find(q.SwIfIndex)
		switch {
		case i == nil:
			p.Retval = rv
		case !s.setRxPlacement(i, q):
			p.Retval = int32(api.UNIMPLEMENTED)
		}
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceGetMacAddress) (p interfaces.SwInterfaceGetMacAddressReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
		} else {
			p.MacAddress = i.mac
		}
		return p
	})
	request(t, func(_ *call, q *interfaces.SwInterfaceSetMacAddress) (p interfaces.SwInterfaceSetMacAddressReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		setter, ok := i.port.(macSetter)
		if !ok || !i.eth || setter.setMAC(q.MacAddress) != nil {
			p.Retval = int32(api.UNIMPLEMENTED)
			return p
		}
		s.fwd.Lock()
		defer s.fwd.Unlock()
		i.mac = q.MacAddress
		return p
	})
}

// setRxMode records how packets are waited for, which changes nothing here; ok is false for a mode the kind does not have.
func (i *iface) setRxMode(q *interfaces.SwInterfaceSetRxMode) (ok bool) {
	switch {
	case i.queueless():
		return !q.QueueIDValid // there is no queue to change
	case q.QueueIDValid && q.QueueID != 0, q.Mode > interface_types.RX_MODE_API_DEFAULT,
		q.Mode == interface_types.RX_MODE_API_ADAPTIVE && i.devType == devAFPacket:
		return false
	case q.Mode == interface_types.RX_MODE_API_DEFAULT:
		i.rxMode = i.defaultRxMode()
	default:
		i.rxMode = q.Mode
	}
	return true
}

// setRxPlacement records which thread serves a queue; ok is false without such a queue or thread.
func (s *Server) setRxPlacement(i *iface, q *interfaces.SwInterfaceSetRxPlacement) (ok bool) {
	thread := q.WorkerID
	if q.IsMain {
		thread = 0
	} else if s.cfg.Workers > 0 {
		thread++
	}
	if i.queueless() || int(q.QueueID) >= len(i.threads) || thread > uint32(s.cfg.Workers) {
		return false
	}
	i.threads[q.QueueID] = thread
	return true
}

// spread gives n receive queues to the threads in turn.
func (s *Server) spread(n int) []uint32 {
	threads := make([]uint32, max(1, n))
	for q := range threads {
		if s.cfg.Workers > 0 {
			threads[q] = 1 + s.nextWorker%uint32(s.cfg.Workers)
			s.nextWorker++
		}
	}
	return threads
}

// macSetter is a port whose Ethernet address can be changed.
type macSetter interface {
	setMAC(hardwareAddr) error
}

// dumpInterfaces follows sw_interface_dump: an index other than 0 and ~0 asks for that one, unless a name is filtered for;
// the filter matches any part of a name in any case.
func (s *Server) dumpInterfaces(_ *call, q *interfaces.SwInterfaceDump, emit func(interfaces.SwInterfaceDetails)) {
	if !q.NameFilterValid && q.SwIfIndex != anyIndex && q.SwIfIndex != 0 {
		if i, _ := s.find(q.SwIfIndex); i != nil {
			emit(i.details())
		}
		return
	}
	filter := ""
	if q.NameFilterValid {
		filter = strings.ToLower(q.NameFilter)
	}
	for i := range s.ifaces.values() {
		if strings.Contains(strings.ToLower(i.name), filter) {
			emit(i.details())
		}
	}
}

// dumpRxPlacement tells of each queue of each interface.
func (s *Server) dumpRxPlacement(_ *call, q *interfaces.SwInterfaceRxPlacementDump, emit func(interfaces.SwInterfaceRxPlacementDetails)) {
	for i := range s.ifaces.values() {
		if !i.queueless() && (q.SwIfIndex == anyIndex || uint32(q.SwIfIndex) == i.index) {
			for q, thread := range i.threads {
				emit(interfaces.SwInterfaceRxPlacementDetails{SwIfIndex: interface_types.InterfaceIndex(i.index), QueueID: uint32(q), WorkerID: thread, Mode: i.rxMode})
			}
		}
	}
}
