package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Segment is the stats segment of one VPP lifetime, mapped for reading. It stays readable, and unchanged, when VPP has ended.
// Its methods are safe for concurrent use.
type Segment struct {
	mu   sync.Mutex
	mem  []byte // nil once closed
	base uint64
	dir  *directory
}

// Open maps the segment of the VPP that serves the stats socket (a path). fault.Unavailable when nobody answers,
// fault.Denied without permission, fault.Invalid for another format.
func Open(ctx context.Context, socket string) (*Segment, error) {
	s, err := open(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("VPP's stats segment at %s: %w", socket, err)
	}
	return s, nil
}

func open(ctx context.Context, socket string) (*Segment, error) {
	fd, err := receive(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size < headerBytes {
		return nil, fault.New(fault.Invalid, "%d bytes are too few for a header", st.Size)
	}
	mem, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	if v := word(mem, atVersion).Load(); v != version {
		return nil, errors.Join(fault.New(fault.Invalid, "format %d, want %d as VPP 25.10 has it", v, version), unix.Munmap(mem))
	}
	return &Segment{mem: mem, base: word(mem, atBase).Load()}, nil
}

// receive takes the descriptor that VPP sends to whoever connects.
func receive(ctx context.Context, socket string) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", socket)
	if err != nil {
		kind := fault.Unavailable
		if errors.Is(err, os.ErrPermission) {
			kind = fault.Denied
		}
		return -1, fault.New(kind, "%w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	oob := make([]byte, unix.CmsgSpace(4))
	// VPP's message has no bytes of its own, which Go takes for the end.
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(nil, oob)
	if err != nil && n == 0 {
		return -1, fault.New(fault.Unavailable, "%w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return -1, fault.New(fault.Unavailable, "it sent no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, fault.New(fault.Unavailable, "it sent no descriptor")
	}
	return fds[0], nil
}

// Close unmaps the segment.
func (s *Segment) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return nil
	}
	mem := s.mem
	s.mem = nil
	return unix.Munmap(mem)
}

// vector is the bytes of the vector that pointer leads to; none for a null pointer. What lies outside of the segment is
// being moved.
func (s *Segment) vector(pointer uint64, size int) ([]byte, error) {
	if pointer == 0 {
		return nil, nil
	}
	at := pointer - s.base
	if pointer < s.base+headerBytes+vectorHeader || at > uint64(len(s.mem)) {
		return nil, errMoved
	}
	length := uint64(order.Uint32(s.mem[at-vectorHeader:])) * uint64(size)
	if length > uint64(len(s.mem))-at {
		return nil, errMoved
	}
	return s.mem[at : at+length], nil
}

// threads are the vectors, by thread, of a counter.
func (s *Segment) threads(pointer uint64, size int) ([][]byte, error) {
	outer, err := s.vector(pointer, 8)
	if err != nil {
		return nil, err
	}
	inner := make([][]byte, len(outer)/8)
	for i := range inner {
		if inner[i], err = s.vector(order.Uint64(outer[i*8:]), size); err != nil {
			return nil, err
		}
	}
	return inner, nil
}

// strings reads a vector of names. VPP calls an interface that is gone "deleted".
func (s *Segment) strings(pointer uint64) ([]string, error) {
	vectors, err := s.threads(pointer, 1)
	if err != nil {
		return nil, err
	}
	all := make([]string, len(vectors))
	for i, v := range vectors {
		text, _, _ := bytes.Cut(v, []byte{0})
		if string(text) != deleted {
			all[i] = string(text)
		}
	}
	return all, nil
}

const deleted = "deleted"

// entry is one of the directory.
type entry []byte

func (e entry) kind() kind    { return kind(order.Uint32(e[inType:])) }
func (e entry) value() uint64 { return order.Uint64(e[inValue:]) }

func (e entry) hasPrefix(prefix string) bool {
	return string(e[inName:inName+len(prefix)]) == prefix
}

func (e entry) name() string {
	text, _, _ := bytes.Cut(e[inName:entryBytes], []byte{0})
	return string(text)
}
