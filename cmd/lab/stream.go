package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Flow is what a stream carried.
type Flow struct {
	Bytes    int64
	Duration time.Duration
}

// BitsPerSecond is the goodput: payload of TCP without headers.
func (f Flow) BitsPerSecond() float64 { return float64(f.Bytes) * 8 / f.Duration.Seconds() }

// String is one line for people.
func (f Flow) String() string {
	return fmt.Sprintf("%.2f Gb/s (%d MiB in %.1fs)", f.BitsPerSecond()/1e9, f.Bytes>>20, f.Duration.Seconds())
}

// Stream sends on one plain TCP connection for the duration, from one namespace to an address in the other, and counts
// what arrives there.
func Stream(ctx context.Context, from, to *Namespace, addr netip.Addr, duration time.Duration) (Flow, error) {
	// The last byte must be through some time after the sender stopped.
	ctx, cancel := context.WithTimeout(ctx, duration+10*time.Second)
	defer cancel()

	var listen net.ListenConfig
	listen.SetMultipathTCP(false)
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = listen.Listen(ctx, "tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return Flow{}, fmt.Errorf("listening on %s: %w", addr, err)
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	type arrival struct {
		flow Flow
		err  error
	}
	arrived := make(chan arrival, 1)
	go func() {
		flow, err := receive(ctx, listener)
		arrived <- arrival{flow, err}
	}()

	err = send(ctx, from, listener.Addr().String(), duration)
	if err != nil {
		listener.Close()
		<-arrived
		return Flow{}, fmt.Errorf("sending to %s: %w", addr, err)
	}
	a := <-arrived
	if a.err != nil {
		return Flow{}, fmt.Errorf("receiving on %s: %w", addr, a.err)
	}
	return a.flow, nil
}

// receive takes one connection and reads it to its end.
func receive(ctx context.Context, listener net.Listener) (Flow, error) {
	conn, err := listener.Accept()
	if err != nil {
		return Flow{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	start := time.Now()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<20))
	return Flow{Bytes: n, Duration: time.Since(start)}, err
}

// send writes until the duration is over.
func send(ctx context.Context, from *Namespace, to string, duration time.Duration) error {
	var conn net.Conn
	err := from.Do(func() (err error) {
		// An address without a name is dialed by this very goroutine, so the socket is opened in the namespace.
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", to)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(duration); time.Now().Before(end); {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
