package pocketvpp

import (
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
)

// l2Messages are those of l2.api about cross-connects: one direction a message.
func (s *Server) l2Messages(t *table) {
	request(t, func(_ *call, q *l2.SwInterfaceSetL2Xconnect) (p l2.SwInterfaceSetL2XconnectReply) {
		rx, rv := s.find(q.RxSwIfIndex)
		if rx == nil {
			p.Retval = rv
			return p
		}
		var tx *iface
		if q.Enable {
			if tx, rv = s.find(q.TxSwIfIndex); tx == nil {
				p.Retval = rv
				return p
			}
		}
		s.fwd.Lock()
		defer s.fwd.Unlock()
		rx.xconnect = tx
		return p
	})
	dump(t, func(_ *call, _ *l2.L2XconnectDump, emit func(l2.L2XconnectDetails)) {
		for rx := range s.ifaces.values() {
			if tx := rx.xconnect; tx != nil {
				emit(l2.L2XconnectDetails{
					RxSwIfIndex: interface_types.InterfaceIndex(rx.index),
					TxSwIfIndex: interface_types.InterfaceIndex(tx.index),
				})
			}
		}
	})
}
