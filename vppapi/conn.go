package vppapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.fd.io/govpp/adapter/socketclient"
	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/binapi/vpe"
	"go.fd.io/govpp/core"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Release is the VPP release whose messages this package speaks; the bindings of govpp v0.13.0 are generated from it.
const Release = "25.10"

const (
	probeEvery = time.Second
	// hangAfter is how long VPP may keep silent while a probe waits before it counts as dead. Work such as af_packet creates
	// holds its API up for tens of milliseconds each, but answers keep coming.
	hangAfter = 3 * time.Second
)

// Conn is one VPP lifetime. Once VPP is gone, or has stopped answering, every method returns the reason and Done is closed;
// a Conn never reconnects. Dump, Apply and CLI may be called concurrently; Apply by one goroutine at a time.
type Conn struct {
	conn     *core.Connection
	lifeline net.Conn
	pid      int
	version  string
	workers  int
	routed   map[string]uint32 // Apply's: by input node, the number of its next one for frames that are routed
	events   chan struct{}
	sent     atomic.Uint64
	refused  atomic.Uint64
	last     atomic.Int64 // when VPP was last heard, Unix nanoseconds
	counters counters
	rearm    rearm

	mu   sync.Mutex
	err  error
	hung bool // err is silence
	done chan struct{}

	run  context.Context // ends with the session
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func init() {
	// govpp logs to standard error by itself; what matters reaches our callers as errors.
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	core.SetLogger(quiet)
	socketclient.SetLogger(quiet)
}

// Dial connects to the VPP that listens on the API socket (a path) and checks that it speaks our release. Errors:
// fault.Unavailable when nobody answers, fault.Denied without permission, fault.Invalid for another release.
func Dial(ctx context.Context, socket string) (*Conn, error) {
	return Dialer{Socket: socket}.dial(ctx)
}

func (d Dialer) dial(ctx context.Context) (*Conn, error) {
	socket := d.Socket
	// The lifeline is a second connection that carries nothing: it ends at the moment VPP does, which the API connection
	// of govpp tells only at its next use.
	lifeline, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, dialFault(socket, err)
	}
	conn, err := core.Connect(newAdapter(socket))
	if err != nil {
		_ = lifeline.Close()
		return nil, dialFault(socket, err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Conn{conn: conn, lifeline: lifeline, events: make(chan struct{}, 1), done: make(chan struct{}), run: run, stop: stop, pid: peerOf(lifeline), rearm: newRearm(),
		routed: make(map[string]uint32)}
	c.counters.socket = cmp.Or(d.StatsSocket, StatsBeside(socket))
	c.heard()
	c.wg.Go(c.watchLife)
	c.wg.Go(c.probe)
	if err := c.greet(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("VPP at %s: %w", socket, err)
	}
	return c, nil
}

func newAdapter(socket string) *socketclient.Client {
	a := socketclient.NewVppClient(socket)
	a.SetClientName("highwire")
	return a
}

func dialFault(socket string, err error) error {
	kind := fault.Unavailable
	if errors.Is(err, os.ErrPermission) {
		kind = fault.Denied
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return fault.New(kind, "no VPP answers on %s: %w", socket, err)
	}
	return fault.New(kind, "cannot connect to VPP on %s: %w", socket, err)
}

// greet asks for version and messages, and subscribes to interface events.
func (c *Conn) greet(ctx context.Context) error {
	reply, err := c.one(ctx, &vpe.ShowVersion{})
	if err != nil {
		return err
	}
	c.version = strings.Trim(reply.(*vpe.ShowVersionReply).Version, "\x00 ")
	var missing []string
	for _, m := range required() {
		if c.knows(m) != nil {
			missing = append(missing, m.GetMessageName())
		}
	}
	if len(missing) > 0 {
		return fault.New(fault.Invalid, "version %s does not know %s as release %s does; run VPP %s with the plugins for them enabled",
			c.version, strings.Join(missing, ", "), Release, Release)
	}
	if reply, err = c.one(ctx, &vlib.ShowThreads{}); err != nil {
		return err
	}
	for _, t := range reply.(*vlib.ShowThreadsReply).ThreadData {
		if text(t.Type) == "workers" {
			c.workers++
		}
	}
	watcher, err := c.conn.WatchEvent(c.run, &interfaces.SwInterfaceEvent{})
	if err != nil {
		return err
	}
	c.wg.Go(func() { c.relay(watcher) })
	c.wg.Go(c.rearmAll)
	_, err = c.flush(ctx, []call{{req: &interfaces.WantInterfaceEvents{EnableDisable: 1, PID: uint32(os.Getpid())}, also: []api.VPPApiError{api.INVALID_REGISTRATION}}})
	return err
}

// relay folds interface events into one signal: an event says that something changed, a dump says what.
func (c *Conn) relay(w api.Watcher) {
	defer w.Close()
	for {
		select {
		case m, ok := <-w.Events():
			if !ok {
				return
			}
			if e, ok := m.(*interfaces.SwInterfaceEvent); ok {
				c.rearm.hear(e)
			}
			select {
			case c.events <- struct{}{}:
			default:
			}
		case <-c.run.Done():
			return
		}
	}
}

func (c *Conn) watchLife() {
	var b [1]byte
	_, err := c.lifeline.Read(b[:])
	c.fail(fault.New(fault.Unavailable, "VPP has closed its API socket: %w", err))
}

// probe ends the session of a VPP that hangs. Answers to other messages count as life, so a busy VPP is left alone.
func (c *Conn) probe() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting := false
	for {
		select {
		case <-c.run.Done():
			if waiting {
				<-answered
			}
			return
		case err := <-answered:
			waiting = false
			if err != nil && c.run.Err() == nil {
				return
			}
		case <-tick.C:
			if !waiting {
				waiting = true
				c.wg.Go(func() {
					_, err := c.one(c.run, &memclnt.ControlPing{})
					answered <- err
				})
				continue
			}
			if silent := time.Since(time.Unix(0, c.last.Load())); silent > hangAfter {
				c.mu.Lock()
				c.hung = c.err == nil
				c.mu.Unlock()
				c.fail(fault.New(fault.Unavailable, "VPP has not answered for %v", silent.Round(time.Millisecond)))
			}
		}
	}
}

func (c *Conn) heard() { c.last.Store(time.Now().UnixNano()) }

// fail ends the session for the reason. The first reason stays.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.stop()
	_ = c.lifeline.Close()
}

