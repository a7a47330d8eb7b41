package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// The memif figures take a second VPP on another core, which is client and endpoint of every path: its packet generator
// sends into one memif interface what has to come out of another.

// path is a way from the generator through its memif "in" to its memif "out"; its number tells sockets and interfaces apart.
type path int

const (
	vwirePath path = iota
	handPath
	directPath
	// loopPath is the generator's alone: nobody is between its interfaces.
	loopPath
)

// Abstract sockets of the path: the client's and the endpoint's.
func (p path) sockets() (client, endpoint string) {
	if p == loopPath {
		return "bench-loop", "bench-loop"
	}
	return fmt.Sprintf("bench-client-%d", p), fmt.Sprintf("bench-endpoint-%d", p)
}

// Interfaces of the generator.
func (p path) in() string  { return fmt.Sprintf("memif%d/0", 10+p) }
func (p path) out() string { return fmt.Sprintf("memif%d/0", 20+p) }

// handMemifs are the interfaces of the hand-made path in the VPP that is measured.
const handIn, handOut = "memif11/0", "memif21/0"

// frame is the head of a 64-byte frame from the generator: Ethernet, and the first bytes of IPv4.
const frame = "0x02000000000102000000000208004500"

// waited is the part of a trial that a VPP may wait for its core, which it otherwise has to itself.
const waited = 0.02

// memifLoad joins the generator to the VPP that is measured.
type memifLoad struct {
	vpp, generator *dataplane
	length         time.Duration
}

// memif is packets a second and clocks a packet of a vWire between memif ends, over VPP and direct.
func (r *run) memif(ctx context.Context) error {
	if !r.vpp.real || runtime.NumCPU() < 2 {
		r.log.Warn("no memif figures: they need a real VPP and a second core for the generator")
		return nil
	}
	generator, err := startDataplane(ctx, filepath.Join(r.dir, "generator"), r.bin, 1)
	if err != nil {
		return fmt.Errorf("start the generator: %w", err)
	}
	defer generator.stop()
	m := &memifLoad{vpp: r.vpp, generator: generator, length: r.length}
	if err := m.byHand(ctx); err != nil {
		return err
	}
	defer func() { _ = m.vpp.cli(ctx, "delete interface memif "+handIn, "delete interface memif "+handOut) }()

	const conditions = "64-byte frames one way, ring 1024, slaves copy; baseline: the same VPP by vppctl, polling"
	err = m.withVWire(ctx, vwirePath, options{}, func() error {
		var limits notVPP
		c, err := Compare(ctx, r.rounds, m.trial(vwirePath, &limits), m.trial(handPath, &limits))
		if err == nil {
			r.report.Add(
				c[0].Figure("memif-vWire-memif, one core", "Mpps", "ratio >= 0.98", conditions+"; "+limits.String()),
				c[1].Figure("memif-vWire-memif, cost", "clocks/packet", "ratio <= 1.02", conditions+"; sum over VPP's nodes"))
		}
		return err
	})
	if err != nil {
		return err
	}
	return m.withVWire(ctx, directPath, options{direct: true}, func() error {
		c, err := Compare(ctx, r.rounds, m.trial(directPath, nil), m.trial(handPath, nil))
		if err == nil {
			r.report.Add(c[0].Figure("memif-memif direct", "Mpps", "ratio > 1",
				"64-byte frames one way; generator and sink, on one core, are the limit; baseline: the hand-made path over VPP"))
		}
		return err
	})
}

// byHand makes the baseline in VPP and joins the generator to it.
func (m *memifLoad) byHand(ctx context.Context) error {
	client, endpoint := handPath.sockets()
	return m.join(ctx, handPath, func() error {
		lines := []string{
			"create memif socket id 11 filename abstract:" + client, "create interface memif socket-id 11 id 0 master ring-size 1024",
			"create memif socket id 21 filename abstract:" + endpoint, "create interface memif socket-id 21 id 0 slave ring-size 1024 no-zero-copy",
		}
		return m.vpp.cli(ctx, append(lines, crossConnect(handIn, handOut)...)...)
	})
}

// withVWire calls fn while a vWire of an agent joins the path.
func (m *memifLoad) withVWire(ctx context.Context, p path, o options, fn func() error) error {
	return m.vpp.with(ctx, o, func(a *agent) error {
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer own.Close()
		id, err := a.namespaces.Hold(own)
		if err != nil {
			return err
		}
		defer a.namespaces.Release(id)
		client, endpoint := p.sockets()
		end := func(side mechanisms.Side, socket string) mechanisms.End {
			return mechanisms.End{
				VWire: "memif", Side: side, Type: mechanisms.Memif, Payload: mechanisms.Ethernet,
				Params: map[string]string{mechanisms.ParamInode: id.String(), mechanisms.ParamSocket: "@" + socket},
			}
		}
		v := forwarder.VWire{ID: "memif", Client: end(mechanisms.Client, client), Endpoint: end(mechanisms.Endpoint, endpoint)}
		err = m.join(ctx, p, func() error { return a.Set(ctx, v) })
		if err == nil {
			err = fn()
		}
		return errors.Join(err, a.Delete(ctx, v.ID))
	})
}

