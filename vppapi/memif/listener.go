package memif

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	wire "go.fd.io/govpp/extras/gomemif/memif"

	"highwire/vppapi/fault"
)

// Listener is a control socket with any number of master interfaces.
type Listener struct {
	// Name is what the other side is told of this application, at most 31 bytes; Log hears of comings and goings. Both are
	// to be set before Run, nil and empty for none.
	Name string
	Log  *slog.Logger

	address Address
	socket  *net.UnixListener
	mu      sync.Mutex
	busy    map[uint32]bool
}

// Master is one interface of a Listener.
type Master struct {
	Mode Mode
	// Serve is called for each connection, one at a time, which is closed once it returns.
	Serve func(context.Context, *Conn)
}

// Listen opens the socket. fault.Conflict when another process listens there.
func Listen(a Address) (*Listener, error) {
	socket, err := a.listen()
	if err != nil {
		return nil, err
	}
	return &Listener{address: a, socket: socket, busy: make(map[uint32]bool), Log: slog.New(slog.DiscardHandler)}, nil
}

// greetAtOnce bounds handshakes under way: who connects and says nothing costs no more than this.
const greetAtOnce = 64

// Run serves until ctx ends, and then returns when all connections have. find tells the interface that a slave asks for; an
// error refuses it with its text. What one slave does wrong ends its own connection only.
func (l *Listener) Run(ctx context.Context, find func(id uint32) (Master, error)) error {
	// Once, so that whoever comes second waits for the first: the address is free when Run has returned.
	end := sync.OnceFunc(func() { _ = l.socket.Close() })
	defer end()
	defer context.AfterFunc(ctx, end)()
	var wg sync.WaitGroup
	defer wg.Wait()
	greeting := make(chan struct{}, greetAtOnce)
	for {
		socket, err := l.socket.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = socket.Close()
			}
			return ctx.Err()
		}
		if err != nil {
			return fault.New(fault.Unavailable, "memif socket %s: %w", l.address, err)
		}
		greeting <- struct{}{}
		wg.Go(func() {
			c, m, id, err := l.greet(ctx, control{socket}, find)
			<-greeting
			if err != nil {
				if ctx.Err() == nil {
					l.Log.Info("memif refused", "socket", l.address, "reason", err)
				}
				return
			}
			defer l.free(id)
			l.Log.Info("memif connected", "socket", l.address, "id", id, "remote", c.Remote)
			m.Serve(ctx, c)
			l.Log.Info("memif disconnected", "socket", l.address, "id", id, "reason", c.Err())
			c.Close()
		})
	}
}

// Close ends a Listener that was never run.
func (l *Listener) Close() { _ = l.socket.Close() }

// greet does the handshake and claims the interface.
func (l *Listener) greet(ctx context.Context, ctl control, find func(uint32) (Master, error)) (*Conn, Master, uint32, error) {
	defer context.AfterFunc(ctx, func() { finish(ctl.UnixConn) })()
	_ = ctl.SetDeadline(time.Now().Add(handshakeWithin))
	g := greeting{l: l, c: &Conn{ctl: ctl}}
	err := g.run(find)
	if err == nil {
		g.c.live()
		return g.c, g.m, g.id, nil
	}
	if g.claimed {
		l.free(g.id)
	}
	ctl.hearOut()
	ctl.refuse(err)
	g.c.release()
	return nil, Master{}, 0, gone(err)
}

// hearsWithin bounds how long a slave that is refused may take to say the rest.
const hearsWithin = 500 * time.Millisecond

// hearOut reads what a slave still has to say before CONNECT, its last word. The slave of VPP 25.10 queues all its messages as soon as it is greeted; if it
// hears of the end while some are left, it frees its socket and then writes to it, and VPP dies.
func (c control) hearOut() {
	_ = c.SetDeadline(time.Now().Add(hearsWithin))
	for {
		m, err := c.receive()
		if err != nil {
			return
		}
		m.close()
		if m.kind == typeConnect {
			return
		}
	}
}

func (l *Listener) claim(id uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[id] {
		return false
	}
	l.busy[id] = true
	return true
}

func (l *Listener) free(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, id)
}

// greeting is a master's handshake under way.
type greeting struct {
	l       *Listener
	c       *Conn
	m       Master
	id      uint32
	claimed bool
}

