package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"highwire/vppapi/fault"
	"highwire/vppapi/memif"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addresses atomic.Int64

func address() memif.Address {
	return memif.Address{Name: fmt.Sprintf("@highwire-peer-test/%d/%d", os.Getpid(), addresses.Add(1))}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var (
	left  = prefixes("10.0.0.1/32", "2001:db8::1/128")
	right = prefixes("10.0.0.2/32", "2001:db8::2/128")
)

// start runs a peer until the test ends, or earlier until stop is called.
func start(t *testing.T, cfg Config) (p *Peer, stop func()) {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return p, stop
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func await(t *testing.T, p *Peer, connected bool) {
	t.Helper()
	if err := p.Await(within(t), connected); err != nil {
		t.Fatal(err)
	}
}

func reaches(t *testing.T, p *Peer, to []netip.Prefix, size int) {
	t.Helper()
	for _, dst := range to {
		if e, err := p.Ping(within(t), dst.Addr(), 3, size); err != nil || e.Received != 3 || e.Min <= 0 || e.Min > e.Avg || e.Avg > e.Max {
			t.Errorf("%s in %d bytes: %s, %v; want 3 answered", dst, size, e, err)
		}
	}
}

// TestPing: two peers reach each other in both modes, with packets of one buffer and of several.
func TestPing(t *testing.T) {
	for _, l3 := range []bool{false, true} {
		for _, buffer := range []int{0, 10240} {
			t.Run(fmt.Sprintf("l3=%t buffer=%d", l3, buffer), func(t *testing.T) {
				t.Parallel()
				a := address()
				m, _ := start(t, Config{Address: a, Master: true, ID: 3, L3: l3, Addresses: left})
				s, _ := start(t, Config{Address: a, ID: 3, L3: l3, Addresses: right, BufferSize: buffer, Queues: 2})
				await(t, m, true)
				await(t, s, true)
				for _, size := range []int{0, 1500, 9000} {
					reaches(t, m, right, size)
					reaches(t, s, left, size)
				}
				// A burst is counted when it has been handled, which may be after its answers were sent.
				wrong := func(c Counters) bool {
					return c.RxPackets == 0 || c.TxPackets == 0 || c.RxBytes < 9000*12 || c.TxBytes < c.TxPackets*84 || c.RxDrops+c.TxDrops != 0
				}
				counted := within(t)
				for c := m.Counters(); wrong(c); c = m.Counters() {
					if err := awaitTime(counted, time.Millisecond); err != nil {
						t.Fatalf("counters %+v", c)
					}
				}
				nobody := netip.MustParseAddr("10.0.0.9")
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if e, err := s.Ping(ctx, nobody, 1, 0); !errors.Is(err, context.DeadlineExceeded) || e.Received != 0 {
					t.Errorf("an address that is not there: %s, %v", e, err)
				}
			})
		}
	}
}

// TestRestart: whichever side ends and comes back, both find each other again.
func TestRestart(t *testing.T) {
	t.Parallel()
	a := address()
	master, slave := Config{Address: a, Master: true, Addresses: left}, Config{Address: a, Addresses: right}
	_, stopSlave := start(t, slave)
	m, stopMaster := start(t, master)
	await(t, m, true)
	reaches(t, m, right, 0)
	for range 3 {
		stopSlave()
		await(t, m, false)
		var s *Peer
		s, stopSlave = start(t, slave)
		await(t, m, true)
		await(t, s, true)
		reaches(t, m, right, 0)

		stopMaster()
		await(t, s, false)
		m, stopMaster = start(t, master)
		await(t, s, true)
		await(t, m, true)
		reaches(t, s, left, 0)
	}
}

// TestGarbage: somebody who does not speak memif disturbs nobody.
func TestGarbage(t *testing.T) {
	t.Parallel()
	a := address()
	m, _ := start(t, Config{Address: a, Master: true, Addresses: left})
	s, _ := start(t, Config{Address: a, Addresses: right})
	await(t, s, true)
	await(t, m, true)
	for _, words := range []string{"", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 128), strings.Repeat("\x03\x00", 64)} {
		c, err := net.Dial("unixpacket", a.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(words)); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	reaches(t, s, left, 0)
	if _, err := memif.Listen(a); !fault.Is(err, fault.Conflict) {
		t.Errorf("the socket after it: %v", err)
	}
}

// TestMasterGone: a slave whose master speaks garbage goes on trying, and ends when it is told to.
func TestMasterGone(t *testing.T) {
	t.Parallel()
	a := address()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: a.Name, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := start(t, Config{Address: a, Addresses: right})
	for range 2 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("welcome"))
		_ = c.Close()
	}
	_ = l.Close()
	if s.Connected() {
		t.Error("connected to a master that speaks no memif")
	}
	m, _ := start(t, Config{Address: a, Master: true, Addresses: left})
	await(t, m, true)
	reaches(t, m, right, 0)
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	a := address()
	m, _ := start(t, Config{Address: a, Master: true, L3: true, Addresses: left})
	s, _ := start(t, Config{Address: a, L3: true, Addresses: right})
	await(t, m, true)
	await(t, s, true)
	for name, c := range map[string]struct {
		from, to *Peer
		traffic  Traffic
		atMost   uint64
	}{
		"slowly": {s, m, Traffic{To: left[0].Addr(), Rate: 1000, Size: 200}, 320},
		"fast":   {m, s, Traffic{To: right[1].Addr(), Burst: 32}, 1 << 40},
	} {
		before := c.to.Counters()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		sent, err := c.from.Generate(ctx, c.traffic)
		cancel()
		if err != nil || sent < 100 || sent > c.atMost {
			t.Errorf("%s: %d packets, %v", name, sent, err)
		}
		// Everything that was sent is in the ring and is read.
		arrived := within(t)
		for c.to.Counters().RxPackets-before.RxPackets < sent {
			if err := awaitTime(arrived, time.Millisecond); err != nil {
				t.Fatalf("%s: %d of %d packets arrived", name, c.to.Counters().RxPackets-before.RxPackets, sent)
			}
		}
		t.Logf("%s: %d packets in 300 ms", name, sent)
	}
	for _, bad := range []Traffic{{To: left[0].Addr(), Size: 10}, {To: left[0].Addr(), Size: 1 << 20}} {
		if _, err := s.Generate(t.Context(), bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, cfg := range []Config{{}, {Address: address(), MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}, {Address: address(), MAC: net.HardwareAddr{2}}} {
		if _, err := New(cfg); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	p, err := New(Config{Address: address(), RingSize: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("ring size 3: %v", err)
	}
	if _, err := p.Ping(t.Context(), right[0].Addr(), 1, 0); !fault.Is(err, fault.Invalid) {
		t.Errorf("ping without an address: %v", err)
	}
}

// FuzzHandle: no packet, however strange, does harm.
func FuzzHandle(f *testing.F) {
	p, err := New(Config{Address: address(), Addresses: left, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.arp(arpRequest, broadcast, right[0].Addr(), left[0].Addr()), false)
	f.Add(p.neighborDiscovery(ndSolicitation, 0, p.MAC(), right[1].Addr(), left[1].Addr(), left[1].Addr()), false)
	p.cfg.L3 = true
	for i := range left {
		whole, b := p.packet(nil, right[i].Addr(), left[i].Addr(), []uint8{protoICMP, protoICMPv6}[i], hopLimit, 16)
		b[0] = []byte{8, 128}[i]
		f.Add(whole, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, l3 bool) {
		p.cfg.L3 = l3
		p.handle(b)
	})
}
