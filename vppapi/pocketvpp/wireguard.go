package pocketvpp

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/wireguard"
	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const devWireGuard = "Wireguard Tunnel"

// wireguardQueue is how many packets may wait for the device in either direction; more are lost.
const wireguardQueue = 1024

// wireguardPort is a port whose packets a device of wireguard-go encrypts. To the device it is a tun on one side and its
// UDP socket on the other.
type wireguardPort struct {
	s        *Server
	iface    *iface
	instance uint32
	public   []byte
	local    netip.AddrPort
	device   *wgdevice.Device
	peers    []uint32 // in Server.wireguardPeers

	events chan tun.Event
	plain  chan []byte // on their way out
	sealed chan sealed // on their way in
	closed chan struct{}

	bind opened
	met  atomic.Bool // the device has sent data, so there is a session: see tellHandshakes
	rx   sync.Mutex
	pkt  *packet // of what was received
	tx   sync.Mutex
	sent *packet
}

// sealed is an encrypted datagram.
type sealed struct {
	data []byte
	from netip.AddrPort
}

// wireguardPeer is a peer as it was given.
type wireguardPeer struct {
	port *wireguardPort
	wireguard.WireguardPeer
	wanted []*client // of its events
}

// wireguardMessages are those of wireguard.api.
func (s *Server) wireguardMessages(t *table) {
	request(t, func(_ *call, q *wireguard.WireguardInterfaceCreate) (p wireguard.WireguardInterfaceCreateReply) {
		i, err := s.createWireGuard(q)
		if err != nil {
			s.log.Warn("wireguard", "error", err)
			p.Retval, p.SwIfIndex = int32(api.INVALID_REGISTRATION), anyIndex
			return p
		}
		p.SwIfIndex = interface_types.InterfaceIndex(i.index)
		return p
	})
	request(t, func(_ *call, q *wireguard.WireguardInterfaceDelete) (p wireguard.WireguardInterfaceDeleteReply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
		} else if port, ok := i.port.(*wireguardPort); !ok {
			p.Retval = int32(api.INVALID_VALUE)
		} else {
			s.deleteWireGuard(port)
		}
		return p
	})
	dump(t, func(_ *call, q *wireguard.WireguardInterfaceDump, emit func(wireguard.WireguardInterfaceDetails)) {
		for i := range s.ifaces.values() {
			port, ok := i.port.(*wireguardPort)
			if ok && (q.SwIfIndex == anyIndex || uint32(q.SwIfIndex) == i.index) {
				emit(wireguard.WireguardInterfaceDetails{Interface: wireguard.WireguardInterface{
					UserInstance: port.instance, SwIfIndex: interface_types.InterfaceIndex(i.index), PrivateKey: make([]byte, 32), PublicKey: port.public,
					Port: port.local.Port(), SrcIP: apiAddr(port.local.Addr()),
				}})
			}
		}
	})
	request(t, func(_ *call, q *wireguard.WireguardPeerAdd) (p wireguard.WireguardPeerAddReply) {
		index, rv := s.addWireGuardPeer(q.Peer)
		p.Retval, p.PeerIndex = int32(rv), index
		return p
	})
	request(t, func(_ *call, q *wireguard.WireguardPeerRemove) (p wireguard.WireguardPeerRemoveReply) {
		peer, ok := s.wireguardPeers.get(q.PeerIndex)
		if !ok {
			p.Retval = int32(api.NO_SUCH_ENTRY)
			return p
		}
		s.wireguardPeers.remove(q.PeerIndex)
		peer.port.peers = slices.DeleteFunc(peer.port.peers, func(n uint32) bool { return n == q.PeerIndex })
		if err := peer.port.device.IpcSet(fmt.Sprintf("public_key=%x\nremove=true\n", peer.PublicKey)); err != nil {
			s.log.Warn("wireguard", "error", err)
		}
		return p
	})
	dump(t, func(_ *call, q *wireguard.WireguardPeersDump, emit func(wireguard.WireguardPeersDetails)) {
		for n, peer := range s.wireguardPeers.all() {
			if q.PeerIndex == ^uint32(0) || q.PeerIndex == n {
				d := peer.WireguardPeer
				d.PeerIndex = n
				emit(wireguard.WireguardPeersDetails{Peer: d})
			}
		}
	})
	t.declare(&wireguard.WireguardPeerEvent{})
	request(t, func(c *call, q *wireguard.WantWireguardPeerEvents) (p wireguard.WantWireguardPeerEventsReply) {
		for n, peer := range s.wireguardPeers.all() {
			if q.PeerIndex != ^uint32(0) && q.PeerIndex != n || q.SwIfIndex != anyIndex && uint32(q.SwIfIndex) != peer.port.iface.index {
				continue
			}
			peer.unwant(c.client)
			if q.EnableDisable != 0 {
				peer.wanted = append(peer.wanted, c.client)
			}
		}
		return p
	})
}

