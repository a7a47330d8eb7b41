package memif

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// A guarded client never talks to VPP before it has said everything a handshake needs (see Config.Guard). The relay plays the
// master's part towards it, checks each message, and only then dials VPP and says the same there in one go: VPP sees whole
// handshakes of one who stays, or nothing.

// Types of messages of the control channel, the first two bytes of each.
const (
	msgAck = iota + 1
	msgHello
	msgInit
	msgAddRegion
	msgAddRing
	msgConnect
	msgConnected
	msgDisconnect
)

const (
	version = 2 << 8
	// handshake bounds how long either side may take for it.
	handshake = 5 * time.Second
	// maxMessages is more than the messages of any client that VPP would take: INIT, regions, rings, CONNECT.
	maxMessages = 256
	maxLog2Ring = 14
	// ringHeader and descriptor are the bytes that a ring takes, once and for each slot.
	ringHeader, descriptor = 128, 16
)

func (m *message) kind() uint16 { return binary.LittleEndian.Uint16(m.bytes[:]) }

// newMessage is a message whose fields follow its type in their order on the wire.
func newMessage(kind uint16, fields ...any) message {
	var m message
	b := binary.LittleEndian.AppendUint16(m.bytes[:0], kind)
	for _, f := range fields {
		b, _ = binary.Append(b, binary.LittleEndian, f) // numbers and arrays of them, which it knows
	}
	return m
}

// listenTo is the master's part of a handshake: it returns all that the client says, CONNECT last. The messages are the caller's
// to close, also on error.
func listenTo(client *net.UnixConn, mode uint8) (said []message, err error) {
	_ = client.SetDeadline(time.Now().Add(handshake))
	hello := newMessage(msgHello, [32]byte{'h', 'i', 'g', 'h', 'w', 'i', 'r', 'e'}, uint16(version), uint16(version),
		uint16(maxMessages), uint16(maxMessages), uint16(maxMessages), uint8(maxLog2Ring))
	if err := send(client, &hello); err != nil {
		return nil, err
	}
	ack := newMessage(msgAck)
	regions := make(map[uint16]uint64)
	for len(said) < maxMessages {
		m, err := receive(client)
		said = append(said, m)
		if err == nil {
			err = check(&m, len(said) == 1, mode, regions)
		}
		if err != nil || m.kind() == msgConnect {
			return said, err
		}
		if err := send(client, &ack); err != nil {
			return said, err
		}
	}
	return said, fault.New(fault.Invalid, "%d messages and no CONNECT", maxMessages)
}

// check refuses a message that VPP would not take, or should not. Sizes of regions are gathered by their index.
func check(m *message, first bool, mode uint8, regions map[uint16]uint64) error {
	le, b := binary.LittleEndian, m.bytes[2:]
	switch kind := m.kind(); {
	case first != (kind == msgInit):
		return fault.New(fault.Invalid, "message %d where another was due", kind)
	case kind == msgInit:
		if v, id := le.Uint16(b), le.Uint32(b[2:]); v != version || id != 0 || b[6] != mode {
			return fault.New(fault.Invalid, "version %#x, interface %d, mode %d: want %#x, 0, %d", v, id, b[6], version, mode)
		}
	case kind == msgAddRegion && len(m.files) == 1:
		index, size := le.Uint16(b), le.Uint64(b[2:])
		var st unix.Stat_t
		if err := unix.Fstat(m.files[0], &st); err != nil || size == 0 || uint64(st.Size) < size {
			return fault.New(fault.Invalid, "region %d of %d bytes is a file of %d", index, size, st.Size)
		}
		if seals, err := unix.FcntlInt(uintptr(m.files[0]), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_SHRINK == 0 {
			return fault.New(fault.Denied, "region %d may shrink under VPP: seal it (F_SEAL_SHRINK)", index)
		}
		regions[index] = size
	case kind == msgAddRing && len(m.files) == 1:
		region, offset, log2 := le.Uint16(b[4:]), uint64(le.Uint32(b[6:])), b[10]
		if log2 > maxLog2Ring || offset+ringHeader+descriptor<<log2 > regions[region] {
			return fault.New(fault.Invalid, "a ring of 2^%d slots at %d does not fit into region %d", log2, offset, region)
		}
	case kind == msgConnect && len(regions) > 0:
	default:
		return fault.New(fault.Invalid, "message %d with %d descriptors", kind, len(m.files))
	}
	return nil
}

// repeat says to VPP what the client has said, and the answer to CONNECT to the client, also where VPP refuses. It goes on if the
// client hangs up meanwhile: VPP is not to be left in the middle.
func repeat(vpp, client *net.UnixConn, said []message) error {
	_ = vpp.SetDeadline(time.Now().Add(handshake))
	for i := range len(said) + 1 { // HELLO comes first
		if i > 0 {
			if err := send(vpp, &said[i-1]); err != nil {
				return err
			}
		}
		answer, err := receive(vpp)
		answer.close()
		if err != nil {
			return err
		}
		due := uint16(msgAck)
		if i == 0 {
			due = msgHello
		} else if i == len(said) {
			due = msgConnected
		}
		if answer.kind() == msgConnected || answer.kind() == msgDisconnect {
			_ = send(client, &answer) // if it is there no more, join will notice
		}
		if answer.kind() != due {
			return fault.New(fault.Unavailable, "VPP answered message %d where %d was due", answer.kind(), due)
		}
	}
	_ = vpp.SetDeadline(time.Time{})
	return client.SetDeadline(time.Time{})
}

// refuse tells the client why.
func refuse(client *net.UnixConn, reason error) {
	var text [96]byte
	copy(text[:95], reason.Error())
	m := newMessage(msgDisconnect, uint32(1), text)
	_ = send(client, &m) // it is hung up on anyway
}

// guard serves one client.
func (r Relay) guard(run context.Context, client *net.UnixConn) {
	defer context.AfterFunc(run, func() { _ = client.Close() })()
	said, err := listenTo(client, r.mode)
	defer func() {
		for i := range said {
			said[i].close()
		}
	}()
	if err != nil {
		refuse(client, err)
		return
	}
	vpp, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: r.to.name})
	if err != nil {
		refuse(client, fmt.Errorf("VPP does not listen: %w", err))
		return
	}
	defer vpp.Close()
	if repeat(vpp, client, said) == nil {
		join(run, client, vpp)
	}
}

// memifMode is how INIT says what packets are.
func memifMode(p mechanisms.Payload) uint8 {
	if p == mechanisms.IP {
		return 1
	}
	return 0
}
