package memif

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addresses atomic.Int64

// address is an abstract socket of the test's own.
func address(t *testing.T) Address {
	t.Helper()
	return Address{Name: fmt.Sprintf("@highwire-test/%d/%d", os.Getpid(), addresses.Add(1))}
}

// accepted is a connection of a master; let gives it back, after which it must not be used.
type accepted struct {
	*Conn
	let func()
}

// master listens and hands out connections as they come.
func master(t *testing.T, a Address, mode Mode) <-chan accepted {
	t.Helper()
	l, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	conns, ended := make(chan accepted), make(chan error, 1)
	go func() {
		ended <- l.Run(ctx, func(id uint32) (Master, error) {
			if id != 7 {
				return Master{}, fault.New(fault.NotFound, "no interface %d here", id)
			}
			return Master{Mode: mode, Serve: func(ctx context.Context, c *Conn) {
				ctx, let := context.WithCancel(ctx)
				defer let()
				select {
				case conns <- accepted{c, let}:
				case <-ctx.Done():
				}
				<-ctx.Done()
			}}, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return conns
}

func connect(t *testing.T, s Slave) *Conn {
	t.Helper()
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// pattern is a packet that says its number and length in every byte.
func pattern(number, size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(number + i + size)
	}
	return p
}

// TestPackets sends packets of many sizes both ways, some times around the ring.
func TestPackets(t *testing.T) {
	for name, s := range map[string]Slave{
		"default": {}, "tiny": {RingSize: 8, BufferSize: 1500}, "large": {BufferSize: 10240, RingSize: 256}, "queues": {Queues: 2, RingSize: 64},
	} {
		t.Run(name, func(t *testing.T) {
			a := address(t)
			conns := master(t, a, IP)
			s.Address, s.ID, s.Mode = a, 7, IP
			slave := connect(t, s)
			m := <-conns
			for i := range slave.Tx {
				exchange(t, slave.Tx[i], m.Rx[i])
				exchange(t, m.Tx[i], slave.Rx[i])
			}
		})
	}
}

func exchange(t *testing.T, tx *Tx, rx *Rx) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for round := range 300 {
		var sizes []int
		for i, size := range []int{1, 64, 1500, 9000, 2048, 4096} {
			switch err := tx.Write(pattern(round+i, size)); {
			case err == nil:
				sizes = append(sizes, i<<20|size)
			case !errors.Is(err, ErrFull):
				t.Fatal(err)
			}
		}
		if len(sizes) < 2 {
			t.Fatalf("room for %d packets only in an empty ring", len(sizes))
		}
		if _, err := rx.Read(buf); !errors.Is(err, ErrEmpty) {
			t.Fatalf("before Flush: %v", err)
		}
		tx.Flush()
		if err := rx.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, s := range sizes {
			n, err := rx.Read(buf)
			if want := pattern(round+s>>20, s&0xfffff); err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("round %d: %d bytes, %v; want %d", round, n, err, len(want))
			}
		}
		if _, err := rx.Read(buf); !errors.Is(err, ErrEmpty) {
			t.Fatalf("after the last: %v", err)
		}
		rx.Release()
	}
}

// TestFull: a reader that sleeps loses what does not fit, and no more.
func TestFull(t *testing.T) {
	a := address(t)
	conns := master(t, a, Ethernet)
	slave := connect(t, Slave{Address: a, ID: 7, RingSize: 16})
	m := <-conns
	buf := make([]byte, 100)
	for _, q := range []struct {
		tx *Tx
		rx *Rx
	}{{slave.Tx[0], m.Rx[0]}, {m.Tx[0], slave.Rx[0]}} {
		for i := range 20 {
			if err := q.tx.Write(pattern(i, 64)); (i < 16) != (err == nil) || i >= 16 && !errors.Is(err, ErrFull) {
				t.Fatalf("packet %d: %v", i, err)
			}
		}
		q.tx.Flush()
		for i := range 16 {
			if n, err := q.rx.Read(buf); err != nil || !bytes.Equal(buf[:n], pattern(i, 64)) {
				t.Fatalf("packet %d: %v", i, err)
			}
		}
		q.rx.Release()
		if err := q.tx.Write(pattern(0, 2000)); err != nil {
			t.Fatal(err)
		}
		q.tx.Flush()
		if _, err := q.rx.Read(buf); !errors.Is(err, ErrTooLong) {
			t.Fatalf("2000 bytes into 100: %v", err)
		}
	}
}

// TestEnd: each side notices the other's end, also one without a word, and a new connection follows; nothing is kept of
// the old ones.
func TestEnd(t *testing.T) {
	a := address(t)
	conns := master(t, a, Ethernet)
	before := 0
	for i := range 20 {
		s := Slave{Address: a, ID: 7}
		if i > 0 {
			awaitFree(t, s)
			m := <-conns
			<-m.Done()
			m.let()
		}
		slave, err := s.Connect(t.Context())
		// The listener may not have let the last one go yet.
		for fault.Is(err, fault.Unavailable) && strings.Contains(err.Error(), "already") {
			slave, err = s.Connect(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		m := <-conns
		waited := make(chan error, 1)
		go func() { waited <- m.Rx[0].Wait() }()
		if i%2 == 0 {
			slave.Close()
		} else {
			_ = slave.ctl.Close() // as if killed
			<-slave.Done()
			slave.Close()
		}
		if err := <-waited; err == nil {
			t.Fatal("a reader was not woken by the end")
		}
		<-m.Done()
		if !fault.Is(m.Err(), fault.Unavailable) {
			t.Error(m.Err())
		}
		m.let()
		if fds := openFiles(t); i == 5 {
			before = fds
		} else if i == 19 && fds > before+10 { // a connection has five, and the last one may still be closing
			t.Fatalf("%d descriptors after %d connections, %d after 5", fds, i, before)
		}
	}
}

func awaitFree(t *testing.T, s Slave) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Run(ctx, func(context.Context, *Conn) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestRefused: what a slave asks for and cannot have it is told in words.
func TestRefused(t *testing.T) {
	a := address(t)
	conns := master(t, a, Ethernet)
	for want, s := range map[string]Slave{
		"no interface 8 here":  {ID: 8},
		"mode mismatch":        {ID: 7, Mode: IP},
		"want a power of two":  {ID: 7, RingSize: 1000},
		"want 2 to 16384":      {ID: 7, RingSize: 1 << 15},
		"want 64 to 65536":     {ID: 7, BufferSize: 1},
		"connection refused":   {ID: 7, Address: Address{Name: a.Name + "-nobody"}},
		"at most 107":          {ID: 7, Address: Address{Name: "@" + strings.Repeat("x", 107)}},
		"no such file":         {ID: 7, Address: Address{Name: a.Name, Netns: "/run/netns/there-is-none"}},
		"invalid argument":     {ID: 7, Address: Address{Name: a.Name, Netns: "/dev/null"}},
		"memif socket: no nam": {ID: 7, Address: Address{Name: "@"}},
	} {
		if s.Address.Name == "" {
			s.Address = a
		}
		if c, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", s, err, want)
			if err == nil {
				c.Close()
			}
		}
	}
	connect(t, Slave{Address: a, ID: 7})
	<-conns
	if _, err := (Slave{Address: a, ID: 7}).Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "connected already") {
		t.Errorf("a second slave: %v", err)
	}
	if _, err := Listen(a); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second listener: %v", err)
	}
}

// TestGarbage: whoever speaks something else is shown the door, and the next one is served.
func TestGarbage(t *testing.T) {
	a := address(t)
	conns := master(t, a, Ethernet)
	init := append([]byte{typeInit, 0, 0, 2, 7}, make([]byte, messageSize-5)...)
	pipe := pipe(t)
	for name, speak := range map[string]func(c control) error{
		"nothing": func(control) error { return nil },
		"words":   func(c control) error { _, err := c.Write([]byte("GET / HTTP/1.1")); return err },
		"much":    func(c control) error { _, err := c.Write(make([]byte, 4096)); return err },
		"zeroes":  func(c control) error { _, err := c.Write(make([]byte, messageSize)); return err },
		"early":   func(c control) error { return c.send(typeAddRegion, nil, pipe) },
		"twice": func(c control) error {
			_, err := c.Write(init)
			return errors.Join(err, c.await(typeAck, nil), second(c, init))
		},
		"pipe": func(c control) error {
			_, err := c.Write(init)
			return errors.Join(err, c.await(typeAck, nil), c.send(typeAddRegion, [10]byte{2: 255}, pipe))
		},
		"unsealed": func(c control) error {
			fd, err := unix.MemfdCreate("x", unix.MFD_ALLOW_SEALING)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = c.Write(init)
			return errors.Join(err, unix.Ftruncate(fd, 4096), c.await(typeAck, nil), c.send(typeAddRegion, [10]byte{3: 16}, fd))
		},
		"no rings": func(c control) error {
			_, err := c.Write(init)
			return errors.Join(err, c.await(typeAck, nil), c.send(typeConnect, nil, -1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket, err := a.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			c := control{socket}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := c.await(typeHello, nil); err != nil {
				t.Fatal(err)
			}
			if err := speak(c); err != nil {
				t.Fatal(err)
			}
			if name == "nothing" {
				return
			}
			if m, err := c.receive(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("answered %d, %v", m.kind, err)
			}
		})
	}
	awaitFree(t, Slave{Address: a, ID: 7})
	<-conns
}

func second(c control, init []byte) error {
	_, err := c.Write(init)
	return err
}

func pipe(t *testing.T) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return int(r.Fd())
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"abstract:a/b":                         {Name: "@a/b"},
		"abstract:a,netns_name=/proc/1/fd/3":   {Name: "@a", Netns: "/proc/1/fd/3"},
		"abstract:a,netns_name=blue":           {Name: "@a", Netns: "/var/run/netns/blue"},
		"abstract:a,netns_pid=12":              {Name: "@a", Netns: "/proc/12/ns/net"},
		"/run/x.sock":                          {Name: "/run/x.sock"},
		"relative":                             {},
		"abstract:":                            {},
		"abstract:a,netns=x":                   {},
		"abstract:a,netns_name=":               {},
		"abstract:" + strings.Repeat("x", 107): {},
		"/" + strings.Repeat("x", 107):         {},
		"abstract:a\x00b":                      {},
		"":                                     {},
	} {
		got, err := ParseAddress(in)
		if want == (Address{}) {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %+v, %v; want it refused", in, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
}

// TestFile: a socket that is a file, with the leftover of a listener that died.
func TestFile(t *testing.T) {
	a := Address{Name: filepath.Join(t.TempDir(), "memif.sock")}
	old, err := net.ListenUnix(network, &net.UnixAddr{Name: a.Name, Net: network})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	_ = old.Close()
	conns := master(t, a, Ethernet)
	slave := connect(t, Slave{Address: a, ID: 7, Name: "here"})
	m := <-conns
	if m.Remote != "here" || m.Interface != "here" || slave.Remote != "" {
		t.Errorf("names %q %q %q", m.Remote, m.Interface, slave.Remote)
	}
}

// FuzzRing: whatever the other side writes into the shared memory, reading and writing end with an error at worst.
func FuzzRing(f *testing.F) {
	f.Add([]byte{}, uint16(1), uint16(0))
	f.Add(bytes.Repeat([]byte{1, 0, 0, 0, 255, 255, 255, 255}, 8), uint16(4), uint16(0))
	f.Fuzz(func(t *testing.T, descriptors []byte, head, tail uint16) {
		mem := make([]byte, 4096)
		r := ring{mem: mem[:ringBytes(4)], size: 4, regions: [][]byte{mem[1024:]}}
		copy(mem[ringHeader:ringBytes(4)], descriptors)
		r.setHead(head)
		r.setTail(tail)
		buf := make([]byte, 256)
		for _, slave := range []bool{false, true} {
			rx, tx := Rx{ring: r, slave: slave, buffer: 64}, Tx{ring: r, slave: slave, buffer: 64, base: 0}
			for range 8 {
				if n, err := rx.Read(buf); n > len(buf) || err == nil && n < 0 {
					t.Fatal(n, err)
				}
				_ = tx.Write(buf)
			}
		}
	})
}

// FuzzMessages: no sequence of messages ends the listener.
func FuzzMessages(f *testing.F) {
	f.Add(append([]byte{typeInit, 0, 0, 2, 7}, make([]byte, messageSize-5)...))
	f.Add(make([]byte, messageSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &Listener{busy: map[uint32]bool{}}
		ours, theirs := socketPair(t)
		go func() {
			defer theirs.Close()
			for len(data) > 0 {
				n := min(messageSize, len(data))
				if _, err := theirs.Write(data[:n]); err != nil {
					return
				}
				data = data[n:]
			}
		}()
		c, _, _, err := l.greet(context.Background(), control{ours}, func(uint32) (Master, error) { return Master{}, nil })
		if err == nil {
			c.Close()
			t.Error("connected without memory")
		}
	})
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []**net.UnixConn{&a, &b} {
		file := os.NewFile(uintptr(fds[i]), "pair")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		*c = conn.(*net.UnixConn)
	}
	return a, b
}
