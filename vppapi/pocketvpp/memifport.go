package pocketvpp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.fd.io/govpp/binapi/interface_types"
	memifapi "go.fd.io/govpp/binapi/memif"

	"highwire/vppapi/memif"
)

// memifRetry is how often VPP's slaves dial a master that is not there.
const memifRetry = 3 * time.Second

// errNoPeer is why packets are lost on a memif that nobody is connected to.
var errNoPeer = errors.New("memif is not connected")

// memifPort is a port on a memif. Its connection comes and goes with the other side, and the link follows. It is closed
// under Server.mu, which its goroutines take, too: so close does not wait for them, Server.Run does.
type memifPort struct {
	s        *Server
	iface    *iface
	socket   *memifSocket
	id       uint32
	zeroCopy bool // as asked for; here packets are always copied
	slave    memif.Slave
	ctx      context.Context // ends with the port
	cancel   context.CancelFunc
	dial     chan struct{} // a slave that came up wants to dial now

	// Under Server.mu.
	closed, agreed, dialling bool

	tx   sync.Mutex  // of transmission and what it uses
	conn *memif.Conn // nil while there is none
}

func (s *Server) newMemifPort(i *iface, socket *memifSocket, q *memifapi.MemifCreateV2, ring int) *memifPort {
	p := &memifPort{s: s, iface: i, socket: socket, id: q.ID, dial: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	mode := memif.IP
	if i.eth {
		mode = memif.Ethernet
	}
	p.zeroCopy = !q.NoZeroCopy && q.Role == memifapi.MEMIF_ROLE_API_SLAVE
	p.slave = memif.Slave{
		ID: q.ID, Mode: mode, Name: "VPP " + Version, RingSize: ring,
		BufferSize: int(cmp.Or(q.BufferSize, defaultMemifBuffer)), Queues: int(max(q.RxQueues, q.TxQueues, 1)),
	}
	return p
}

// memifListener is the listening end of a socket, from its first interface to its last.
type memifListener struct {
	*memif.Listener
	cancel context.CancelFunc
}

func (s *Server) listenMemif(socket *memifSocket) error {
	address, err := socket.address()
	if err != nil {
		return err
	}
	l, err := memif.Listen(address)
	if err != nil {
		return err
	}
	l.Name = "VPP " + Version
	ctx, cancel := context.WithCancel(context.Background())
	socket.listener = &memifListener{l, cancel}
	s.background.Go(func() {
		defer cancel()
		err := l.Run(ctx, func(id uint32) (memif.Master, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			p, ok := socket.ports[id]
			if !ok {
				return memif.Master{}, fmt.Errorf("unmatched interface id")
			}
			return memif.Master{Mode: p.slave.Mode, Serve: p.serve}, nil
		})
		if ctx.Err() == nil {
			s.log.Warn("memif listener", "socket", socket.file, "error", err)
		}
	})
	return nil
}

// setAdmin: the link is up while the other side is there. A slave that comes up dials.
func (p *memifPort) setAdmin(up bool) (bool, error) {
	if up && !p.socket.master && !p.dialling {
		p.dialling = true
		p.s.background.Go(p.keepDialling)
	}
	if up {
		select {
		case p.dial <- struct{}{}:
		default:
		}
	}
	p.tx.Lock()
	defer p.tx.Unlock()
	return up && p.conn != nil, nil
}

// keepDialling connects a slave again and again, while its interface is up.
func (p *memifPort) keepDialling() {
	retry := time.NewTicker(memifRetry)
	defer retry.Stop()
	for {
		select {
		case <-p.dial:
		case <-retry.C:
		case <-p.ctx.Done():
			return
		}
		p.s.fwd.RLock()
		up := p.iface.admin
		p.s.fwd.RUnlock()
		if !up {
			continue
		}
		s := p.slave
		var err error
		if s.Address, err = p.socket.address(); err != nil {
			p.s.log.Warn("memif", "socket", p.socket.file, "error", err)
			return
		}
		if conn, err := s.Connect(p.ctx); err == nil {
			p.serve(p.ctx, conn)
			conn.Close()
		}
	}
}

// serve is one connection from link up to link down.
func (p *memifPort) serve(ctx context.Context, c *memif.Conn) {
	defer context.AfterFunc(ctx, func() { c.End(ctx.Err()) })()
	defer context.AfterFunc(p.ctx, func() { c.End(errors.New("interface deleted")) })()
	if !p.attach(c) {
		return
	}
	var wg sync.WaitGroup
	for _, q := range c.Rx {
		wg.Go(func() { c.End(p.receive(c, q)) })
	}
	wg.Wait()
	p.detach()
}

// attach brings the link up. VPP makes the queues anew then, and so they are polled whatever the mode was.
func (p *memifPort) attach(c *memif.Conn) bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.closed {
		return false
	}
	p.tx.Lock()
	p.conn = c
	p.tx.Unlock()
	p.agreed = true
	p.iface.rxMode = interface_types.RX_MODE_API_POLLING
	p.s.setLink(p.iface, true)
	return true
}

func (p *memifPort) detach() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.tx.Lock()
	p.conn = nil
	p.tx.Unlock()
	if !p.closed {
		p.s.setLink(p.iface, false)
	}
}

// connected tells whether there are queues. It is called under Server.mu.
func (p *memifPort) connected() bool {
	p.tx.Lock()
	defer p.tx.Unlock()
	return p.conn != nil
}

// receive forwards what the other side sends until that ends, or breaks the protocol.
func (p *memifPort) receive(c *memif.Conn, q *memif.Rx) error {
	pkt := newPacket()
	for {
		if err := q.Wait(); err != nil {
			return err
		}
		if err := c.Err(); err != nil {
			return err // packets may wait all the same
		}
		for c.Err() == nil {
			n, err := q.Read(pkt.buf[headroom:])
			if errors.Is(err, memif.ErrEmpty) {
				break
			}
			if errors.Is(err, memif.ErrTooLong) {
				continue
			}
			if err != nil {
				return err
			}
			q.Release()
			pkt.off, pkt.end, pkt.offload = headroom, headroom+n, offload{}
			p.s.input(p.iface, pkt)
		}
		q.Release()
	}
}

// transmit copies the packet into the ring; where there is no room, or nobody, it is lost.
func (p *memifPort) transmit(pkt *packet) error {
	if err := pkt.settle(false, false); err != nil {
		return err
	}
	p.tx.Lock()
	defer p.tx.Unlock()
	if p.conn == nil {
		return errNoPeer
	}
	tx := p.conn.Tx[0]
	if err := tx.Write(pkt.bytes()); err != nil {
		return err
	}
	tx.Flush()
	return nil
}

// setMAC: VPP changes its own side only.
func (p *memifPort) setMAC(hardwareAddr) error { return nil }

// close frees the interface's place on the socket, and the socket's file with the last one.
func (p *memifPort) close() {
	p.closed = true
	p.cancel()
	delete(p.socket.ports, p.id)
	if l := p.socket.listener; l != nil && len(p.socket.ports) == 0 {
		l.cancel()
		l.Close()
		p.socket.listener = nil
	}
}

// queueless tells whether i has no queues now, and so no rx mode.
func (i *iface) queueless() bool {
	p, ok := i.port.(*memifPort)
	return i.local || ok && !p.connected()
}
