package memif

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/cenkalti/backoff/v5"
	wire "go.fd.io/govpp/extras/gomemif/memif"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Slave dials a master and shares its memory with it.
type Slave struct {
	Address Address
	// ID chooses among the interfaces of the master's socket.
	ID   uint32
	Mode Mode
	// RingSize is a power of two from 2 to 16384, 0 for 1024. BufferSize is in bytes, 0 for 2048; a longer packet takes
	// several buffers. Queues counts each direction, 0 for 1.
	RingSize   int
	BufferSize int
	Queues     int
	// Name is what the other side is told of this application and interface, at most 31 bytes.
	Name string
	// Log hears of comings and goings; nil for none.
	Log *slog.Logger
}

const (
	defaultRing, defaultBuffer = 1024, 2048
	maxLog2Ring                = 14
	maxBuffer                  = 64 << 10
	// handshakeWithin bounds each handshake. VPP's main thread may be busy for some seconds.
	handshakeWithin = 5 * time.Second
	// finishWithin is how long one that is not wanted any more may still take.
	finishWithin = 250 * time.Millisecond
)

// finish bounds a handshake whose outcome nobody waits for any more. It is not broken off at once: VPP 25.10 crashes when the
// other side hangs up while it has a message to send, and it has some in every handshake.
func finish(socket *net.UnixConn) { _ = socket.SetDeadline(time.Now().Add(finishWithin)) }

// Run dials again and again until ctx ends, and calls serve for each connection, which is closed once serve returns. It
// returns the error of ctx, or fault.Invalid for settings that cannot be.
func (s Slave) Run(ctx context.Context, serve func(context.Context, *Conn)) error {
	if err := s.complete(); err != nil {
		return err
	}
	again := backoff.NewExponentialBackOff()
	again.InitialInterval = 20 * time.Millisecond
	parted := time.Now()
	for last := ""; ; {
		conn, err := s.Connect(ctx)
		if err == nil {
			last = ""
			again.Reset()
			s.Log.Info("memif connected", "socket", s.Address, "remote", conn.Remote)
			serve(ctx, conn)
			s.Log.Info("memif disconnected", "socket", s.Address, "reason", conn.Err())
			conn.Close()
			parted = time.Now()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err.Error() != last {
			last = err.Error()
			s.Log.Info("memif waits for its master", "socket", s.Address, "reason", err)
		}
		// A master that is restarted is back soon; until then nobody has an event that says so.
		again.MaxInterval = time.Second
		if time.Since(parted) < backSoon {
			again.MaxInterval = 60 * time.Millisecond
		}
		select {
		case <-time.After(again.NextBackOff()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// backSoon is how long after the loss of a connection it is tried often.
const backSoon = 10 * time.Second

func (s *Slave) complete() error {
	for _, d := range []struct {
		value        *int
		normal       int
		low, highest int
		what         string
	}{
		{&s.RingSize, defaultRing, 2, 1 << maxLog2Ring, "ring size"},
		{&s.BufferSize, defaultBuffer, 64, maxBuffer, "buffer size"},
		{&s.Queues, 1, 1, maxRings, "number of queues"},
	} {
		if *d.value == 0 {
			*d.value = d.normal
		}
		if *d.value < d.low || *d.value > d.highest {
			return fault.New(fault.Invalid, "memif %s %d: want %d to %d", d.what, *d.value, d.low, d.highest)
		}
	}
	switch {
	case s.RingSize&(s.RingSize-1) != 0:
		return fault.New(fault.Invalid, "memif ring size %d: want a power of two", s.RingSize)
	case 2*s.Queues*s.RingSize*(s.BufferSize+2*descriptorSize) > maxRegion:
		return fault.New(fault.Invalid, "memif of %d queues, %d buffers each, %d bytes each: over 4 GiB", s.Queues, s.RingSize, s.BufferSize)
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return s.Address.check()
}

// Connect dials once. fault.Unavailable when nobody listens or the master refuses.
func (s Slave) Connect(ctx context.Context) (*Conn, error) {
	if err := s.complete(); err != nil {
		return nil, err
	}
	socket, err := s.Address.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { finish(socket) })()
	c := &Conn{ctl: control{socket}}
	_ = socket.SetDeadline(time.Now().Add(handshakeWithin))
	if err := s.handshake(c); err != nil {
		c.ctl.refuse(err)
		c.release()
		return nil, fault.New(fault.KindOf(gone(err)), "memif socket %s: %w", s.Address, gone(err))
	}
	c.live()
	return c, nil
}

func (s Slave) handshake(c *Conn) error {
	var hello wire.MsgHello
	if err := c.ctl.await(typeHello, &hello); err != nil {
		return err
	}
	if hello.VersionMin > wire.Version || hello.VersionMax < wire.Version {
		return broken("versions %#x to %#x, want %#x", hello.VersionMin, hello.VersionMax, wire.Version)
	}
	c.Remote = text(hello.Name[:])
	s.RingSize = min(s.RingSize, 1<<min(hello.MaxLog2RingSize, maxLog2Ring))
	s.Queues = min(s.Queues, int(hello.MaxRingS2M)+1, int(hello.MaxRingM2S)+1)
	fd, err := s.share(c)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()

	init := wire.MsgInit{Version: wire.Version, Id: s.ID}
	if s.Mode == IP {
		init.Mode = wire.InterfaceModeIp
	}
	copy(init.Name[:len(init.Name)-1], s.Name)
	if err := c.ctl.ask(typeInit, init, -1); err != nil {
		return err
	}
	if err := c.ctl.ask(typeAddRegion, wire.MsgAddRegion{Index: 0, Size: uint64(len(c.regions[0]))}, fd); err != nil {
		return err
	}
	if err := s.announce(c); err != nil {
		return err
	}
	var connect wire.MsgConnect
	copy(connect.Name[:len(connect.Name)-1], s.Name)
	// From here on the master may read and write.
	if err := c.start(); err != nil {
		return err
	}
	if err := c.ctl.send(typeConnect, connect, -1); err != nil {
		return err
	}
	var connected wire.MsgConnected
	if err := c.ctl.await(typeConnected, &connected); err != nil {
		return err
	}
	c.Interface = text(connected.Name[:])
	return nil
}

// ask sends a message and waits for its acknowledgement.
func (c control) ask(kind uint16, body any, fd int) error {
	if err := c.send(kind, body, fd); err != nil {
		return err
	}
	return c.await(typeAck, nil)
}

// share makes the memory: all rings, from slave to master first, then all buffers in the same order.
func (s Slave) share(c *Conn) (fd int, err error) {
	buffers := 2 * s.Queues * ringBytes(s.RingSize)
	fd, mem, err := newRegion(buffers + 2*s.Queues*s.RingSize*s.BufferSize)
	if err != nil {
		return -1, err
	}
	c.regions = [][]byte{mem}
	for i := range 2 * s.Queues {
		at := i * ringBytes(s.RingSize)
		r := ring{mem: mem[at : at+ringBytes(s.RingSize)], size: uint16(s.RingSize)}
		base := uint32(buffers + i*s.RingSize*s.BufferSize)
		*r.word(0) = ringCookie
		for slot := range s.RingSize {
			*r.at(uint16(slot)) = descriptor{offset: base + uint32(slot*s.BufferSize), length: uint32(s.BufferSize)}
		}
		event, err := newEvent()
		if err == nil && i < s.Queues {
			var q *Tx
			if q, err = newTx(r, event); err == nil {
				q.slave, q.buffer, q.base = true, uint32(s.BufferSize), base
				c.Tx = append(c.Tx, q)
			}
		} else if err == nil {
			c.Rx = append(c.Rx, &Rx{ring: r, slave: true, buffer: uint32(s.BufferSize), event: event})
		}
		if err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// announce tells the master of the rings.
func (s Slave) announce(c *Conn) error {
	log2 := uint8(0)
	for 1<<log2 < s.RingSize {
		log2++
	}
	for i := range 2 * s.Queues {
		m := wire.MsgAddRing{Index: uint16(i % s.Queues), Offset: uint32(i * ringBytes(s.RingSize)), RingSizeLog2: log2}
		event := c.Rx[i%s.Queues].event
		if i < s.Queues {
			m.Flags, event = ringIsS2M, c.Tx[i].event
		}
		raw, err := event.SyscallConn()
		if err != nil {
			return err
		}
		// Not Fd(), which would make the descriptor block.
		var sent error
		if err := raw.Control(func(fd uintptr) { sent = c.ctl.ask(typeAddRing, m, int(fd)) }); err != nil {
			return err
		}
		if sent != nil {
			return sent
		}
	}
	return nil
}
