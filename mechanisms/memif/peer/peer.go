// Package peer is a small application at the far end of a memif vWire: it answers ARP, IPv6 neighbour solicitations and
// echo requests for addresses of its own, sends echo requests, and generates and counts traffic. By it a memif vWire can be
// tried, tested and measured without writing code.
//
// A Peer keeps itself connected for as long as Run runs: as slave it dials again whenever the other side has gone, as
// master it goes on listening. It sleeps while nothing arrives.
package peer

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"highwire/vppapi/fault"
	"highwire/vppapi/memif"
)

// Config of a Peer. Address is required.
type Config struct {
	// Address of the control socket.
	Address memif.Address
	// Master listens there: the endpoint's role. A client dials.
	Master bool
	// ID of the interface on the socket, the same at both sides.
	ID uint32
	// L3 exchanges bare IP packets instead of Ethernet frames.
	L3 bool
	// MAC of this side, empty for a random one. Not used with L3.
	MAC net.HardwareAddr
	// Addresses to answer for.
	Addresses []netip.Prefix
	// RingSize, BufferSize and Queues are the slave's to choose, see memif.Slave.
	RingSize, BufferSize, Queues int
	// Take, if set, is given each packet instead of it being answered; it must not keep the bytes.
	Take func(packet []byte) `json:"-"`
	// Log hears of comings and goings; nil for none.
	Log *slog.Logger
}

// Peer is the application. Its methods may be called concurrently.
type Peer struct {
	cfg      Config
	listener *memif.Listener // of Listen, until Run
	counters counters

	mu      sync.Mutex    // of what follows, and of sending
	conn    *memif.Conn   // nil while there is none
	changed chan struct{} // closed when conn changes
	echoes  map[uint16]chan echo
	asked   map[chan net.HardwareAddr]netip.Addr
	lastID  uint16
}

// name is what the other side is told.
const name = "highwire peer"