func (p *wireguardPeer) unwant(c *client) {
	p.wanted = slices.DeleteFunc(p.wanted, func(w *client) bool { return w == c })
}

// tellHandshakes finds peers that have a session since the last look, and tells who wants to know.
func (s *Server) tellHandshakes() {
	for n, peer := range s.wireguardPeers.all() {
		if !peer.port.met.Load() || peer.Flags&wireguard.WIREGUARD_PEER_ESTABLISHED != 0 {
			continue
		}
		state, err := peer.port.device.IpcGet()
		_, state, known := strings.Cut(state, fmt.Sprintf("public_key=%x\n", peer.PublicKey))
		state, _, _ = strings.Cut(state, "public_key=")
		if err != nil || !known || strings.Contains(state, "last_handshake_time_sec=0\n") {
			continue
		}
		peer.Flags |= wireguard.WIREGUARD_PEER_ESTABLISHED
		for _, c := range peer.wanted {
			c.send(0, &wireguard.WireguardPeerEvent{PeerIndex: n, Flags: peer.Flags})
		}
	}
}

func (s *Server) createWireGuard(q *wireguard.WireguardInterfaceCreate) (*iface, error) {
	if q.GenerateKey {
		return nil, errors.New("keys are not generated here")
	}
	private, err := ecdh.X25519().NewPrivateKey(q.Interface.PrivateKey)
	if err != nil {
		return nil, err
	}
	port := &wireguardPort{
		s: s, local: netip.AddrPortFrom(addrOf(q.Interface.SrcIP), q.Interface.Port), public: private.PublicKey().Bytes(),
		events: make(chan tun.Event, 4), plain: make(chan []byte, wireguardQueue), sealed: make(chan sealed, wireguardQueue), closed: make(chan struct{}),
		pkt: newPacket(), sent: newPacket(),
	}
	quiet := &wgdevice.Logger{Verbosef: wgdevice.DiscardLogf, Errorf: wgdevice.DiscardLogf}
	port.device = wgdevice.NewDevice(port, wireguardBind{port}, quiet)
	err = port.device.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\n", q.Interface.PrivateKey, q.Interface.Port))
	if err != nil {
		port.device.Close()
		return nil, err
	}
	port.instance = s.wireguards.add(port)
	i := &iface{name: fmt.Sprintf("wg%d", port.instance), devType: devWireGuard, port: port}
	port.iface = i
	s.addIface(i)
	s.fwd.Lock()
	defer s.fwd.Unlock()
	s.udp[port.local.Port()] = port
	return i, nil
}

func (s *Server) deleteWireGuard(port *wireguardPort) {
	for _, n := range port.peers {
		s.wireguardPeers.remove(n)
	}
	s.wireguards.remove(port.instance)
	s.fwd.Lock()
	delete(s.udp, port.local.Port())
	s.fwd.Unlock()
	s.deleteIface(port.iface)
}

func (s *Server) addWireGuardPeer(q wireguard.WireguardPeer) (uint32, api.VPPApiError) {
	i, rv := s.find(q.SwIfIndex)
	if i == nil {
		return ^uint32(0), api.VPPApiError(rv)
	}
	port, ok := i.port.(*wireguardPort)
	if !ok {
		return ^uint32(0), api.INVALID_SW_IF_INDEX
	}
	if len(q.AllowedIps) == 0 {
		return ^uint32(0), api.INVALID_VALUE
	}
	for peer := range s.wireguardPeers.values() {
		if slices.Equal(peer.PublicKey, q.PublicKey) {
			return ^uint32(0), api.ENTRY_ALREADY_EXISTS
		}
	}
	var config strings.Builder
	fmt.Fprintf(&config, "public_key=%x\nendpoint=%s\npersistent_keepalive_interval=%d\n", q.PublicKey, netip.AddrPortFrom(addrOf(q.Endpoint), q.Port), q.PersistentKeepalive)
	for _, a := range q.AllowedIps {
		fmt.Fprintf(&config, "allowed_ip=%s\n", netip.PrefixFrom(addrOf(a.Address), int(a.Len)))
	}
	port.met.Store(false)
	if err := port.device.IpcSet(config.String()); err != nil {
		s.log.Warn("wireguard", "error", err)
		return ^uint32(0), api.INVALID_REGISTRATION
	}
	q.Flags = 0
	n := s.wireguardPeers.add(&wireguardPeer{port: port, WireguardPeer: q})
	port.peers = append(port.peers, n)
	return n, 0
}

// transmit leaves a packet to the device.
func (w *wireguardPort) transmit(p *packet) error {
	if err := p.settle(false, false); err != nil {
		return err
	}
	select {
	case w.plain <- slices.Clone(p.bytes()):
		return nil
	default:
		return io.ErrShortBuffer
	}
}

