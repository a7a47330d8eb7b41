package pocketvpp

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Every message on the socket follows a header of 16 bytes (VPP: msgbuf_t): eight unused, the length of the message, and
// four unused; big endian.
const (
	frameHeader = 16
	// maxMessage bounds what a client can make the server hold; the longest request in use is a few KiB.
	maxMessage = 1 << 20
	// requestHeader is message id, client index and context.
	requestHeader = 10
)

// readFrame reads one message; it is valid until buf is used again. buf grows as needed.
func readFrame(r io.Reader, buf *[]byte) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[8:12])
	if size > maxMessage {
		return nil, fmt.Errorf("message of %d bytes: at most %d are accepted", size, maxMessage)
	}
	if uint32(cap(*buf)) < size {
		*buf = make([]byte, size)
	}
	msg := (*buf)[:size]
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// appendFrame appends msg with its header to dst.
func appendFrame(dst, msg []byte) []byte {
	var header [frameHeader]byte
	binary.BigEndian.PutUint32(header[8:12], uint32(len(msg)))
	return append(append(dst, header[:]...), msg...)
}