// join makes the generator's interfaces around the path that the function makes, and waits until both are connected.
func (m *memifLoad) join(ctx context.Context, p path, fn func() error) error {
	client, endpoint := p.sockets()
	err := m.generator.cli(ctx,
		fmt.Sprintf("create memif socket id %d filename abstract:%s", 20+p, endpoint),
		fmt.Sprintf("create interface memif socket-id %d id 0 master ring-size 1024", 20+p),
		"set interface state "+p.out()+" up")
	if err == nil {
		err = fn()
	}
	if err == nil {
		err = m.generator.cli(ctx,
			fmt.Sprintf("create memif socket id %d filename abstract:%s", 10+p, client),
			fmt.Sprintf("create interface memif socket-id %d id 0 slave ring-size 1024", 10+p),
			"set interface state "+p.in()+" up",
			fmt.Sprintf("packet-generator new { name path-%d limit -1 size 64-64 node %s-output tx-interface %s data { hex %s } }", p, p.in(), p.in(), frame))
	}
	for _, name := range []string{p.in(), p.out()} {
		if err == nil {
			err = m.connected(ctx, name)
		}
	}
	return err
}

// connectsWithin leaves a memif slave time to dial twice.
const connectsWithin = 10 * time.Second

// connected waits for the link of one of the generator's interfaces.
func (m *memifLoad) connected(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, connectsWithin)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		out, err := m.generator.hand.CLI(ctx, "show memif "+name)
		if err != nil || strings.Contains(out, " connected") {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "the generator's %s is not connected after %v:\n%s", name, connectsWithin, out)
		}
	}
}

// notVPP counts trials in which the generator or the sink was slower than the VPP measured.
type notVPP struct{ trials, limited int }

func (n notVPP) String() string {
	if n.limited == 0 {
		return "VPP is the limit"
	}
	return fmt.Sprintf("limited by the generator or the sink in %d of %d trials", n.limited, n.trials)
}

// trial loads the path and tells how many million packets a second arrived, and how many clocks VPP spent on each (0 if it
// had none). It judges what the limit was, where that is asked for. A trial in which one of the VPPs had to wait for
// its core is disturbed.
func (m *memifLoad) trial(p path, limits *notVPP) Trial {
	return func(ctx context.Context) ([]float64, error) {
		if err := m.pollFor(ctx, p); err != nil {
			return nil, err
		}
		stream := fmt.Sprintf("path-%d", p)
		err := m.generator.cli(ctx, "packet-generator enable-stream "+stream)
		if err == nil {
			err = pause(ctx, m.length/10)
		}
		err = errors.Join(err, m.vpp.cli(ctx, "clear runtime"), m.generator.cli(ctx, "clear runtime"))
		before := m.vpp.waiting() + m.generator.waiting()
		if err == nil {
			err = pause(ctx, m.length)
		}
		waiting := m.vpp.waiting() + m.generator.waiting() - before
		sent, err2 := m.generator.runtime(ctx)
		taken, err3 := m.vpp.runtime(ctx)
		if err := errors.Join(err, err2, err3, m.generator.cli(ctx, "packet-generator disable-stream "+stream)); err != nil {
			return nil, err
		}
		arrived, through := sent.rate("memif-input"), taken.rate("memif-input")
		measured := []float64{arrived / 1e6, taken.clocksPerPacket("memif-input")}
		if waiting.Seconds() > waited*m.length.Seconds() {
			return measured, errDisturbed
		}
		if limits != nil {
			limits.trials++
			if sent.rate(p.in()+"-output") < 1.01*through || arrived < 0.99*through {
				limits.limited++
			}
		}
		return measured, nil
	}
}

// pollFor lets the hand-made interfaces poll for the sake of their own path only. By hand an interface stays in the mode it gets
// when it connects; it must not poll on the vWire's behalf.
func (m *memifLoad) pollFor(ctx context.Context, p path) error {
	mode := "adaptive"
	if p == handPath {
		mode = "polling"
	}
	return m.vpp.cli(ctx, "set interface rx-mode "+handIn+" "+mode, "set interface rx-mode "+handOut+" "+mode)
}

// waiting is how long VPP's main thread has waited for its core since it was started (proc(5), schedstat); 0 where
// the kernel does not tell.
func (d *dataplane) waiting() time.Duration {
	var ran, waited time.Duration
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", d.hand.PID()))
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscan(string(b), &ran, &waited) // nanoseconds; what is not there stays 0
	return waited
}

// runtime is VPP's account of its nodes since it was cleared.
func (d *dataplane) runtime(ctx context.Context) (nodes, error) {
	out, err := d.hand.CLI(ctx, "show runtime")
	if err != nil {
		return nodes{}, err
	}
	return parseRuntime(out)
}

// pause lets time pass in which something else is measured.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
