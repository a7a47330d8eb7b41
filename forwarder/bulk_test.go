package forwarder_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/mechanisms/memif/peer"
	"highwire/vppapi/memif"
)

// stack puts the kernel's network stack behind a memif end: a tun or tap interface in the end's namespace whose packets pass
// over the memif. It promises no offloads, so the kernel computes and checks every checksum.
type stack struct {
	device *os.File

	mu   sync.Mutex
	conn *memif.Conn // nil while VPP is not there
	up   chan struct{}
}

// behind runs a stack until the test ends.
func behind(t *testing.T, e mechanisms.End, n *lab.Namespace) *stack {
	t.Helper()
	s := &stack{up: make(chan struct{})}
	if err := n.Do(func() error { return s.open(e) }); err != nil {
		t.Fatal(err)
	}
	mode := memif.Ethernet
	if e.Payload == mechanisms.IP {
		mode = memif.IP
	}
	address := memif.Address{Name: e.Params[mechanisms.ParamSocket], Netns: n.Path()}
	sent := make(chan struct{})
	t.Cleanup(func() { <-sent })
	t.Cleanup(func() { _ = s.device.Close() })
	go func() {
		defer close(sent)
		s.send()
	}()
	if e.Side == mechanisms.Client {
		running(t, func(ctx context.Context) error { return memif.Slave{Address: address, Mode: mode}.Run(ctx, s.receive) })
		return s
	}
	l, err := memif.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	running(t, func(ctx context.Context) error {
		return l.Run(ctx, func(uint32) (memif.Master, error) { return memif.Master{Mode: mode, Serve: s.receive}, nil })
	})
	return s
}

// open makes the interface, in the thread's namespace.
func (s *stack) open(e mechanisms.End) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_NO_PI | unix.IFF_TAP)
	if e.Payload == mechanisms.IP {
		flags = unix.IFF_NO_PI | unix.IFF_TUN
	}
	request, err := unix.NewIfreq("stack0")
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	s.device = os.NewFile(uintptr(fd), "/dev/net/tun")
	link, err := netlink.LinkByName("stack0")
	if err != nil {
		return err
	}
	if e.MTU > 0 {
		err = netlink.LinkSetMTU(link, int(e.MTU))
	}
	for _, a := range e.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
		err = errors.Join(err, netlink.AddrAdd(link, addr))
	}
	err = errors.Join(err, netlink.LinkSetUp(link))
	for _, r := range e.Remote {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: r.Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())}}
		if r.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		err = errors.Join(err, netlink.RouteAdd(route))
	}
	return err
}

// send passes on what the kernel sends. Without room it is lost, as on a wire.
func (s *stack) send() {
	buf := make([]byte, 64<<10)
	for {
		n, err := s.device.Read(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conn != nil && s.conn.Tx[0].Write(buf[:n]) == nil {
			s.conn.Tx[0].Flush()
		}
		s.mu.Unlock()
	}
}

// receive gives the kernel what comes over one connection.
func (s *stack) receive(ctx context.Context, c *memif.Conn) {
	defer context.AfterFunc(ctx, func() { c.End(ctx.Err()) })()
	s.mu.Lock()
	s.conn = c
	close(s.up)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.conn, s.up = nil, make(chan struct{})
		s.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for c.Rx[0].Wait() == nil {
		for {
			n, err := c.Rx[0].Read(buf)
			if err != nil {
				break
			}
			_, _ = s.device.Write(buf[:n]) // an interface that is going takes nothing
		}
		c.Rx[0].Release()
	}
}

func (s *stack) await(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	up := s.up
	s.mu.Unlock()
	select {
	case <-up:
	case <-within(t, 30*time.Second).Done():
		t.Fatal("VPP has not connected")
	}
}

// TestBulk: TCP and UDP pass in bulk, both ways, between a kernel interface and a memif with the kernel's stack behind it: every
// byte as it was sent, and no checksum wrong.
func TestBulk(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no /dev/net/tun on this machine to put a stack behind the memif:", err)
	}
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		ctx := within(t, 3*time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		for _, kind := range []string{"kernel-memif", "memif-kernel"} {
			for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
				t.Run(fmt.Sprintf("%s-%s", kind, payload), func(t *testing.T) {
					p := newPair(t)
					v := memifVWire(t, fmt.Sprintf("bulk-%s-%s", kind, payload), p, memifKinds[kind], payload, families["dual"])
					end, n := v.Endpoint, p.endpoint
					if kind == "memif-kernel" {
						end, n = v.Client, p.client
					}
					s := behind(t, end, n)
					a.setHeld(t, p, v)
					s.await(t)
					for i := range 2 {
						client, endpoint := v.Client.Addresses[i].Addr(), v.Endpoint.Addresses[i].Addr()
						tcpPasses(ctx, t, p.client, p.endpoint, endpoint)
						tcpPasses(ctx, t, p.endpoint, p.client, client)
						udpPasses(ctx, t, p.client, p.endpoint, endpoint)
						udpPasses(ctx, t, p.endpoint, p.client, client)
					}
					for _, n := range []*lab.Namespace{p.client, p.endpoint} {
						noChecksumErrors(t, n)
					}
					a.explain(ctx, t)
					if err := a.Delete(ctx, v.ID); err != nil {
						t.Error(err)
					}
				})
			}
		}
		a.nothingLeft(ctx, t)
	})
}

