package forwarder_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif"
	"highwire/vppapi"
	"highwire/vppapi/pocketvpp"
	"highwire/vppapi/process"
)

// dataplane is what a test of the contract runs on: pocketvpp, or the real VPP.
type dataplane struct {
	name    string
	backing kernel.Backing
	socket  string
	onHang  func(pid int)
	direct  bool
	// memifDirect joins memif ends without the dataplane.
	memifDirect bool
	// memifGuard is the directory of a guard between clients and VPP.
	memifGuard string
	pool       int
	limit      int // of af_packet interfaces, 0 for the default
	workers    int
	queues     uint8 // of kernel interfaces at most
	// resyncEvery is the agent's slow look at everything, 0 for the default.
	resyncEvery time.Duration
	// hears: the agent listens in the namespaces of kernel interfaces.
	hears bool
	// start makes a VPP answer on socket until stop, which waits for its end. kill ends it without a word.
	start func(t *testing.T) (kill func())
}

// onDataplanes runs a test on pocketvpp always, and on the real VPP where HIGHWIRE_VPP_BIN names one or it is on PATH.
func onDataplanes(t *testing.T, test func(t *testing.T, d *dataplane)) {
	t.Helper()
	t.Run("pocket", func(t *testing.T) { test(t, pocket(t, kernel.Veth, nil)) })
	t.Run("pocket-tap", func(t *testing.T) {
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			t.Skip("no /dev/net/tun on this machine:", err)
		}
		test(t, pocket(t, kernel.Tap, nil))
	})
	t.Run("vpp", func(t *testing.T) { test(t, real(t, kernel.Veth)) })
	t.Run("vpp-tap", func(t *testing.T) {
		if _, err := os.Stat("/dev/vhost-net"); err != nil {
			t.Skip("VPP's taps need /dev/vhost-net:", err)
		}
		test(t, real(t, kernel.Tap))
	})
}

