package packets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"highwire/controlplane/packets/filter"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

const (
	// socketBuffer takes what comes while packets are on their way to the client.
	socketBuffer = 8 << 20
	// longestPacket is a segment of 64 KiB that is still to be cut, with its headers.
	longestPacket = 64<<10 + 64
)

// socket is a packet socket on one interface (packet(7)).
type socket struct {
	file     *os.File
	raw      syscall.RawConn
	linkType uint32
	buf      []byte
}

// openSocket opens one on the interface of a kernel end, inside the peer's network namespace. The socket belongs there,
// whichever thread reads it.
func (s *Service) openSocket(ctx context.Context, e mechanisms.End) (*socket, error) {
	namespace, err := mechanisms.ParseInode(e.Params[mechanisms.ParamInode])
	if err != nil {
		return nil, err
	}
	var k *socket
	err = s.cfg.Namespaces.Do(ctx, namespace, func() (err error) {
		k, err = newSocket(e.Params[mechanisms.ParamName])
		return err
	})
	return k, err
}

func newSocket(name string) (*socket, error) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "it is not there: %w", err)
	}
	// Without a protocol it receives nothing until it is bound to the interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "capture "+name)
	err = errors.Join(
		os.NewSyscallError("timestamps", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)),
		os.NewSyscallError("VLAN tags", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)),
		os.NewSyscallError("buffer", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: device.Index})),
	)
	k := &socket{file: file, linkType: filter.Ethernet, buf: make([]byte, longestPacket)}
	if err == nil {
		k.raw, err = file.SyscallConn()
	}
	var own unix.Sockaddr
	if err == nil {
		own, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	if a, ok := own.(*unix.SockaddrLinklayer); ok && a.Hatype == unix.ARPHRD_NONE {
		k.linkType = filter.RawIP // a TUN interface
	}
	return k, nil
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (k *socket) close() { _ = k.file.Close() }

// run reads packets until ctx ends, and then those that are in the buffer and came before.
func (k *socket) run(ctx context.Context, emit func(vppapi.Packet) error) (lost uint64, err error) {
	defer context.AfterFunc(ctx, func() { _ = k.file.SetReadDeadline(time.Unix(1, 0)) })()
	var p vppapi.Packet
	for err == nil {
		var failed error
		err = k.raw.Read(func(fd uintptr) bool {
			p, failed = k.receive(int(fd))
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil && failed == nil {
			err = emit(p)
		} else if err == nil && !errors.Is(failed, unix.EINTR) && !errors.Is(failed, unix.ENETDOWN) { // which it can come back from
			err = failed
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = k.drain(emit)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	_ = k.raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			lost = uint64(st.Drops)
		}
	})
	return lost, err
}

// drain takes what is in the buffer and came before now.
func (k *socket) drain(emit func(vppapi.Packet) error) (err error) {
	now := time.Now()
	control := k.raw.Control(func(fd uintptr) {
		for err == nil {
			p, failed := k.receive(int(fd))
			if failed != nil || p.Time.After(now) {
				return
			}
			err = emit(p)
		}
	})
	return errors.Join(err, control)
}

// receive reads one packet without waiting.
func (k *socket) receive(fd int) (vppapi.Packet, error) {
	var control [256]byte
	n, controls, _, _, err := unix.Recvmsg(fd, k.buf, control[:], unix.MSG_TRUNC|unix.MSG_DONTWAIT)
	if err != nil {
		return vppapi.Packet{}, err
	}
	p := vppapi.Packet{Time: time.Now(), Length: n, Data: append([]byte(nil), k.buf[:min(n, len(k.buf))]...)}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	for _, m := range messages {
		var at unix.Timespec
		var aux unix.TpacketAuxdata
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS:
			if _, err := binary.Decode(m.Data, binary.NativeEndian, &at); err == nil {
				p.Time = time.Unix(at.Unix())
			}
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA:
			if _, err := binary.Decode(m.Data, binary.NativeEndian, &aux); err == nil && aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
				insertTag(&p, aux)
			}
		}
	}
	return p, err
}

// insertTag puts a VLAN tag back where the kernel took it out.
func insertTag(p *vppapi.Packet, aux unix.TpacketAuxdata) {
	const addresses = 12
	if len(p.Data) < addresses {
		return
	}
	protocol := uint16(unix.ETH_P_8021Q)
	if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		protocol = aux.Vlan_tpid
	}
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, protocol), aux.Vlan_tci)
	p.Data = slices.Insert(p.Data, addresses, tag...)
	p.Length += len(tag)
}
