package vppapi

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/memif"

	"highwire/vppapi/fault"
)

// MemifSocket is a control socket under a number of ours (memif_socket_filename_add_del_v2). Equal files have equal numbers,
// so vWires may share one.
type MemifSocket struct {
	// File is a path, or "abstract:NAME,netns_name=PATH".
	File string
	// shown is the id that a dump shows; of a long File it shows only the beginning.
	shown uint32
}

// ID is VPP's socket id, made from File, so that interfaces on the socket go out in the same flush as the socket itself.
func (s MemifSocket) ID() uint32 {
	if s.shown != 0 {
		return s.shown
	}
	return socketMark(s.File) | hash(s.File)&0xfffe
}

// socketMark is the upper half of the ID of a file: it shows in a dump that a socket is ours. A dump has room for the first
// part of a file's name only, so the mark is made from that. The top bit keeps clear of ids chosen by people; 0 is VPP's
// own default socket, and ^0 asks for a number.
func socketMark(file string) uint32 {
	return 1<<31 | hash(file[:min(len(file), memifFileShown)])>>17<<16
}

// ownSocket tells whether a socket in a dump is ours.
func ownSocket(id uint32, shown string) bool { return id&^0xffff == socketMark(shown) && id&1 == 0 }

func hash(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum32()
}

// Key is {socket, ID}. Two files with one ID are a conflict, not two sockets.
func (s MemifSocket) Key() Key { return memifSocketKey(s.ID()) }

func memifSocketKey(id uint32) Key { return Key{KindSocket, strconv.FormatUint(uint64(id), 10)} }

// Uses nothing.
func (s MemifSocket) Uses() []Key { return nil }

func (s MemifSocket) String() string { return "memif socket " + s.File }

// memifFileShown is how much of a file name memif_socket_filename_details has room for.
const memifFileShown = 107

func (s MemifSocket) adopts(found Object) bool {
	f, ok := found.(MemifSocket)
	return ok && f.ID() == s.ID() && (f.File == s.File || len(f.File) == memifFileShown && strings.HasPrefix(s.File, f.File))
}

func (s MemifSocket) create(indexes) ([]call, error) {
	return []call{{req: &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: s.ID(), SocketFilename: s.File}}}, nil
}

func (s MemifSocket) remove(indexes) ([]call, error) {
	return []call{{req: &memif.MemifSocketFilenameAddDelV2{SocketID: s.ID(), SocketFilename: s.File}, also: []api.VPPApiError{api.INVALID_ARGUMENT}}}, nil
}

// Memif is a shared-memory interface (memif_create_v2).
type Memif struct {
	Name   string
	Socket MemifSocket
	// Master listens on the socket; the other role dials it, again and again.
	Master bool
	// L3 carries bare IP packets.
	L3  bool
	MAC HardwareAddr
	// RingSize is a power of two; Queues counts each direction, 0 for one for each of VPP's workers, at most four.
	RingSize uint32
	Queues   uint8
	// ZeroCopy of a slave maps all buffers of VPP into the other process: for trusted peers.
	ZeroCopy bool
}

// Key is {interface, Name}.
func (m Memif) Key() Key { return Interface(m.Name) }

// Uses the socket.
func (m Memif) Uses() []Key { return []Key{m.Socket.Key()} }

func (m Memif) String() string {
	s := "memif slave"
	if m.Master {
		s = "memif master"
	}
	if m.L3 {
		s += " ip"
	}
	s += fmt.Sprintf(" on socket %d ring %d", m.Socket.ID(), m.RingSize) + queuesText(m.Queues)
	if m.ZeroCopy {
		s += " zero-copy"
	}
	return s
}

func (m Memif) adopts(found Object) bool {
	f, ok := found.(Memif)
	// Number of queues and MAC are not shown, or not as given; the ring size only of a slave that is connected.
	return ok && f.Socket.ID() == m.Socket.ID() && f.Master == m.Master && f.L3 == m.L3
}

func (m Memif) stray() string { return m.Socket.Key().Name }

func (m Memif) create(indexes) ([]call, error) {
	req := &memif.MemifCreateV2{
		Role: memif.MEMIF_ROLE_API_SLAVE, Mode: memif.MEMIF_MODE_API_ETHERNET, RxQueues: m.Queues, TxQueues: m.Queues,
		SocketID: m.Socket.ID(), RingSize: m.RingSize, BufferSize: memifBuffer, NoZeroCopy: !m.ZeroCopy, HwAddr: ethernet_types.MacAddress(m.MAC),
	}
	if m.L3 {
		req.Mode = memif.MEMIF_MODE_API_IP
	}
	if !m.Master {
		return []call{{req: req}}, nil
	}
	req.Role = memif.MEMIF_ROLE_API_MASTER
	// A create that could not listen leaves VPP's socket miscounted: the next one on it succeeds without listening, and the
	// one after that ends VPP. So a master begins with a fresh one; where the socket is in use both messages change nothing.
	return []call{
		{
			req:  &memif.MemifSocketFilenameAddDelV2{SocketID: m.Socket.ID()},
			also: []api.VPPApiError{api.INVALID_ARGUMENT, api.UNEXPECTED_INTF_STATE},
		},
		{req: &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: m.Socket.ID(), SocketFilename: m.Socket.File}},
		{req: req, means: map[api.VPPApiError]error{api.SYSCALL_ERROR_4: fault.New(fault.Conflict,
			"VPP cannot listen on %s: another process does, or the place is gone", m.Socket)}},
	}, nil
}

// memifBuffer is the size of a ring's buffer in bytes; a larger frame takes several.
const memifBuffer = 2048

func (m Memif) remove(at indexes) ([]call, error) {
	i, err := at(m.Key())
	if err != nil {
		return nil, err
	}
	return []call{{req: &memif.MemifDelete{SwIfIndex: i}, also: gone}}, nil
}
