package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network between two namespaces that can be made bad. It needs nothing of the kernel but packet sockets: netem is not
// in every kernel.
type Link struct {
	middle *Namespace
	ports  [2]*os.File
	wg     sync.WaitGroup

	mu    sync.Mutex
	state Condition
}

// Condition is how a Link is. The zero Condition is a good one.
type Condition struct {
	// Cut lets nothing through; nobody's carrier shows it.
	Cut bool
	// NoUDP loses UDP over IPv4 and nothing else, as a firewall that knows of TCP only.
	NoUDP bool
	// Loss is the part of packets that are lost, 0 to 1, in each direction.
	Loss float64
	// Delay of each packet, in each direction.
	Delay time.Duration
}

// NewLink connects two namespaces as Join does. End it with Close.
func NewLink(name string, a, b *Namespace, atA, atB []netip.Prefix) (*Link, error) {
	middle, err := New()
	if err != nil {
		return nil, err
	}
	l := &Link{middle: middle}
	for i, end := range []struct {
		at        *Namespace
		addresses []netip.Prefix
	}{{a, atA}, {b, atB}} {
		port := fmt.Sprintf("port%d", i)
		if err := veth(middle, port, nil, end.at, name, end.addresses); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		if l.ports[i], err = middle.open(port); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	for i := range l.ports {
		l.wg.Go(func() { l.relay(l.ports[i], l.ports[1-i]) })
	}
	return l, nil
}

// Set changes the condition from now on.
func (l *Link) Set(c Condition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = c
}

// Close takes the link away.
func (l *Link) Close() error {
	var errs []error
	for _, p := range l.ports {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	l.wg.Wait()
	return errors.Join(append(errs, l.middle.Close())...)
}

// open makes a packet socket on an interface. Frames have a virtio header, so that offloaded checksums and segments pass as
// they are (packet(7)).
func (n *Namespace) open(port string) (file *os.File, err error) {
	err = n.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		all := int(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), port)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Attrs().Index}),
		)
	})
	if err != nil && file != nil {
		_ = file.Close()
	}
	return file, err
}

// frame is one on its way.
type frame struct {
	data []byte
	due  time.Time
}

// inFlight is how many frames may be on their way at once.
const inFlight = 4096

func (l *Link) relay(from, to *os.File) {
	way := make(chan frame, inFlight)
	l.wg.Go(func() {
		for f := range way {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // what cannot be sent is lost
		}
	})
	defer close(way)
	buf := make([]byte, 1<<17)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		l.mu.Lock()
		c := l.state
		l.mu.Unlock()
		if err != nil || c.Cut || c.NoUDP && isUDP(buf[:n]) || c.Loss > 0 && rand.Float64() < c.Loss {
			continue
		}
		select {
		case way <- frame{append([]byte(nil), buf[:n]...), time.Now().Add(c.Delay)}:
		default:
		}
	}
}

// isUDP tells whether a frame, behind its virtio header, is UDP over IPv4.
func isUDP(b []byte) bool {
	const virtio, ethernet, protocol = 10, 14, 9
	return len(b) > virtio+ethernet+protocol && b[virtio+12] == 8 && b[virtio+13] == 0 && b[virtio+ethernet+protocol] == unix.IPPROTO_UDP
}