// receive gives the device what came in on its UDP port.
func (w *wireguardPort) receive(_ *iface, p *packet) error {
	src, _, err := p.datagram()
	if err != nil {
		return err
	}
	select {
	case w.sealed <- sealed{slices.Clone(p.bytes()), src}:
		return nil
	default:
		return io.ErrShortBuffer
	}
}

// setAdmin: VPP's peers shake hands as soon as their interface is up.
func (w *wireguardPort) setAdmin(up bool) (bool, error) {
	if up {
		return true, w.device.Up()
	}
	w.met.Store(false)
	for _, n := range w.peers {
		if peer, ok := w.s.wireguardPeers.get(n); ok {
			peer.Flags &^= wireguard.WIREGUARD_PEER_ESTABLISHED
		}
	}
	return false, w.device.Down()
}

func (w *wireguardPort) close() { w.device.Close() }

// File, Read, Write, MTU, Name, Events, Close and BatchSize make it a tun.Device.

// File is none.
func (w *wireguardPort) File() *os.File { return nil }

// Read gives the device a packet to send.
func (w *wireguardPort) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-w.plain:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-w.closed:
		return 0, os.ErrClosed
	}
}

// Write takes packets that the device has decrypted.
func (w *wireguardPort) Write(bufs [][]byte, offset int) (int, error) {
	w.rx.Lock()
	defer w.rx.Unlock()
	for _, b := range bufs {
		p := w.pkt
		p.off = headroom
		p.end = p.off + copy(p.buf[p.off:], b[offset:])
		p.offload = offload{}
		w.s.input(w.iface, p)
	}
	return len(bufs), nil
}

// MTU of one makes the device fill no packet up to a multiple of 16 bytes: VPP does not either, and a packet of the size of
// the MTU would become too long. What is too long is refused elsewhere.
func (w *wireguardPort) MTU() (int, error) { return 1, nil }

// Name is for logs.
func (w *wireguardPort) Name() (string, error) { return "wireguard", nil }

// Events never has any.
func (w *wireguardPort) Events() <-chan tun.Event { return w.events }

// Close ends Read.
func (w *wireguardPort) Close() error {
	close(w.closed)
	close(w.events)
	return nil
}

// BatchSize is one.
func (w *wireguardPort) BatchSize() int { return 1 }

// wireguardBind is the device's UDP socket.
type wireguardBind struct{ *wireguardPort }

// opened is one life of a bind; the device closes and opens it as the interface goes down and up.
type opened struct {
	mu   sync.Mutex
	done chan struct{}
}

var errTooLong = errors.New("packet too long")

// Open gives the device a function to receive with.
func (b wireguardBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	done := make(chan struct{})
	b.bind.mu.Lock()
	b.bind.done = done
	b.bind.mu.Unlock()
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
		select {
		case d := <-b.sealed:
			sizes[0], from[0] = copy(bufs[0], d.data), wireguardEndpoint{d.from}
			return 1, nil
		case <-done:
			return 0, net.ErrClosed
		}
	}}, port, nil
}

// Close ends what Open gave.
func (b wireguardBind) Close() error {
	b.bind.mu.Lock()
	defer b.bind.mu.Unlock()
	if b.bind.done != nil {
		close(b.bind.done)
		b.bind.done = nil
	}
	return nil
}

// SetMark does nothing.
func (b wireguardBind) SetMark(uint32) error { return nil }

// Send sends datagrams from the interface's own address.
func (b wireguardBind) Send(bufs [][]byte, to conn.Endpoint) error {
	b.tx.Lock()
	defer b.tx.Unlock()
	for _, data := range bufs {
		p := b.sent
		if len(data) > maxPacket-headroom {
			return errTooLong
		}
		p.off = headroom
		p.end = p.off + copy(p.buf[p.off:], data)
		p.offload = offload{}
		// What is lost here the protocol sends again, or its users do.
		_ = b.s.sendUDP(p, b.local, to.(wireguardEndpoint).AddrPort)
		if len(data) > 0 && data[0] == wgdevice.MessageTransportType && !b.met.Swap(true) {
			b.s.stir()
		}
	}
	return nil
}

// ParseEndpoint reads an address with a port.
func (b wireguardBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return wireguardEndpoint{a}, err
}

// wireguardEndpoint is where a peer is.
type wireguardEndpoint struct{ netip.AddrPort }

func (e wireguardEndpoint) ClearSrc()           {}
func (e wireguardEndpoint) SrcToString() string { return "" }
func (e wireguardEndpoint) DstToString() string { return e.String() }
func (e wireguardEndpoint) DstToBytes() []byte  { b, _ := e.MarshalBinary(); return b }
func (e wireguardEndpoint) DstIP() netip.Addr   { return e.Addr() }
func (e wireguardEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }
