package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/pocketvpp"
	"highwire/vppapi/process"
)

// part is something that runs until it is stopped.
type part struct {
	cancel context.CancelFunc
	done   chan error
}

func start(ctx context.Context, run func(context.Context) error) part {
	ctx, cancel := context.WithCancel(ctx)
	p := part{cancel, make(chan error, 1)}
	go func() { p.done <- run(ctx) }()
	return p
}

// stop waits for the end.
func (p part) stop() {
	p.cancel()
	<-p.done
}

// dataplane is a VPP of our own, or pocketvpp, with a session for the hand that configures it.
type dataplane struct {
	part
	real   bool
	dir    string
	socket string
	hand   *vppapi.Conn
}

// startsWithin is how long a VPP may take until it answers.
const startsWithin = 20 * time.Second

// startDataplane launches the VPP executable bin with its main thread on the core and no worker; pocketvpp if bin is empty.
// Files go into dir.
func startDataplane(ctx context.Context, dir, bin string, core int) (*dataplane, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &dataplane{real: bin != "", dir: dir}
	quiet := slog.New(slog.DiscardHandler)
	var run func(context.Context) error
	if d.real {
		c := process.Config{Bin: bin, PluginPath: process.Plugins(bin), Dir: dir, MainCore: core, Buffers: 16384, HeapMB: 256, Log: quiet}
		d.socket, run = c.Socket(), c.Run
	} else {
		d.socket = filepath.Join(dir, "api.sock")
		s, err := pocketvpp.New(pocketvpp.Config{Socket: d.socket, Logger: quiet})
		if err != nil {
			return nil, err
		}
		run = s.Run
	}
	d.part = start(ctx, run)
	var err error
	if d.hand, err = d.dial(ctx); err != nil {
		d.part.stop()
		return nil, err
	}
	return d, nil
}

// dial waits for VPP's first answer; a socket that nobody listens on yet has no event to wait for.
func (d *dataplane) dial(ctx context.Context) (*vppapi.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		c, err := vppapi.Dial(ctx, d.socket)
		if err == nil || !fault.Is(err, fault.Unavailable) {
			return c, err
		}
		select {
		case <-again.C:
		case end := <-d.done:
			d.done <- end // for stop
			return nil, fmt.Errorf("the dataplane has ended: %w", end)
		case <-ctx.Done():
			return nil, fmt.Errorf("the dataplane did not start within %v: %w; see %s", startsWithin, err, filepath.Join(d.dir, "vpp.log"))
		}
	}
}

// stop ends the dataplane.
func (d *dataplane) stop() {
	d.hand.Close()
	d.part.stop()
}

// name is what stands in a report.
func (d *dataplane) name() string {
	if d.real {
		return "VPP " + d.hand.Version() + " with one thread"
	}
	return "pocketvpp (its figures say nothing about VPP)"
}

// cli runs lines of VPP's command line by hand, one after the other.
func (d *dataplane) cli(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := d.hand.CLI(ctx, line); err != nil {
			return err
		}
	}
	return nil
}

// agent is a reconciler on a dataplane.
type agent struct {
	*forwarder.Reconciler
	part
	namespaces *kernel.Namespaces
}

// options are what an agent of a figure does unlike others.
type options struct {
	// pool is how many kernel devices are kept ready.
	pool int
	// direct joins ends without VPP.
	direct bool
}

// startAgent runs a reconciler with an empty journal.
func (d *dataplane) startAgent(ctx context.Context, o options) (*agent, error) {
	n := kernel.NewNamespaces()
	m := memif.New(memif.Config{Namespaces: n, Direct: o.direct})
	k := kernel.New(kernel.Config{Namespaces: n, Backing: kernel.Veth, Direct: o.direct, Pool: o.pool})
	journal, err := os.CreateTemp(d.dir, "journal")
	if err != nil {
		return nil, err
	}
	_ = journal.Close()
	r, err := forwarder.New(forwarder.Config{
		Dialer: vppapi.Dialer{Socket: d.socket}, Journal: journal.Name(),
		Mechanisms: mechanisms.Set{k, m},
	})
	if err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		defer m.Close()
		return r.Run(ctx)
	}
	a := &agent{r, start(ctx, run), n}
	select {
	case <-r.Ready():
		return a, nil
	case <-ctx.Done():
		a.stop()
		return nil, ctx.Err()
	}
}

// with runs fn beside an agent, and ends the agent.
func (d *dataplane) with(ctx context.Context, o options, fn func(*agent) error) error {
	a, err := d.startAgent(ctx, o)
	if err != nil {
		return fmt.Errorf("start an agent: %w", err)
	}
	defer a.stop()
	return fn(a)
}
