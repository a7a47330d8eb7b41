// Package filepass hands open files over on the unix sockets that carry gRPC, as NSM does it (wire page §2.3): below TLS,
// as ancillary data (SCM_RIGHTS) on the first bytes of a write, and kept at the receiver under device and inode until a
// message names them.
//
// It speaks what github.com/edwarnicke/grpcfd speaks and takes its place: that one has a data race between sending and
// closing, loses descriptors that are sent on a closed connection, and keeps as many as a peer cares to send.
package filepass

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

const (
	// perWrite and perRead are how many files one system call carries, as with the peers' implementation.
	perWrite, perRead = 64, 64
	// maxHeld bounds the files that one connection may leave here; further ones are closed unseen.
	maxHeld = 256
)

// Conn is a unix connection that files pass over. Its methods are safe for concurrent use.
type Conn struct {
	*net.UnixConn

	writing sync.Mutex // one Write at a time, files included

	mu      sync.Mutex
	queue   []int                    // descriptors to send with the next write
	held    map[mechanisms.Inode]int // descriptors received
	arrival chan struct{}            // closed and renewed whenever held grows or the connection ends
	closed  bool
}

func wrap(c *net.UnixConn) *Conn {
	return &Conn{UnixConn: c, held: make(map[mechanisms.Inode]int), arrival: make(chan struct{})}
}

// addr is the remote address of a Conn, by which gRPC's handlers reach the Conn itself.
type addr struct {
	net.Addr
	conn *Conn
}

// RemoteAddr is the peer's address; FromPeer finds the connection by it.
func (c *Conn) RemoteAddr() net.Addr { return addr{c.UnixConn.RemoteAddr(), c} }

// Send queues a duplicate of the descriptor; it goes with the next bytes written.
func (c *Conn) Send(fd uintptr) error {
	own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate a file to send: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = unix.Close(own)
		return fault.New(fault.Unavailable, "the connection is closed: %w", net.ErrClosed)
	}
	c.queue = append(c.queue, own)
	return nil
}

// Write writes b. For each file in the queue one byte goes out with the file, the rest as usual.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	files := c.dequeue(min(perWrite, len(b)))
	defer closeAll(files)
	for i, fd := range files {
		if n, _, err := c.WriteMsgUnix(b[i:i+1], unix.UnixRights(fd), nil); err != nil || n != 1 {
			return i, fmt.Errorf("send a file: %w", err)
		}
	}
	n, err := c.UnixConn.Write(b[len(files):])
	return len(files) + n, err
}

func (c *Conn) dequeue(most int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(most, len(c.queue))
	files := c.queue[:n:n]
	c.queue = c.queue[n:]
	return files
}

// Read reads bytes and keeps the files that come with them.
func (c *Conn) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(perRead*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if oobn > 0 {
		c.keep(descriptors(oob[:oobn]))
	}
	return max(n, 0), err // recvmsg answers -1 with an error; a Reader must not
}

func descriptors(oob []byte) (files []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			files = append(files, fds...)
		}
	}
	return files
}

// keep takes received descriptors. Files are sent anew with every refresh: of each one is enough.
func (c *Conn) keep(files []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range files {
		var st syscall.Stat_t
		err := syscall.Fstat(fd, &st)
		id := mechanisms.Inode{Dev: st.Dev, Ino: st.Ino}
		if _, have := c.held[id]; err != nil || have || c.closed || len(c.held) >= maxHeld {
			_ = unix.Close(fd)
			continue
		}
		c.held[id] = fd
	}
	close(c.arrival)
	c.arrival = make(chan struct{})
}

// Receive waits until the file has arrived, before or after the message that names it, and returns a descriptor of the
// caller's own; it may be opened with O_PATH. fault.Unavailable when the connection ends first; the errors of ctx.
func (c *Conn) Receive(ctx context.Context, id mechanisms.Inode) (*os.File, error) {
	for {
		c.mu.Lock()
		fd, ok := c.held[id]
		if ok {
			own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			c.mu.Unlock()
			if err != nil {
				return nil, fmt.Errorf("duplicate a received file: %w", err)
			}
			return os.NewFile(uintptr(own), id.String()), nil
		}
		closed, arrival := c.closed, c.arrival
		c.mu.Unlock()
		if closed {
			return nil, fault.New(fault.Unavailable, "%s never arrived: the connection is closed", id)
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s never arrived on this connection: %w", id, ctx.Err())
		}
	}
}

// Close ends the connection and closes all files that were not sent or not taken.
func (c *Conn) Close() error {
	err := c.UnixConn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return err
	}
	c.closed = true
	closeAll(c.queue)
	c.queue = nil
	for _, fd := range c.held {
		_ = unix.Close(fd)
	}
	clear(c.held)
	close(c.arrival)
	c.arrival = make(chan struct{})
	return err
}

func closeAll(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd)
	}
}
