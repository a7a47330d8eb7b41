package memif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	control "highwire/vppapi/memif"
)

// Direct joins two memif ends of one node without VPP in between, if the mechanism was made for that; otherwise it answers
// nothing. Packets then pass through memory that only the two peers share.
//
// The agent listens where VPP would, dials the endpoint for every client that connects, and relays their control channel:
// messages, and the descriptors of memory and interrupts that come with them. It understands none of them. When either
// peer hangs up, the other is hung up on, and dials again as memif slaves do. The relay ends with the agent; the peers
// reconnect through the next one.
func (m *Mechanism) Direct(client, endpoint mechanisms.End) ([]vppapi.Object, error) {
	if !m.cfg.Direct {
		return nil, nil
	}
	from, err := m.parse(client)
	if err != nil {
		return nil, err
	}
	to, err := m.parse(endpoint)
	if err != nil {
		return nil, err
	}
	return []vppapi.Object{Relay{name: client.VWire + ":direct", from: from, to: to, m: m}}, nil
}

// Relay is the direct path of one vWire.
type Relay struct {
	name     string
	from, to location
	// guarded is a client's way to VPP, which is to take interfaces in that mode.
	guarded bool
	mode    uint8
	m       *Mechanism
}

// Key is {socket, "<vwire>:direct"}, or the end's name for a guarded one.
func (r Relay) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindSocket, Name: r.name} }

// Uses nothing.
func (r Relay) Uses() []vppapi.Key { return nil }

func (r Relay) String() string {
	if r.guarded {
		return fmt.Sprintf("guarded memif from %s to %s", r.from, r.to)
	}
	return fmt.Sprintf("direct memif from %s to %s", r.from, r.to)
}

// String is the socket for people.
func (l location) String() string {
	switch {
	case l.abstract:
		return "@" + l.name + " in " + l.inode.String()
	case l.hasInode:
		return "the socket " + l.inode.String()
	}
	return l.name
}

// Observe tells whether the relay runs.
func (r Relay) Observe(context.Context) bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	_, ok := r.m.relays[r]
	return ok
}

// Realize begins to listen. A socket name that is taken is fault.Conflict.
func (r Relay) Realize(ctx context.Context) (bool, error) {
	if r.Observe(ctx) {
		return false, nil
	}
	var listener *net.UnixListener
	err := r.m.at(ctx, r.from, func(addr *net.UnixAddr) (err error) {
		listener, err = net.ListenUnix("unixpacket", addr)
		if errors.Is(err, unix.EADDRINUSE) && (control.Address{Name: addr.Name}).Stale() { // a file of an agent that died
			listener, err = net.ListenUnix("unixpacket", addr)
		}
		return err
	})
	if errors.Is(err, unix.EADDRINUSE) {
		return false, fault.New(fault.Conflict, "memif socket %s is taken", r.from)
	}
	if err != nil {
		return false, fmt.Errorf("listen on memif socket %s: %w", r.from, err)
	}
	run, stop := context.WithCancel(context.Background())
	running := &relaying{stop: stop, listener: listener}
	running.wg.Go(func() { r.accept(run, running) })
	r.m.mu.Lock()
	r.m.relays[r] = running
	r.m.mu.Unlock()
	return true, nil
}

// Release stops listening, ends all that was joined, and waits for it.
func (r Relay) Release(context.Context) error {
	r.m.mu.Lock()
	running := r.m.relays[r]
	delete(r.m.relays, r)
	r.m.mu.Unlock()
	if running != nil {
		running.end()
	}
	return nil
}

// Close ends all relays.
func (m *Mechanism) Close() {
	m.mu.Lock()
	relays := m.relays
	m.relays = make(map[Relay]*relaying)
	m.mu.Unlock()
	for _, r := range relays {
		r.end()
	}
}

// at calls fn with the address of a socket, on a thread in whose namespace it is.
func (m *Mechanism) at(ctx context.Context, l location, fn func(*net.UnixAddr) error) error {
	addr := &net.UnixAddr{Net: "unixpacket", Name: l.name}
	switch {
	case l.abstract:
		addr.Name = "@" + l.name
		return m.cfg.Namespaces.Do(ctx, l.inode, func() error { return fn(addr) })
	case l.hasInode:
		path, err := m.cfg.Namespaces.Path(l.inode)
		if err != nil {
			return err
		}
		addr.Name = path
	}
	return fn(addr)
}

// relaying is a Relay at work.
type relaying struct {
	stop     context.CancelFunc
	listener *net.UnixListener
	wg       sync.WaitGroup
}

func (w *relaying) end() {
	w.stop()
	_ = w.listener.Close()
	w.wg.Wait()
}

func (r Relay) accept(run context.Context, w *relaying) {
	for {
		client, err := w.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the one who connected is gone already
		}
		w.wg.Go(func() {
			defer client.Close()
			if r.guarded {
				r.guard(run, client)
				return
			}
			var endpoint *net.UnixConn
			err := r.m.at(run, r.to, func(addr *net.UnixAddr) (err error) {
				endpoint, err = net.DialUnix("unixpacket", nil, addr)
				return err
			})
			if err != nil {
				return // the endpoint does not listen; the client is hung up on and tries again
			}
			defer endpoint.Close()
			join(run, client, endpoint)
		})
	}
}

// join copies both ways until one side ends.
func join(run context.Context, a, b *net.UnixConn) {
	hangUp := sync.OnceFunc(func() { _ = a.Close(); _ = b.Close() })
	defer context.AfterFunc(run, hangUp)()
	var both sync.WaitGroup
	for _, d := range [][2]*net.UnixConn{{a, b}, {b, a}} {
		both.Go(func() {
			defer hangUp()
			for pass(d[0], d[1]) == nil {
			}
		})
	}
	both.Wait()
}

const (
	// messageBytes is the size of every message of the memif control channel.
	messageBytes = 128
	// maxFiles is more than any message carries.
	maxFiles = 4
)

// message is one of the control channel with the descriptors that came with it.
type message struct {
	bytes [messageBytes]byte
	files []int
}

// close gives up the descriptors.
func (m *message) close() {
	for _, fd := range m.files {
		_ = unix.Close(fd)
	}
}

// receive waits for a message, which is to be closed also on error.
func receive(from *net.UnixConn) (m message, err error) {
	var b [messageBytes + 1]byte
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := from.ReadMsgUnix(b[:], oob)
	m.files = control.Descriptors(oob[:oobn])
	copy(m.bytes[:], b[:])
	switch {
	case err != nil:
		return m, err
	case n == 0:
		return m, os.ErrClosed
	case n != messageBytes || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return m, fault.New(fault.Invalid, "%d bytes on a memif control channel", n)
	}
	return m, nil
}

func send(to *net.UnixConn, m *message) error {
	var rights []byte
	if len(m.files) > 0 {
		rights = unix.UnixRights(m.files...)
	}
	_, _, err := to.WriteMsgUnix(m.bytes[:], rights, nil)
	return err
}

// pass hands one message on with its descriptors.
func pass(from, to *net.UnixConn) error {
	m, err := receive(from)
	defer m.close()
	if err != nil {
		return err
	}
	return send(to, &m)
}
