package memif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	wire "go.fd.io/govpp/extras/gomemif/memif"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Types of messages, the first two bytes of each.
const (
	typeAck = iota + 1
	typeHello
	typeInit
	typeAddRegion
	typeAddRing
	typeConnect
	typeConnected
	typeDisconnect
)

// messageSize is the length of every message.
const messageSize = 128

// ringIsS2M marks in ADD_RING a ring from slave to master.
const ringIsS2M = 1

// control is the socket of a connection.
type control struct{ *net.UnixConn }

// send sends a message, with a descriptor unless fd is negative.
func (c control) send(kind uint16, body any, fd int) error {
	b := binary.LittleEndian.AppendUint16(make([]byte, 0, messageSize), kind)
	if body != nil {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, body); err != nil {
			return err
		}
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err := c.WriteMsgUnix(b[:messageSize], rights, nil)
	return err
}

// message is what was received. Its descriptor, if any, belongs to whoever takes it.
type message struct {
	kind uint16
	body []byte
	fd   int // -1 for none
}

// receive waits for a message. What the protocol does not know, or knows otherwise, is an error.
func (c control) receive() (message, error) {
	b, oob := make([]byte, messageSize+1), make([]byte, unix.CmsgSpace(4*4))
	n, noob, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return message{fd: -1}, err
	}
	fds := Descriptors(oob[:noob])
	if n != messageSize || flags&unix.MSG_CTRUNC != 0 || len(fds) > 1 {
		closeAll(fds)
		return message{fd: -1}, broken("a message of %d bytes with %d descriptors", n, len(fds))
	}
	m := message{kind: binary.LittleEndian.Uint16(b), body: b[2:n], fd: -1}
	if len(fds) == 1 {
		m.fd = fds[0]
	}
	if m.kind == typeDisconnect {
		m.close()
		var d wire.MsgDisconnect
		if err := m.decode(&d); err != nil {
			return m, err
		}
		return m, fault.New(fault.Unavailable, "the other side ended the memif: %s", text(d.String[:]))
	}
	return m, nil
}

func (m message) decode(body any) error {
	_, err := binary.Decode(m.body, binary.LittleEndian, body)
	return err
}

// close gives up the descriptor of a message that nobody took.
func (m message) close() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
	}
}

// await receives a message of that kind.
func (c control) await(kind uint16, body any) error {
	m, err := c.receive()
	if err != nil {
		return err
	}
	m.close()
	if m.kind != kind {
		return broken("message %d instead of %d", m.kind, kind)
	}
	if body == nil {
		return nil
	}
	return m.decode(body)
}

// Descriptors are the open files that came with a message, as ReadMsgUnix hands them out. They are the caller's to close.
func Descriptors(oob []byte) []int {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range list {
		if more, err := unix.ParseUnixRights(&list[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// broken is what the other side did against the protocol.
func broken(format string, args ...any) error {
	return fault.New(fault.Invalid, "memif protocol broken by the other side: %w", fmt.Errorf(format, args...))
}

// text is a fixed-size string without its padding.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(bytes.ToValidUTF8(b, nil))
}

// gone is the end of a connection in words.
func gone(err error) error {
	if errors.Is(err, io.EOF) {
		return fault.New(fault.Unavailable, "the other side closed the memif")
	}
	return err
}
