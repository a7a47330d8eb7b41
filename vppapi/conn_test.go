package vppapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vpe"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
	"highwire/vppapi/pocketvpp"
)

// TestDialErrors: whatever is wrong with the socket, Dial says so in bounded time.
func TestDialErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		serve func(t *testing.T, socket string)
		kind  fault.Kind
		says  string
	}{
		"no socket":  {func(*testing.T, string) {}, fault.Unavailable, "no VPP answers on"},
		"no server":  {abandon, fault.Unavailable, "no VPP answers on"},
		"a file":     {func(t *testing.T, s string) { write(t, s) }, fault.Unavailable, "no VPP answers on"},
		"silent":     {func(t *testing.T, s string) { serve(t, s, func(net.Conn) {}) }, fault.Unavailable, "cannot connect"},
		"hangs up":   {func(t *testing.T, s string) { serve(t, s, func(c net.Conn) { _ = c.Close() }) }, fault.Unavailable, ""},
		"babbles":    {func(t *testing.T, s string) { serve(t, s, func(c net.Conn) { _, _ = c.Write(make([]byte, 64)) }) }, fault.Unavailable, ""},
		"other VPP":  {func(t *testing.T, s string) { serve(t, s, otherRelease) }, fault.Invalid, "version 24.02-release does not know"},
		"no answers": {mute, fault.Unavailable, "not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "api.sock")
			c.serve(t, socket)
			ctx, begun := within(t, 10*time.Second), time.Now()
			conn, err := Dial(ctx, socket)
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: %v, want %v with %q", fault.KindOf(err), err, c.kind, c.says)
			}
			if !strings.Contains(err.Error(), socket) {
				t.Errorf("no socket in %v", err)
			}
			if took := time.Since(begun); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// abandon leaves a socket file nobody listens on.
func abandon(t *testing.T, socket string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

func write(t *testing.T, file string) {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// mute is a pocketvpp that answers the handshake and nothing else.
func mute(t *testing.T, socket string) {
	startPocket(t, pocketvpp.Config{Socket: socket, Logger: slog.New(slog.DiscardHandler), Fault: func(string) (int32, bool) { return 0, true }})
}

// TestDialDenied: the socket is there but not for us.
func TestDialDenied(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "api.sock")
	serve(t, socket, func(net.Conn) {})
	if err := os.Chmod(socket, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		// Root may connect to anything; a thread without that right may not. It ends with this goroutine.
		runtime.LockOSThread()
		if err := dropRights(); err != nil {
			done <- err
			return
		}
		c, err := Dial(context.Background(), socket)
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	if err := <-done; !fault.Is(err, fault.Denied) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
}

// dropRights takes all capabilities from the calling thread.
func dropRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// TestLifeline: a session ends at the moment VPP does, and says why from then on.
func TestLifeline(t *testing.T) {
	t.Parallel()
	p := newPocket(t, 0, nil)
	c := p.dial(t)
	if c.Version() != pocketvpp.Version || c.Err() != nil || c.PID() != os.Getpid() {
		t.Errorf("version %q, error %v, pid %d", c.Version(), c.Err(), c.PID())
	}
	begun := time.Now()
	p.stop()
	<-c.Done()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("noticed after %v", took)
	}
	if !fault.Is(c.Err(), fault.Unavailable) {
		t.Errorf("%v: %v", fault.KindOf(c.Err()), c.Err())
	}
	if _, err := c.Dump(t.Context()); !errors.Is(err, c.Err()) {
		t.Errorf("dump: %v", err)
	}
	if _, err := c.CLI(t.Context(), "show version"); !errors.Is(err, c.Err()) {
		t.Errorf("CLI: %v", err)
	}
	have := make(Realized)
	for k, err := range c.Apply(t.Context(), Diff(l2Wire(), have), have) {
		if !errors.Is(err, c.Err()) {
			t.Errorf("%s: %v", k, err)
		}
	}
	if len(have) > 0 {
		t.Errorf("made in a dead VPP: %v", have)
	}
}

// TestHang: a VPP that lets its sockets open but answers nothing more is given up, also while nobody asks it anything.
func TestHang(t *testing.T) {
	t.Parallel()
	var hung atomic.Bool
	c := newPocket(t, 0, func(string) (int32, bool) { return 0, hung.Load() }).dial(t)
	hung.Store(true)
	begun := time.Now()
	answered := make(chan error)
	go func() {
		_, err := c.CLI(context.Background(), "show version")
		answered <- err
	}()
	select {
	case <-c.Done():
	case <-time.After(6 * time.Second):
		t.Error("still not noticed after 6 s")
	}
	t.Log("noticed after", time.Since(begun))
	if err := <-answered; !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "not answer") {
		t.Errorf("who waited was told %v", err)
	}
}

// A caller who gives up costs the session nothing.
func TestCancel(t *testing.T) {
	t.Parallel()
	var hung atomic.Bool
	asked := make(chan struct{}, 1)
	c := newPocket(t, 0, func(name string) (int32, bool) {
		if name == "cli_inband" && hung.Load() {
			asked <- struct{}{}
			return 0, true
		}
		return 0, false
	}).dial(t)
	hung.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		_, err := c.CLI(ctx, "show version")
		answered <- err
	}()
	<-asked
	cancel()
	if err := <-answered; !fault.Is(err, fault.Canceled) {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	hung.Store(false)
	if out, err := c.CLI(t.Context(), "show version"); err != nil || !strings.Contains(out, pocketvpp.Version) || c.Err() != nil {
		t.Errorf("afterwards: %q, %v, session %v", out, err, c.Err())
	}
	if _, err := c.CLI(t.Context(), "open the pod bay doors"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "unknown input") {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
}

// TestClose leaves no goroutine, nor does a Dial that failed.
func TestClose(t *testing.T) { // not parallel: it counts goroutines
	p := newPocket(t, 0, nil)
	p.dial(t).Close() // by then all of the server runs
	old := goleak.IgnoreCurrent()
	for range 3 {
		c, err := Dial(t.Context(), p.socket)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		c.Close()
		if !fault.Is(c.Err(), fault.Canceled) {
			t.Errorf("%v: %v", fault.KindOf(c.Err()), c.Err())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, p.socket); err == nil {
		t.Error("dialled with a context that has ended")
	}
	goleak.VerifyNone(t, old)
}

// TestDialer: one Conn a lifetime, as often as VPP comes, and no more once it is hopeless.
func TestDialer(t *testing.T) {
	t.Parallel()
	cfg := pocketvpp.Config{Socket: filepath.Join(t.TempDir(), "api.sock"), Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	lives, done := make(chan *Conn), make(chan error)
	go func() {
		done <- Dialer{Socket: cfg.Socket}.Run(ctx, func(ctx context.Context, c *Conn) {
			lives <- c
			select {
			case <-c.Done():
			case <-ctx.Done():
			}
		})
	}()
	var last *Conn
	for range 3 {
		p := startPocket(t, cfg)
		c := <-lives
		if c == last || c.Err() != nil {
			t.Errorf("an old session, or none: %v", c.Err())
		}
		last = c
		p.stop()
	}
	startPocket(t, cfg)
	<-lives
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	socket := filepath.Join(t.TempDir(), "api.sock")
	serve(t, socket, otherRelease)
	if err := (Dialer{Socket: socket}).Run(t.Context(), nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("another release: %v", err)
	}
}

// otherRelease is a VPP that knows hardly a message of ours.
func otherRelease(c net.Conn) {
	version := &vpe.ShowVersionReply{Program: "vpe", Version: "24.02-release"}
	ids := map[uint16]api.Message{101: &vpe.ShowVersion{}, 102: version, 103: &memclnt.ControlPing{}, 104: &memclnt.ControlPingReply{}}
	talk(c, ids, map[uint16]uint16{101: 102, 103: 104})
}
