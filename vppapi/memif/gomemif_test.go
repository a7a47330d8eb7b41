package memif

import (
	"bytes"
	"errors"
	"testing"
	"time"

	wire "go.fd.io/govpp/extras/gomemif/memif"
)

// gomemif is an interface of the other implementation, connected.
type gomemif struct {
	iface *wire.Interface
}

// startGomemif begins to serve a gomemif interface. up gets it once it is connected; from then on the test may use its
// queues, as the implementation itself does not.
func startGomemif(t *testing.T, a Address, master bool) (up <-chan *gomemif, stop func()) {
	t.Helper()
	socket, err := wire.NewSocket("gomemif", a.Name)
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan *gomemif, 1)
	i, err := socket.NewInterface(&wire.Arguments{
		Id: 7, IsMaster: master, Mode: wire.InterfaceModeIp, Name: "gomemif",
		ConnectedFunc: func(i *wire.Interface) error {
			connected <- &gomemif{i}
			return nil
		},
		DisconnectedFunc: func(*wire.Interface) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	errs, drained := make(chan error), make(chan struct{})
	go func() { // it reports an interrupt that nobody handles as an error, again and again
		defer close(drained)
		for range errs {
		}
	}()
	if !master {
		if err := i.RequestConnection(); err != nil {
			t.Fatal(err)
		}
	}
	socket.StartPolling(errs)
	return connected, func() {
		_ = socket.StopPolling()
		close(errs)
		<-drained
	}
}

// check passes packets that fit one of gomemif's buffers in both directions.
func (g *gomemif) check(t *testing.T, c *Conn) {
	t.Helper()
	rx, err := g.iface.GetRxQueue(0)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := g.iface.GetTxQueue(0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	deadline := time.Now().Add(10 * time.Second)
	for i := range 3000 {
		want := pattern(i, 1+i%2000)
		if n := tx.WritePacket(want); n != len(want) {
			// It has no buffers before our side has offered some.
			t.Fatalf("packet %d: gomemif wrote %d bytes", i, n)
		}
		if err := c.Rx[0].Wait(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Rx[0].Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("packet %d from gomemif: %d bytes, %v; want %d", i, n, err, len(want))
		}
		c.Rx[0].Release()
		for err = ErrFull; errors.Is(err, ErrFull) && time.Now().Before(deadline); {
			err = c.Tx[0].Write(want)
			if errors.Is(err, ErrFull) { // as slave it offers buffers when it reads
				_, _ = rx.ReadPacket(buf)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Tx[0].Flush()
		if n, err := rx.ReadPacket(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("packet %d to gomemif: %d bytes, %v; want %d", i, n, err, len(want))
		}
	}
}

// TestGomemif holds the protocol against an independent implementation, in both roles.
func TestGomemif(t *testing.T) {
	t.Run("slave", func(t *testing.T) {
		a := address(t)
		conns := master(t, a, IP)
		up, stop := startGomemif(t, a, false)
		defer stop()
		c := <-conns
		(<-up).check(t, c.Conn)
		if c.Remote != "gomemif" || c.Interface != "gomemif" {
			t.Errorf("names %q %q", c.Remote, c.Interface)
		}
	})
	t.Run("master", func(t *testing.T) {
		a := address(t)
		up, stop := startGomemif(t, a, true)
		defer stop() // before our end closes: it would still be using what it frees then
		c := connect(t, Slave{Address: a, ID: 7, Mode: IP})
		(<-up).check(t, c)
	})
}
