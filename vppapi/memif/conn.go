package memif

import (
	"os"
	"sync"
	"time"

	wire "go.fd.io/govpp/extras/gomemif/memif"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Mode says what packets are.
type Mode uint8

const (
	// Ethernet: frames.
	Ethernet = Mode(wire.InterfaceModeEthernet)
	// IP: bare IPv4 and IPv6 packets.
	IP = Mode(wire.InterfaceModeIp)
)

// Conn is a memif that is connected. Whoever gets one owns it alone; its queues are not to be used any more once Close has
// been called, while that they fail is the sign of the other side's end.
type Conn struct {
	// Rx and Tx have at least one queue each.
	Rx []*Rx
	Tx []*Tx
	// Remote is the other application's name for itself, Interface its name for the interface.
	Remote, Interface string

	ctl     control
	regions [][]byte
	done    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	err     error
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why it has ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// watch ends the connection when the other side does.
func (c *Conn) watch() {
	for {
		m, err := c.ctl.receive()
		if err != nil {
			c.End(gone(err))
			return
		}
		m.close()
		if m.kind != typeAck {
			c.End(broken("message %d on a memif that is connected", m.kind))
			return
		}
	}
}

// End ends the connection for the reason and wakes whoever waits for packets. Queues can still be used, to no effect, until
// Close. The first reason stays.
func (c *Conn) End(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	for _, q := range c.Rx {
		_ = q.event.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close ends the connection, telling the other side why, and gives back memory and descriptors.
func (c *Conn) Close() {
	c.End(fault.New(fault.Canceled, "memif closed"))
	c.ctl.refuse(c.Err())
	c.release()
	c.wg.Wait()
}

// refuse tells the other side the reason, as far as it still listens, and closes the socket.
func (c control) refuse(reason error) {
	var d wire.MsgDisconnect
	if reason != nil {
		copy(d.String[:len(d.String)-1], reason.Error())
	}
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_ = c.send(typeDisconnect, d, -1)
	_ = c.Close()
}

// release gives back memory and descriptors of a connection, complete or not.
func (c *Conn) release() {
	for _, q := range c.Rx {
		_ = q.event.Close()
	}
	for _, q := range c.Tx {
		_ = q.event.Close()
	}
	for _, mem := range c.regions {
		_ = unix.Munmap(mem)
	}
	c.Rx, c.Tx, c.regions = nil, nil, nil
}

// start makes a connection whose handshake is over ready for packets.
func (c *Conn) start() error {
	for _, q := range c.Rx {
		q.regions = c.regions
		if q.cookie() != ringCookie {
			return broken("no ring where one was announced")
		}
	}
	for _, q := range c.Tx {
		q.regions = c.regions
		if q.cookie() != ringCookie {
			return broken("no ring where one was announced")
		}
		// A master goes on from where the ring is, which is the start unless the slave says otherwise.
		q.next = q.tail()
		if q.slave {
			q.next = q.head()
		}
		q.sent = q.next
	}
	if len(c.Rx) == 0 || len(c.Tx) == 0 {
		return broken("no queue in one of the directions")
	}
	for _, q := range c.Rx {
		q.offer()
	}
	c.done = make(chan struct{})
	return nil
}

// live lets the connection notice its end.
func (c *Conn) live() {
	_ = c.ctl.SetDeadline(time.Time{})
	c.wg.Go(c.watch)
}

func newTx(r ring, event *os.File) (*Tx, error) {
	raw, err := event.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Tx{ring: r, event: event, raw: raw}, nil
}
