package pocketvpp

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	memifapi "go.fd.io/govpp/binapi/memif"

	"highwire/vppapi/memif"
)

// devMemif is the interface_dev_type of memifs.
const devMemif = "memif"

const (
	defaultMemifRing   = 1024
	defaultMemifBuffer = 2048
	// memifFileShown is how much of a file name a dump has room for.
	memifFileShown = 107
)

// memifSocket is a control socket under its number. It listens, or is dialled, while interfaces use it.
type memifSocket struct {
	id       uint32
	file     string
	master   bool                  // of all its interfaces
	ports    map[uint32]*memifPort // by the interfaces' own ids
	listener *memifListener        // while masters use it
}

// memifMessages are those of memif.api in their latest versions.
func (s *Server) memifMessages(t *table) {
	s.memifs[0] = &memifSocket{file: filepath.Join(filepath.Dir(s.cfg.Socket), "memif.sock"), ports: map[uint32]*memifPort{}}
	request(t, func(_ *call, q *memifapi.MemifSocketFilenameAddDelV2) (p memifapi.MemifSocketFilenameAddDelV2Reply) {
		p.SocketID = q.SocketID
		if q.IsAdd && q.SocketID == ^uint32(0) {
			for s.memifs[p.SocketID] != nil || p.SocketID == ^uint32(0) {
				p.SocketID = rand.Uint32()
			}
		}
		if q.IsAdd {
			p.Retval = int32(s.addMemifSocket(p.SocketID, q.SocketFilename))
		} else {
			p.Retval = int32(s.removeMemifSocket(p.SocketID))
		}
		return p
	})
	dump(t, func(_ *call, _ *memifapi.MemifSocketFilenameDump, emit func(memifapi.MemifSocketFilenameDetails)) {
		for _, id := range slices.Sorted(maps.Keys(s.memifs)) {
			file := s.memifs[id].file
			emit(memifapi.MemifSocketFilenameDetails{SocketID: id, SocketFilename: file[:min(len(file), memifFileShown)]})
		}
	})
	request(t, func(_ *call, q *memifapi.MemifCreateV2) (p memifapi.MemifCreateV2Reply) {
		i, rv := s.createMemif(q)
		p.Retval = int32(rv)
		if i != nil {
			p.SwIfIndex = interface_types.InterfaceIndex(i.index)
		}
		return p
	})
	request(t, func(_ *call, q *memifapi.MemifDelete) (p memifapi.MemifDeleteReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
		} else if _, ok := i.port.(*memifPort); !ok {
			p.Retval = int32(api.INVALID_SW_IF_INDEX)
		} else {
			s.deleteIface(i)
		}
		return p
	})
	dump(t, func(_ *call, _ *memifapi.MemifDump, emit func(memifapi.MemifDetails)) {
		for i := range s.ifaces.values() {
			if port, ok := i.port.(*memifPort); ok {
				emit(port.details())
			}
		}
	})
}

func (s *Server) addMemifSocket(id uint32, file string) api.VPPApiError {
	switch {
	case id == 0, file == "":
		return api.INVALID_ARGUMENT
	case strings.HasPrefix(file, "/"), strings.HasPrefix(file, "abstract:"):
	default: // below the runtime directory, '@' or not
		file = filepath.Join(filepath.Dir(s.cfg.Socket), file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			s.log.Warn("memif", "socket", file, "error", err)
			return api.SYSCALL_ERROR_1
		}
	}
	if old, ok := s.memifs[id]; ok {
		if old.file != file {
			return api.ENTRY_ALREADY_EXISTS
		}
		return 0
	}
	s.memifs[id] = &memifSocket{id: id, file: file, ports: map[uint32]*memifPort{}}
	return 0
}

func (s *Server) removeMemifSocket(id uint32) api.VPPApiError {
	socket, ok := s.memifs[id]
	switch {
	case id == 0 || !ok:
		return api.INVALID_ARGUMENT
	case len(socket.ports) > 0:
		return api.UNEXPECTED_INTF_STATE
	}
	delete(s.memifs, id)
	return 0
}

