package pocketvpp

import (
	"os"

	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/binapi/vpe"
)

// sessionMessages are those about the connection itself (memclnt.api) and about the program (vpe.api).
func (s *Server) sessionMessages(t *table) {
	t.declare(&memclnt.SockclntCreate{}) // first: its id is fixed
	t.declare(&memclnt.SockclntCreateReply{})
	request(t, func(_ *call, _ *memclnt.SockclntDelete) memclnt.SockclntDeleteReply {
		return memclnt.SockclntDeleteReply{Response: 1} // 1 is VPP's "done"
	})
	request(t, func(c *call, _ *memclnt.ControlPing) memclnt.ControlPingReply {
		return memclnt.ControlPingReply{ClientIndex: c.client.handle(), VpePID: uint32(os.Getpid())}
	})
	request(t, func(_ *call, _ *memclnt.MemclntKeepalive) memclnt.MemclntKeepaliveReply {
		return memclnt.MemclntKeepaliveReply{}
	})
	request(t, func(*call, *vlib.ShowThreads) (p vlib.ShowThreadsReply) {
		for i, name := range s.threadNames() {
			t := vlib.ThreadData{ID: uint32(i), Name: name, PID: uint32(os.Getpid())}
			if i > 0 {
				t.Type = "workers"
			}
			p.ThreadData = append(p.ThreadData, t)
		}
		return p
	})
	request(t, func(_ *call, _ *vpe.ShowVersion) vpe.ShowVersionReply {
		return vpe.ShowVersionReply{Program: "vpe", Version: Version, BuildDate: s.started.UTC().Format("2006-01-02T15:04:05"), BuildDirectory: "highwire"}
	})
}