// TestJumbo: packets of 9000 bytes pass whole through every pair, both ways.
func TestJumbo(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		const size = 9000
		ctx := within(t, 3*time.Minute)
		d.start(t)
		a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
		kinds := maps.Clone(memifKinds)
		kinds["kernel-kernel"] = [2]string{mechanisms.Kernel, mechanisms.Kernel}
		for kind, types := range kinds {
			for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
				t.Run(fmt.Sprintf("%s-%s", kind, payload), func(t *testing.T) {
					p := newPair(t)
					v := memifVWire(t, fmt.Sprintf("jumbo-%s-%s", kind, payload), p, types, payload, families["dual"])
					v.Client.MTU, v.Endpoint.MTU = size, size
					far, _ := occupy(t, v.Endpoint, p.endpoint)
					near, _ := occupy(t, v.Client, p.client)
					a.setHeld(t, p, v)
					awaitLink(t, near, far)
					for _, from := range []struct {
						app *peer.Peer
						n   *lab.Namespace
						to  []netip.Prefix
					}{{near, p.client, v.Endpoint.Addresses}, {far, p.endpoint, v.Client.Addresses}} {
						reachable(ctx, t, func(ctx context.Context, dst netip.Addr, count int) (int, error) {
							if from.app != nil {
								echoes, err := from.app.Ping(ctx, dst, count, size)
								return echoes.Received, err
							}
							received := 0
							for range count {
								passage, err := from.n.Probe(ctx, dst, size)
								if err != nil {
									return received, err
								}
								if passage.Answered {
									received++
								}
							}
							return received, nil
						}, from.to)
					}
					a.explain(ctx, t)
					if err := a.Delete(ctx, v.ID); err != nil {
						t.Error(err)
					}
				})
			}
		}
		a.nothingLeft(ctx, t)
	})
}

// noise is a stream of bytes that nobody could make up, the same for the same seed.
func noise(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// tcpPasses sends some MiB to an address and compares what arrives.
func tcpPasses(ctx context.Context, t *testing.T, from, to *lab.Namespace, addr netip.Addr) {
	t.Helper()
	const size = 8 << 20
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", l.Addr().String())
		return err
	}); err != nil {
		t.Errorf("connect to %s: %v", addr, err)
		return
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	arrived := make(chan []byte, 1)
	go func() {
		h := sha256.New()
		in, err := l.Accept()
		if err == nil {
			defer in.Close()
			_, err = io.Copy(h, in)
		}
		if err != nil {
			h.Reset()
		}
		arrived <- h.Sum(nil)
	}()
	h := sha256.New()
	begun := time.Now()
	_, err := io.CopyN(io.MultiWriter(c, h), noise(1), size)
	c.Close()
	if got := <-arrived; err != nil || !bytes.Equal(got, h.Sum(nil)) {
		t.Errorf("TCP to %s: %v; what arrived differs from what was sent", addr, err)
		return
	}
	t.Logf("TCP to %s: %.2f Gb/s", addr, size*8/time.Since(begun).Seconds()/1e9)
}

// udpPasses sends datagrams in bursts to an address where they are sent back, and compares what returns. Those that were lost
// are sent again.
func udpPasses(ctx context.Context, t *testing.T, from, to *lab.Namespace, addr netip.Addr) {
	t.Helper()
	const size, burst, bursts = 1400, 32, 40
	var far, near *net.UDPConn
	if err := to.Do(func() (err error) {
		far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := from.Do(func() (err error) {
		near, err = net.DialUDP("udp", nil, far.LocalAddr().(*net.UDPAddr))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	var echo sync.WaitGroup
	echo.Go(func() {
		buf := make([]byte, size)
		for {
			n, back, err := far.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = far.WriteToUDPAddrPort(buf[:n], back)
		}
	})
	defer echo.Wait()
	defer far.Close()
	source, lost := noise(2), 0
	for range bursts {
		missing := make(map[string]bool)
		for range burst {
			b := make([]byte, size)
			_, _ = io.ReadFull(source, b)
			missing[string(b)] = true
		}
		for len(missing) > 0 {
			for b := range missing {
				if _, err := near.Write([]byte(b)); err != nil {
					t.Errorf("UDP to %s: %v", addr, err)
					return
				}
			}
			_ = near.SetReadDeadline(time.Now().Add(time.Second))
			buf := make([]byte, 2*size)
			for len(missing) > 0 {
				n, err := near.Read(buf)
				if err != nil {
					break
				}
				delete(missing, string(buf[:n]))
			}
			if lost += len(missing); ctx.Err() != nil || lost > burst*bursts {
				t.Errorf("UDP to %s: %d of %d datagrams did not come back as they were", addr, lost, burst*bursts)
				return
			}
		}
	}
	t.Logf("UDP to %s: %d datagrams, %d sent again", addr, burst*bursts, lost)
}

// noChecksumErrors reads the kernel's counters in the namespace.
func noChecksumErrors(t *testing.T, n *lab.Namespace) {
	t.Helper()
	if err := n.Do(func() error {
		for _, file := range []string{"snmp", "snmp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for name, value := range counters(string(text)) {
				if strings.HasSuffix(name, "InCsumErrors") && value != "0" {
					t.Errorf("%s is %s", name, value)
				}
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// counters reads /proc/net/snmp (a line of names, a line of values) and snmp6 (a name and a value a line).
func counters(text string) map[string]string {
	values := make(map[string]string)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		if len(fields) == 2 && !strings.HasSuffix(fields[0], ":") {
			values[fields[0]] = fields[1]
		} else if len(fields) > 2 && i+1 < len(lines) {
			for j, v := range strings.Fields(lines[i+1]) {
				if j > 0 && j < len(fields) && strings.HasPrefix(lines[i+1], fields[0]) {
					values[fields[0]+fields[j]] = v
				}
			}
		}
	}
	return values
}