// Done is closed when the session has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the session has ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Hung tells whether the session has ended because VPP is there and does not answer.
func (c *Conn) Hung() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hung
}

// Close ends the session and waits for its goroutines. VPP keeps what it holds.
func (c *Conn) Close() {
	c.fail(fault.New(fault.Canceled, "VPP session closed"))
	c.wg.Wait()
	c.conn.Disconnect()
	c.counters.close()
}

// PID is the process that listens on VPP's API socket, 0 if the kernel does not tell (SO_PEERCRED).
func (c *Conn) PID() int { return c.pid }

func peerOf(conn net.Conn) (pid int) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// Version is VPP's own version text.
func (c *Conn) Version() string { return c.version }

// Workers is how many threads VPP has for packets beside its main one; without any that one serves all queues.
func (c *Conn) Workers() int { return c.workers }

// Events signals that interfaces have changed in some way since the last signal. Dump tells how.
func (c *Conn) Events() <-chan struct{} { return c.events }

// Sent counts the messages sent in this session, probes included.
func (c *Conn) Sent() uint64 { return c.sent.Load() }

// Refused counts the messages of this session that VPP answered with an error.
func (c *Conn) Refused() uint64 { return c.refused.Load() }

// CLI runs one line of VPP's command line (cli_inband) and returns what it prints. A line that VPP refuses is
// fault.Invalid with VPP's own words.
func (c *Conn) CLI(ctx context.Context, line string) (string, error) {
	reply, err := c.one(ctx, &vlib.CliInband{Cmd: line})
	if err != nil {
		return "", err
	}
	r := reply.(*vlib.CliInbandReply)
	if r.Retval != 0 {
		return "", fault.New(fault.Invalid, "vppctl %s: %s", line, strings.TrimSpace(r.Reply))
	}
	return r.Reply, nil
}

// Dialer connects to VPP again and again, one Conn a lifetime.
type Dialer struct {
	// Socket is the path of VPP's API socket.
	Socket string
	// StatsSocket is the path of VPP's stats socket; empty for StatsBeside.
	StatsSocket string
	// OnHang, if set, is told the process of a VPP that does not answer any more, to end it: it would not by itself.
	OnHang func(pid int)
	// Log receives comings and goings of VPP; nil for none.
	Log *slog.Logger
}

// redialEvery bounds how long a VPP that has just begun to listen waits for us.
const redialEvery = 50 * time.Millisecond

// Run calls fn with a fresh Conn for each VPP lifetime, one after the other, until ctx ends. fn should return when
// Conn.Done closes. An error of kind Invalid or Denied from dialling is not going to mend itself and ends Run.
func (d Dialer) Run(ctx context.Context, fn func(context.Context, *Conn)) error {
	log := d.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	retry := time.NewTicker(redialEvery)
	defer retry.Stop()
	for waiting := false; ; {
		c, err := d.dial(ctx)
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return ctx.Err()
		case fault.Is(err, fault.Invalid), fault.Is(err, fault.Denied):
			return err
		case err != nil:
			if !waiting {
				log.Warn("waiting for VPP", "socket", d.Socket, "reason", err)
			}
			waiting = true
			select {
			case <-retry.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		waiting = false
		log.Info("connected to VPP", "socket", d.Socket, "version", c.Version())
		fn(ctx, c)
		if err := c.Err(); err != nil {
			log.Warn("VPP session ended", "reason", err)
		}
		if pid := c.PID(); c.Hung() && pid > 0 && d.OnHang != nil {
			d.OnHang(pid)
		}
		c.Close()
	}
}
