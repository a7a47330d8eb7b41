package lab

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace makes one, or skips the test where that is not allowed.
func namespace(t *testing.T) *Namespace {
	t.Helper()
	n, err := New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// pair joins two namespaces by a veth with an address of each family at both ends.
func pair(t *testing.T) (a, b *Namespace) {
	t.Helper()
	a, b = namespace(t), namespace(t)
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	if err := Join("hw0", a, b, prefixes("10.9.0.1/24", "fd09::1/64"), prefixes("10.9.0.2/24", "fd09::2/64")); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestPing(t *testing.T) {
	t.Parallel()
	a, _ := pair(t)
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		dst := netip.MustParseAddr(addr)
		// The kernel drops what is sent before it has noticed the carrier.
		if _, err := a.Ping(t.Context(), dst, 2); err != nil {
			t.Fatal(err)
		}
		e, err := a.Ping(t.Context(), dst, 3)
		if err != nil || e.Sent != 3 || e.Received != 3 || e.Min <= 0 || e.Min > e.Avg || e.Avg > e.Max {
			t.Errorf("%s: %s, %v; want 3 answered", dst, e, err)
		}
	}
	if e, _ := a.Ping(t.Context(), netip.MustParseAddr("10.9.0.3"), 1); e.Received != 0 {
		t.Errorf("an address that is not there: %s", e)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		f, err := Stream(t.Context(), a, b, netip.MustParseAddr(addr), 200*time.Millisecond)
		if err != nil || f.Bytes < 1<<20 || f.BitsPerSecond() < 1e6 {
			t.Errorf("%s: %s, %v", addr, f, err)
		}
	}
	if _, err := Stream(t.Context(), a, b, netip.MustParseAddr("10.9.0.9"), time.Second); err == nil {
		t.Error("a stream to an address that is not there succeeded")
	}
}

// A process started inside is there, one started after Do is not.
func TestDo(t *testing.T) {
	t.Parallel()
	n := namespace(t)
	// Not /proc/self: the main thread may be inside another test's Do.
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside []byte
	if err := n.Do(func() (err error) {
		inside, err = exec.Command("readlink", "/proc/self/ns/net").Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(inside)) == own {
		t.Error("Do ran the process in the test's own namespace")
	}
	outside, err := exec.Command("readlink", "/proc/self/ns/net").Output()
	if err != nil || strings.TrimSpace(string(outside)) != own {
		t.Errorf("after Do a process runs in %q, %v; want %q", outside, err, own)
	}
}

// A packet of just the MTU passes; one byte more does not leave, or is refused on its way.
func TestProbe(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	behind := namespace(t)
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	if err := Join("hw1", behind, a, prefixes("10.8.0.1/24", "fd08::1/64"), prefixes("10.8.0.2/24", "fd08::2/64")); err != nil {
		t.Fatal(err)
	}
	if err := a.Forward(); err != nil {
		t.Fatal(err)
	}
	if err := behind.Route("hw1", netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd08::2")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Namespace{a, b} {
		if err := n.Do(func() error {
			link, err := netlink.LinkByName("hw0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 1400)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range []string{"10.9.0.2", "fd09::2"} {
		dst := netip.MustParseAddr(addr)
		if _, err := a.Ping(t.Context(), dst, 2); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			from *Namespace
			size int
			want Passage
		}{{a, 1400, Passage{Answered: true}}, {a, 1401, Passage{MTU: 1400}}, {behind, 1401, Passage{MTU: 1400}}} {
			got, err := c.from.Probe(t.Context(), dst, c.size)
			for deadline := time.Now().Add(30 * time.Second); err == nil && got == (Passage{}) && time.Now().Before(deadline); {
				got, err = c.from.Probe(t.Context(), dst, c.size) // the way was not up yet
			}
			if err != nil || got != c.want {
				t.Errorf("%d bytes to %s: %+v, %v; want %+v", c.size, dst, got, err, c.want)
			}
		}
	}
	if _, err := a.Probe(t.Context(), netip.MustParseAddr("10.9.0.2"), 10); err == nil {
		t.Error("a packet of 10 bytes was sent")
	}
}

// A link passes echoes and streams, loses, delays, and can be cut.
func TestLink(t *testing.T) {
	t.Parallel()
	a, b := namespace(t), namespace(t)
	l, err := NewLink("hw0", a, b, []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	dst := netip.MustParseAddr("10.9.0.2")
	for e := (Echoes{}); e.Received == 0; {
		if e, err = a.Ping(t.Context(), dst, 1); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := Stream(t.Context(), a, b, dst, 200*time.Millisecond); err != nil || f.Bytes == 0 {
		t.Errorf("stream: %s, %v", f, err)
	}
	l.Set(Condition{Delay: 20 * time.Millisecond})
	if e, err := a.Ping(t.Context(), dst, 3); err != nil || e.Min < 40*time.Millisecond {
		t.Errorf("delayed: %s, %v", e, err)
	}
	l.Set(Condition{NoUDP: true})
	if e, err := a.Ping(t.Context(), dst, 1); err != nil || e.Received != 1 {
		t.Errorf("without UDP: %s, %v", e, err)
	}
	if datagram(t, a, b, dst) {
		t.Error("UDP passed")
	}
	l.Set(Condition{})
	if !datagram(t, a, b, dst) {
		t.Error("UDP does not pass any more")
	}
	l.Set(Condition{Cut: true})
	if e, _ := a.Ping(t.Context(), dst, 1); e.Received != 0 {
		t.Errorf("cut: %s", e)
	}
	l.Set(Condition{Loss: 1})
	if e, _ := a.Ping(t.Context(), dst, 1); e.Received != 0 {
		t.Errorf("all lost: %s", e)
	}
}

// datagram tells whether one gets through.
func datagram(t *testing.T, a, b *Namespace, dst netip.Addr) bool {
	t.Helper()
	var listener net.PacketConn
	if err := b.Do(func() (err error) {
		listener, err = net.ListenPacket("udp", netip.AddrPortFrom(dst, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := a.Do(func() error {
		c, err := net.Dial("udp", listener.LocalAddr().String())
		if err == nil {
			defer c.Close()
			_, err = c.Write([]byte("hello"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_ = listener.SetReadDeadline(time.Now().Add(time.Second))
	_, _, err := listener.ReadFrom(make([]byte, 16))
	return err == nil
}