func pocket(t *testing.T, b kernel.Backing, fault func(string) (int32, bool)) *dataplane {
	d := &dataplane{name: "pocketvpp", backing: b, socket: filepath.Join(t.TempDir(), "api.sock")}
	d.start = func(t *testing.T) func() {
		s, err := pocketvpp.New(pocketvpp.Config{Socket: d.socket, Workers: d.workers, Fault: fault, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return running(t, s.Run)
	}
	return d
}

func real(t *testing.T, b kernel.Backing) *dataplane {
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
	c := process.Config{Bin: bin, PluginPath: process.Plugins(bin), Dir: dir, Buffers: 16384, HeapMB: 256, Log: testLog(t)}
	d := &dataplane{name: "VPP", backing: b, socket: c.Socket()}
	d.start = func(t *testing.T) func() {
		c.Workers = d.workers
		return running(t, c.Run)
	}
	return d
}

// running calls run until the test ends, or earlier until the returned function is called.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// agent is a reconciler on a dataplane.
type agent struct {
	*forwarder.Reconciler
	namespaces *kernel.Namespaces
	stop       func()
}

func (d *dataplane) agent(t *testing.T, journal string, grace time.Duration) *agent {
	t.Helper()
	return d.agentWith(t, journal, grace, kernel.NewNamespaces())
}

// agentHolding is an agent that finds the pair's namespaces, as it would if processes lived in them.
func (d *dataplane) agentHolding(t *testing.T, journal string, p *pair) *agent {
	t.Helper()
	n := kernel.NewNamespaces()
	defer (&agent{namespaces: n}).hold(t, p)()
	return d.agentWith(t, journal, 0, n)
}

func (d *dataplane) agentWith(t *testing.T, journal string, grace time.Duration, n *kernel.Namespaces) *agent {
	t.Helper()
	m := memif.New(memif.Config{Namespaces: n, Direct: d.memifDirect, Guard: d.memifGuard})
	var watcher forwarder.Watcher
	if d.hears {
		watcher = n
		running(t, n.Watch)
	}
	r, err := forwarder.New(forwarder.Config{
		Dialer: vppapi.Dialer{Socket: d.socket, OnHang: d.onHang, Log: testLog(t)},
		Mechanisms: mechanisms.Set{
			kernel.New(kernel.Config{Namespaces: n, Backing: d.backing, Direct: d.direct, Pool: d.pool, Queues: d.queues}),
			m,
		},
		Journal: journal, Grace: grace, ResyncEvery: d.resyncEvery, MaxAFPacket: d.limit, Namespaces: watcher, Log: testLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &agent{r, n, running(t, func(ctx context.Context) error {
		defer m.Close()
		return r.Run(ctx)
	})}
}

// hold makes the pair's namespaces known to the agent, as a Request does with those that arrive on its socket.
func (a *agent) hold(t *testing.T, p *pair) (release func()) {
	t.Helper()
	var ids []mechanisms.Inode
	for _, n := range []*lab.Namespace{p.client, p.endpoint} {
		id, err := a.namespaces.Hold(n.File())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return func() {
		for _, id := range ids {
			a.namespaces.Release(id)
		}
	}
}

// within is the context of one test; VPP's start is part of it.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func testLog(t *testing.T) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// nothingLeft checks that neither VPP nor the agent's namespace holds anything of ours, once what is removed in the background is.
func (a *agent) nothingLeft(ctx context.Context, t *testing.T) {
	t.Helper()
	a.nothingLeftOf(ctx, t, "")
}

// nothingLeftOf looks in the agent's namespace only for what belongs to the vWire, unless it is empty: tests beside this one have
// their own there.
func (a *agent) nothingLeftOf(ctx context.Context, t *testing.T, vwire string) {
	t.Helper()
	emptied(t, func() (left []string, err error) {
		conn, err := a.VPP()
		if err != nil {
			return []string{err.Error()}, nil
		}
		have, err := conn.Dump(ctx)
		if conn.Err() != nil { // the next session will tell
			return []string{conn.Err().Error()}, nil
		}
		if err != nil {
			return nil, err
		}
		for _, k := range have.Keys() {
			left = append(left, fmt.Sprintf("in VPP: %s: %s", k, have[k].Object))
		}
		out, err := conn.CLI(ctx, "show interface")
		if err != nil {
			return nil, err
		}
		if strings.Contains(out, "host-") || strings.Contains(out, "tap") || strings.Contains(out, "tun") || strings.Contains(out, "memif") {
			left = append(left, "in VPP:\n"+out)
		}
		if out, err = conn.CLI(ctx, "show memif"); err != nil || strings.Contains(out, "abstract:") {
			left = append(left, fmt.Sprintf("in VPP:\n%s%v", out, err))
		}
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "hw") && strings.HasPrefix(l.Attrs().Alias, "hw:"+vwire) {
				left = append(left, fmt.Sprintf("in the agent's namespace: %s alias %s", l.Attrs().Name, l.Attrs().Alias))
			}
		}
		if n := a.namespaces.Len(); n != 0 {
			left = append(left, fmt.Sprintf("%d namespaces still held", n))
		}
		return left, nil
	})
}

// emptied waits until look finds nothing any more.
func emptied(t *testing.T, look func() (left []string, err error)) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		left, err := look()
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted): // a link went meanwhile
			left = []string{err.Error()}
		case err != nil:
			t.Fatal(err)
		case len(left) == 0:
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left: %s", strings.Join(left, "\nleft: "))
			return
		}
		<-again.C
	}
}

// explain logs VPP's own view of a test that has failed.
func (a *agent) explain(ctx context.Context, t *testing.T) {
	t.Helper()
	c, err := a.VPP()
	if !t.Failed() || err != nil {
		return
	}
	for _, line := range []string{"show interface", "show interface rx-placement", "show node af-packet-input", "show runtime", "show memif", "show mode", "show l3xc", "show ip neighbors", "show errors"} {
		out, err := c.CLI(ctx, line)
		t.Logf("%s\n%s%v", line, out, err)
	}
}