// createMemif makes an interface. VPP ends where mode is neither Ethernet nor IP; here it is refused.
func (s *Server) createMemif(q *memifapi.MemifCreateV2) (*iface, api.VPPApiError) {
	socket, ok := s.memifs[q.SocketID]
	master := q.Role == memifapi.MEMIF_ROLE_API_MASTER
	ring := cmp.Or(q.RingSize, defaultMemifRing)
	switch {
	case bits.OnesCount32(ring) != 1, !ok:
		return nil, api.INVALID_ARGUMENT
	case len(socket.ports) > 0 && (socket.master != master || socket.ports[q.ID] != nil):
		return nil, api.SUBIF_ALREADY_EXISTS
	case q.Mode > memifapi.MEMIF_MODE_API_IP:
		return nil, api.SYSCALL_ERROR_2
	}
	i := &iface{name: fmt.Sprintf("memif%d/%d", q.SocketID, q.ID), devType: devMemif, eth: q.Mode == memifapi.MEMIF_MODE_API_ETHERNET}
	if i.eth {
		i.linkMTU, i.mtu = ethernetMTU, [4]uint32{ethernetMTU}
		if i.mac = q.HwAddr; i.mac == (hardwareAddr{}) {
			i.mac = randomMAC()
		}
	}
	i.rxMode = i.defaultRxMode()
	port := s.newMemifPort(i, socket, q, int(ring))
	if master && len(socket.ports) == 0 {
		if err := s.listenMemif(socket); err != nil {
			s.log.Warn("memif", "socket", socket.file, "error", err)
			return nil, api.SYSCALL_ERROR_4
		}
	}
	i.port = port
	socket.master = master
	socket.ports[q.ID] = port
	s.addIface(i)
	return i, 0
}

func (p *memifPort) details() memifapi.MemifDetails {
	d := memifapi.MemifDetails{
		SwIfIndex: interface_types.InterfaceIndex(p.iface.index), HwAddr: p.iface.mac, ID: p.id, Role: memifapi.MEMIF_ROLE_API_MASTER,
		SocketID: p.socket.id, ZeroCopy: p.zeroCopy, RingSize: 1, Flags: p.iface.flags(), IfName: p.iface.name,
	}
	if !p.iface.eth {
		d.Mode = memifapi.MEMIF_MODE_API_IP
	}
	if !p.socket.master {
		d.Role = memifapi.MEMIF_ROLE_API_SLAVE
		// Only a slave knows its rings, and only once it has agreed on them with a master.
		if p.agreed {
			d.RingSize, d.BufferSize = uint32(p.slave.RingSize), uint16(p.slave.BufferSize)
		}
	}
	return d
}

// showMemifs lists sockets and interfaces; VPP goes on about rings and their descriptors.
func (s *Server) showMemifs(out *strings.Builder) {
	fmt.Fprintf(out, "sockets\n  %-3s %-11s %s\n", "id", "listener", "filename")
	for _, id := range slices.Sorted(maps.Keys(s.memifs)) {
		listener := "no"
		if socket := s.memifs[id]; socket.listener != nil {
			listener = fmt.Sprintf("yes (%d)", len(socket.ports))
		}
		fmt.Fprintf(out, "  %-3d %-11s %s\n", id, listener, s.memifs[id].file)
	}
	fmt.Fprintln(out)
	for i := range s.ifacesByName() {
		port, ok := i.port.(*memifPort)
		if !ok {
			continue
		}
		mode := "ip"
		if i.eth {
			mode = "ethernet"
		}
		fmt.Fprintf(out, "interface %s\n  socket-id %d id %d mode %s\n  flags%s\n", i.name, port.socket.id, port.id, mode, port.flagWords())
	}
}

// flagWords are the flags that VPP shows, each after a space.
func (p *memifPort) flagWords() string {
	words := ""
	for _, f := range []struct {
		set  bool
		word string
	}{{p.iface.admin, " admin-up"}, {!p.socket.master, " slave"}, {p.connected(), " connected"}, {p.zeroCopy, " zero-copy"}} {
		if f.set {
			words += f.word
		}
	}
	return words
}

// address is where the socket is, as VPP reads its file name: it takes few characters, and of abstract names no others.
func (m *memifSocket) address() (memif.Address, error) {
	a, err := memif.ParseAddress(m.file)
	for _, s := range []string{strings.TrimPrefix(a.Name, "@"), a.Netns} {
		if err == nil && strings.Trim(s, memifReadable) != "" {
			err = fmt.Errorf("socket %q: invalid input", m.file)
		}
	}
	return a, err
}

// memifReadable are the characters of VPP's socket names.
const memifReadable = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"
