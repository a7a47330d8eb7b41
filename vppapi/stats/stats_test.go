package stats

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve makes a segment that is served for the time of the test.
func serve(t testing.TB, errors ...string) (*Writer, string) {
	t.Helper()
	w, err := NewWriter("pool", errors)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "stats.sock")
	l, err := net.Listen("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w, socket
}

func open1(t testing.TB, socket string) *Segment {
	t.Helper()
	s, err := Open(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func read(t testing.TB, s *Segment) *Snapshot {
	t.Helper()
	snapshot, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	w, socket := serve(t, "a-node/some reason", "b-node/x/y")
	s := open1(t, socket)
	if got := read(t, s); !reflect.DeepEqual(got, &Snapshot{Interfaces: []Interface{}, Pools: []Pool{{Name: "pool"}}}) {
		t.Errorf("empty: %+v", got)
	}
	w.Add(0, "local0")
	live := w.Add(2, strings.Repeat("n", 70))
	live.RxPackets.Add(3)
	live.RxBytes.Add(300)
	live.TxPackets.Add(4)
	live.TxBytes.Add(400)
	live.Drops.Add(5)
	live.TxErrors.Add(6)
	w.SetPool(7, 8, 9)
	w.Error("b-node/x/y").Add(10)
	want := &Snapshot{
		Interfaces: []Interface{{Name: "local0"}, {}, {strings.Repeat("n", 63), Counters{RxPackets: 3, RxBytes: 300, TxPackets: 4, TxBytes: 400, Drops: 5, TxErrors: 6}}},
		Pools:      []Pool{{"pool", 7, 8, 9}}, Errors: []Error{{"b-node", "x/y", 10}},
	}
	if got := read(t, s); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := want.Pools[0].Total(); got != 24 {
		t.Errorf("total %d", got)
	}
	w.Remove(2)
	w.Add(1, "other")
	live.Drops.Add(1)
	got := read(t, s)
	if got.Interfaces[2].Name != "" || got.Interfaces[1].Name != "other" {
		t.Errorf("after a removal: %+v", got)
	}
	w.Add(2, "again")
	if got := read(t, s).Interfaces[2]; got != (Interface{Name: "again"}) {
		t.Errorf("a new interface at an old index: %+v", got)
	}
	w.Add(maxInterfaces, "too many").Drops.Add(1)
	w.Remove(maxInterfaces)
}

func TestClosed(t *testing.T) {
	t.Parallel()
	_, socket := serve(t)
	s, err := Open(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Read(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("read after close: %v", err)
	}
}

// TestMoving: a reader never sees half of a change, and gives up on a VPP that has died in one.
func TestMoving(t *testing.T) {
	t.Parallel()
	w, socket := serve(t)
	s := open1(t, socket)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint32(5000) {
			w.Add(i%64, fmt.Sprint("interface", i%64))
			w.Remove(i / 2 % 64)
		}
	}()
	for moving := true; moving; {
		select {
		case <-done:
			moving = false
		default:
		}
		snapshot, err := s.Read(t.Context())
		if moving && fault.Is(err, fault.Unavailable) {
			continue // it moved all the time
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, one := range snapshot.Interfaces {
			if one.Name != "" && one.Name != fmt.Sprint("interface", i) {
				t.Fatalf("interface %d is called %q", i, one.Name)
			}
		}
	}

	word(w.mem, atInProgress).Store(1)
	if _, err := s.Read(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("read of what is being moved: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Read(ctx); err == nil {
		t.Error("read with a context that has ended")
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	nobody := filepath.Join(t.TempDir(), "stats.sock")
	if _, err := Open(t.Context(), nobody); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), nobody) {
		t.Errorf("nobody serves: %v", err)
	}
	for _, test := range []struct {
		name string
		send func(t *testing.T) []byte
		want fault.Kind
	}{
		{"no descriptor", func(*testing.T) []byte { return nil }, fault.Unavailable},
		{"empty", func(t *testing.T) []byte { return descriptor(t, nil) }, fault.Invalid},
		{"another format", func(t *testing.T) []byte { return descriptor(t, []byte{1, headerBytes: 0}) }, fault.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "stats.sock")
			l, err := net.Listen("unixpacket", socket)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			oob := test.send(t)
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				if oob != nil {
					_, _, err = conn.(*net.UnixConn).WriteMsgUnix(nil, oob, nil)
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
				if err != nil {
					t.Error(err)
				}
			})
			if _, err := Open(t.Context(), socket); !fault.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			wg.Wait()
			_ = l.Close()
		})
	}
}

// descriptor is the control message that passes a file of that content.
func descriptor(t *testing.T, content []byte) []byte {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return unix.UnixRights(int(f.Fd()))
}

// FuzzRead changes bytes of a segment: whatever it holds, a read ends, and never leaves the memory.
func FuzzRead(f *testing.F) {
	w, err := NewWriter("pool", []string{"node/reason"})
	if err != nil {
		f.Fatal(err)
	}
	w.Add(3, "interface").RxPackets.Add(1)
	w.Error("node/reason").Add(1)
	whole := append([]byte(nil), w.mem[:w.free]...)
	f.Add(uint32(atDirectory), []byte{255})
	f.Add(uint32(w.names-vectorHeader), []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		mem := append([]byte(nil), whole...)
		copy(mem[int(at)%len(mem):], change)
		s := &Segment{mem: mem, base: word(mem, atBase).Load()}
		if _, err := s.read(); err != nil && err != errMoved {
			t.Error(err)
		}
	})
}

// BenchmarkRead is one look at 2,000 interfaces.
func BenchmarkRead(b *testing.B) {
	w, socket := serve(b)
	for i := range uint32(2000) {
		w.Add(i, fmt.Sprint("interface", i))
	}
	s := open1(b, socket)
	for b.Loop() {
		read(b, s)
	}
}
