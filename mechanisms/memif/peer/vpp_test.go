package peer

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"highwire/vppapi"
	"highwire/vppapi/process"
)

// startVPP runs the real VPP until the test ends.
func startVPP(t *testing.T) *vppapi.Conn {
	t.Helper()
	bin, err := process.Find(os.Getenv("HIGHWIRE_VPP_BIN"))
	if err != nil {
		t.Skip("no real VPP: set HIGHWIRE_VPP_BIN or put vpp on PATH")
	}
	dir, err := os.MkdirTemp("", "hw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(context.Background())
	c := process.Config{Bin: bin, PluginPath: process.Plugins(bin), Dir: dir, Buffers: 16384, HeapMB: 256}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	conns := make(chan *vppapi.Conn)
	done := make(chan struct{})
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		_ = vppapi.Dialer{Socket: c.Socket()}.Run(ctx, func(ctx context.Context, c *vppapi.Conn) {
			select {
			case conns <- c:
			case <-ctx.Done():
			}
			select {
			case <-done:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		close(done)
		cancel()
		<-dialed
	})
	select {
	case conn := <-conns:
		return conn
	case <-time.After(30 * time.Second):
		t.Fatal("VPP does not answer")
		return nil
	}
}

// TestVPP: through a cross-connect of the real VPP, which is master to one peer and slave to the other.
func TestVPP(t *testing.T) {
	vpp := startVPP(t)
	for _, size := range []int{0, 10240} {
		client, endpoint := address(), address()
		id := uint32(addresses.Load())
		for _, line := range []string{
			fmt.Sprintf("create memif socket id %d filename %s", id, client),
			fmt.Sprintf("create memif socket id %d filename %s", id+1, endpoint),
			fmt.Sprintf("create interface memif id 0 socket-id %d master", id),
			fmt.Sprintf("create interface memif id 0 socket-id %d slave no-zero-copy", id+1),
			fmt.Sprintf("set interface l2 xconnect memif%d/0 memif%d/0", id, id+1),
			fmt.Sprintf("set interface l2 xconnect memif%d/0 memif%d/0", id+1, id),
			fmt.Sprintf("set interface state memif%d/0 up", id),
			fmt.Sprintf("set interface state memif%d/0 up", id+1),
		} {
			if out, err := vpp.CLI(t.Context(), line); err != nil {
				t.Fatal(line, out, err)
			}
		}
		m, stop := start(t, Config{Address: endpoint, Master: true, Addresses: left})
		s, _ := start(t, Config{Address: client, Addresses: right, BufferSize: size})
		await(t, s, true)
		await(t, m, true)
		for _, length := range []int{0, 1500, 9000} {
			reaches(t, m, right, length)
			reaches(t, s, left, length)
		}
		stop()
		begun := time.Now()
		m, _ = start(t, Config{Address: endpoint, Master: true, Addresses: left})
		await(t, m, true)
		t.Log("VPP was back after", time.Since(begun))
		reaches(t, s, left, 0)

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		before := m.Counters().RxPackets
		sent, err := s.Generate(ctx, Traffic{To: left[0].Addr()})
		cancel()
		if err != nil || sent == 0 {
			t.Error(sent, err)
		}
		t.Logf("%d packets sent in 500 ms, %d received", sent, m.Counters().RxPackets-before)
	}
}