func (g *greeting) run(find func(uint32) (Master, error)) error {
	hello := wire.MsgHello{
		VersionMin: wire.Version, VersionMax: wire.Version, MaxRegion: maxRegions - 1,
		MaxRingM2S: maxRings - 1, MaxRingS2M: maxRings - 1, MaxLog2RingSize: maxLog2Ring,
	}
	copy(hello.Name[:len(hello.Name)-1], g.l.Name)
	if err := g.c.ctl.send(typeHello, hello, -1); err != nil {
		return err
	}
	for {
		m, err := g.c.ctl.receive()
		if err != nil {
			return err
		}
		if !g.claimed && m.kind != typeInit {
			m.close()
			return broken("message %d before INIT", m.kind)
		}
		switch m.kind {
		case typeInit:
			m.close()
			err = g.init(m, find)
		case typeAddRegion:
			err = g.addRegion(m)
		case typeAddRing:
			err = g.addRing(m)
		case typeConnect:
			m.close()
			return g.connect(m)
		default:
			m.close()
			err = broken("message %d to a master", m.kind)
		}
		if err == nil {
			err = g.c.ctl.send(typeAck, nil, -1)
		}
		if err != nil {
			return err
		}
	}
}

func (g *greeting) init(m message, find func(uint32) (Master, error)) error {
	var init wire.MsgInit
	if err := m.decode(&init); err != nil {
		return err
	}
	switch {
	case g.claimed:
		return broken("a second INIT")
	case init.Version != wire.Version:
		return broken("version %#x, want %#x", init.Version, wire.Version)
	}
	found, err := find(init.Id)
	if err != nil {
		return err
	}
	if Mode(init.Mode) != found.Mode {
		return fault.New(fault.Invalid, "mode mismatch: asked for %d, interface %d is %d", init.Mode, init.Id, found.Mode)
	}
	if !g.l.claim(init.Id) {
		return fault.New(fault.Conflict, "interface %d is connected already", init.Id)
	}
	g.m, g.id, g.claimed = found, init.Id, true
	g.c.Remote = text(init.Name[:])
	return nil
}

func (g *greeting) addRegion(m message) error {
	defer m.close()
	var add wire.MsgAddRegion
	if err := m.decode(&add); err != nil {
		return err
	}
	if m.fd < 0 || int(add.Index) != len(g.c.regions) || add.Index >= maxRegions {
		return broken("region %d where %d was next, descriptor %t", add.Index, len(g.c.regions), m.fd >= 0)
	}
	mem, err := mapRegion(m.fd, add.Size)
	if err == nil {
		g.c.regions = append(g.c.regions, mem)
	}
	return err
}

func (g *greeting) addRing(m message) error {
	var add wire.MsgAddRing
	if err := m.decode(&add); err != nil {
		m.close()
		return err
	}
	next := len(g.c.Tx)
	if add.Flags&ringIsS2M != 0 {
		next = len(g.c.Rx)
	}
	size := 1 << (add.RingSizeLog2 & 31)
	end := uint64(add.Offset) + uint64(ringBytes(size))
	switch {
	case m.fd < 0 || int(add.Index) != next || next >= maxRings:
		m.close()
		return broken("ring %d where %d was next, descriptor %t", add.Index, next, m.fd >= 0)
	case add.RingSizeLog2 > maxLog2Ring || int(add.Region) >= len(g.c.regions) || add.Offset%4 != 0 || end > uint64(len(g.c.regions[add.Region])):
		m.close()
		return broken("a ring of 2^%d outside of the shared memory", add.RingSizeLog2)
	case add.PrivateHdrSize != 0:
		m.close()
		return broken("private headers of %d bytes", add.PrivateHdrSize)
	}
	event, err := takeEvent(m.fd)
	if err != nil {
		return err
	}
	r := ring{mem: g.c.regions[add.Region][add.Offset:end], size: uint16(size)}
	if add.Flags&ringIsS2M != 0 {
		g.c.Rx = append(g.c.Rx, &Rx{ring: r, event: event})
		return nil
	}
	q, err := newTx(r, event)
	if err != nil {
		_ = event.Close()
		return err
	}
	g.c.Tx = append(g.c.Tx, q)
	return nil
}

func (g *greeting) connect(m message) error {
	var connect wire.MsgConnect
	if err := m.decode(&connect); err != nil {
		return err
	}
	g.c.Interface = text(connect.Name[:])
	if err := g.c.start(); err != nil {
		return err
	}
	var connected wire.MsgConnected
	copy(connected.Name[:len(connected.Name)-1], g.l.Name)
	return g.c.ctl.send(typeConnected, connected, -1)
}