// New checks the settings: fault.Invalid for those that cannot be.
func New(cfg Config) (*Peer, error) {
	switch {
	case cfg.Address.Name == "":
		return nil, fault.New(fault.Invalid, "memif peer: no socket")
	case len(cfg.MAC) == 0:
		cfg.MAC = make(net.HardwareAddr, 6)
		_, _ = rand.Read(cfg.MAC)
		cfg.MAC[0] = cfg.MAC[0]&^1 | 2 // unicast, locally administered
	case len(cfg.MAC) != 6 || cfg.MAC[0]&1 != 0:
		return nil, fault.New(fault.Invalid, "memif peer: MAC %s: want a unicast address of six bytes", cfg.MAC)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Peer{
		cfg: cfg, changed: make(chan struct{}), echoes: make(map[uint16]chan echo), asked: make(map[chan net.HardwareAddr]netip.Addr),
	}, nil
}

// Listen opens the socket of a master ahead of Run, so that nobody who dials from now on is refused. Only Run closes it.
// fault.Conflict when another process listens there.
func (p *Peer) Listen() (err error) {
	p.listener, err = memif.Listen(p.cfg.Address)
	return err
}

// Run is connected whenever the other side is there, until ctx ends. It returns ctx's error, or why there is no socket:
// fault.Conflict when another process listens on it.
func (p *Peer) Run(ctx context.Context) error {
	mode := memif.Ethernet
	if p.cfg.L3 {
		mode = memif.IP
	}
	if !p.cfg.Master {
		return memif.Slave{
			Address: p.cfg.Address, ID: p.cfg.ID, Mode: mode, Name: name, Log: p.cfg.Log,
			RingSize: p.cfg.RingSize, BufferSize: p.cfg.BufferSize, Queues: p.cfg.Queues,
		}.Run(ctx, p.serve)
	}
	if p.listener == nil {
		if err := p.Listen(); err != nil {
			return err
		}
	}
	l := p.listener
	l.Name, l.Log = name, p.cfg.Log
	return l.Run(ctx, func(id uint32) (memif.Master, error) {
		if id != p.cfg.ID {
			return memif.Master{}, fault.New(fault.NotFound, "no interface %d here", id)
		}
		return memif.Master{Mode: mode, Serve: p.serve}, nil
	})
}

// serve is one connection from beginning to end.
func (p *Peer) serve(ctx context.Context, c *memif.Conn) {
	defer context.AfterFunc(ctx, func() { c.End(ctx.Err()) })()
	p.attach(c)
	defer p.attach(nil) // and nobody sends on c any more
	var wg sync.WaitGroup
	for i := range c.Rx {
		wg.Go(func() { c.End(p.receive(c, c.Rx[i])) })
	}
	wg.Wait()
}

func (p *Peer) attach(c *memif.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = c
	close(p.changed)
	p.changed = make(chan struct{})
}

// Connected tells whether the other side is there now.
func (p *Peer) Connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// Await waits until the other side is there, or until it is not. It returns the error of ctx.
func (p *Peer) Await(ctx context.Context, connected bool) error {
	for {
		p.mu.Lock()
		is, changed := p.conn != nil, p.changed
		p.mu.Unlock()
		if is == connected {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// MAC is the peer's Ethernet address.
func (p *Peer) MAC() net.HardwareAddr { return p.cfg.MAC }

// Counters are packets and bytes since the start, over all connections. Bytes are those on the memif.
type Counters struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	// RxDrops were longer than any packet may be; TxDrops found no room, or no other side.
	RxDrops, TxDrops uint64
}

type counters struct {
	rxPackets, rxBytes, txPackets, txBytes, rxDrops, txDrops atomic.Uint64
}

// Counters as of now.
func (p *Peer) Counters() Counters {
	c := &p.counters
	return Counters{
		c.rxPackets.Load(), c.rxBytes.Load(), c.txPackets.Load(), c.txBytes.Load(), c.rxDrops.Load(), c.txDrops.Load(),
	}
}

const (
	// maxPacket is the longest packet taken.
	maxPacket = 64 << 10
	// rxBurst is after how many packets the sender gets its buffers back.
	rxBurst = 64
)

// receive takes packets until the connection ends or the other side breaks the protocol, and tells which.
func (p *Peer) receive(c *memif.Conn, q *memif.Rx) error {
	buf := make([]byte, maxPacket)
	for {
		if err := q.Wait(); err != nil {
			return err
		}
		if err := c.Err(); err != nil {
			return err // packets may wait all the same
		}
		for more := true; more; {
			var packets, bytes uint64
			for range rxBurst {
				n, err := q.Read(buf)
				if errors.Is(err, memif.ErrTooLong) {
					p.counters.rxDrops.Add(1)
					continue
				}
				if more = !errors.Is(err, memif.ErrEmpty); !more {
					break
				}
				if err != nil {
					return err
				}
				packets++
				bytes += uint64(n)
				p.handle(buf[:n])
			}
			q.Release()
			p.counters.rxPackets.Add(packets)
			p.counters.rxBytes.Add(bytes)
			more = more && c.Err() == nil
		}
	}
}

// Send transmits one packet as it is, or loses it where there is no room or no other side.
func (p *Peer) Send(packet []byte) { p.send(packet) }

// send transmits one packet, or loses it.
func (p *Peer) send(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil || p.conn.Tx[0].Write(b) != nil {
		p.counters.txDrops.Add(1)
		return
	}
	p.conn.Tx[0].Flush()
	p.counters.txPackets.Add(1)
	p.counters.txBytes.Add(uint64(len(b)))
}

// burst transmits the packet up to n times and tells how often there was room; connected is false while there is no other
// side.
func (p *Peer) burst(b []byte, n int) (sent int, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return 0, false
	}
	tx := p.conn.Tx[0]
	for sent < n && tx.Write(b) == nil {
		sent++
	}
	tx.Flush()
	p.counters.txPackets.Add(uint64(sent))
	p.counters.txBytes.Add(uint64(sent * len(b)))
	return sent, true
}

// awaitTime is d from now, or earlier with ctx.
func awaitTime(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
