package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/process"
)

// RemoteConfig of a run of Remote.
type RemoteConfig struct {
	// Highwire is the binary whose processes answer Requests.
	Highwire string
	// Bin is the vpp executable; empty for the one on PATH, and pocketvpp where there is none.
	Bin string
	// Only measures the groups of figures whose names contain it.
	Only string
	// Rounds of every throughput figure, of Length each; Requests is how many are made for a set-up time.
	Rounds, Requests int
	Length           time.Duration
	// Keys is how long traffic is watched while session keys change; 0 leaves it out.
	Keys time.Duration
	// Log is told what is measured now, and what cannot be.
	Log *slog.Logger
}

// remote is one run.
type remote struct {
	RemoteConfig
	report *Report
}

// Remote measures vWires over two nodes, by tunnel and kind of ends: how long a Request takes, and what goes through beside a tunnel
// that was made by hand between the same two VPPs. It must run inside a namespace of its own (Inside). A figure that fails does
// not keep the others from being measured: the report has those that did not. There is none once ctx has ended.
func Remote(ctx context.Context, c RemoteConfig) (*Report, error) {
	bin, err := process.Find(c.Bin)
	if c.Bin != "" && err != nil {
		return nil, fmt.Errorf("HIGHWIRE_VPP_BIN: %w", err)
	}
	c.Bin = bin
	name := "two real VPPs with one thread each, each on a core of its own"
	if bin == "" {
		c.Log.Warn("no VPP found: measuring pocketvpp, whose figures say nothing about VPP; set HIGHWIRE_VPP_BIN or put vpp on PATH")
		name = "pocketvpp (its figures say nothing about VPP)"
	}
	r := &remote{c, &Report{Machine: machine(name) + "; two namespaces joined by a veth pair, uplinks by af_packet"}}
	var groups []group
	for _, t := range tunnelKinds {
		groups = append(groups,
			group{t.name + ", kernel ends", func(ctx context.Context) error { return r.kernelEnds(ctx, t) }},
			group{t.name + ", memif ends", func(ctx context.Context) error { return r.memifEnds(ctx, t) }})
		if t.wireguard && c.Keys > 0 {
			groups = append(groups, group{t.name + ", new keys", func(ctx context.Context) error { return r.newKeys(ctx, t) }})
		}
	}
	return r.report.gather(ctx, c.Log, c.Only, groups)
}

// keyRate is how many echo requests a second flow while session keys change.
const keyRate = 1000

// newKeys counts what is lost while WireGuard gives its sessions new keys, which it does every two minutes.
func (r *remote) newKeys(ctx context.Context, t tunnelKind) error {
	return withEnds(1, func(e ...ends) error {
		return r.withNodes(ctx, t, mechanisms.Memif, e[0].endpoint, func(p nodePair) error {
			// Echoes of a flow are numbered with 16 bits.
			callers := make([]*caller, 1+int(r.Keys.Seconds()*keyRate)>>15)
			for i := range callers {
				var err error
				if callers[i], err = p.caller(ctx, i, mechanisms.Memif, e[0].client.File()); err != nil {
					return err
				}
				if err := callers[i].request(ctx); err != nil {
					return err
				}
			}
			flowing, err := newTraffic(ctx, callers, keyRate)
			if err != nil {
				return err
			}
			defer flowing.end()
			begin := time.Now()
			if err := pause(ctx, r.Keys); err != nil {
				return err
			}
			lost, sent, err := flowing.lost(ctx, begin, time.Now())
			var when strings.Builder
			for _, g := range flowing.gaps(begin, time.Now()) {
				fmt.Fprintf(&when, ", %d lost after %.1f s for %.1f s", g.lost, g.from.Sub(begin).Seconds(), g.to.Sub(g.from).Seconds())
			}
			if err == nil {
				r.report.Add(Figure{Name: t.name + ": lost while sessions get new keys", Value: float64(lost), Unit: "packets", Wanted: "0",
					Conditions: fmt.Sprintf("%d echo requests in %v, %d a second over %d vWires; keys change every 120 s%s", sent, r.Keys, keyRate, len(callers), &when)})
			}
			return err
		})
	})
}

// nodePair is two agents on a node each, and a session with each one's VPP for the hand.
type nodePair struct {
	*mesh
	near, far *dataplane
}

// withNodes calls fn with two nodes and an endpoint on the far one, in its namespace, with ends of the mechanism.
func (r *remote) withNodes(ctx context.Context, t tunnelKind, mechanism string, endpoint *lab.Namespace, fn func(nodePair) error) (err error) {
	plane, socket := []string{"--vpp=pocket"}, "data/pocketvpp.sock"
	if r.Bin != "" {
		plane, socket = []string{"--vpp=spawn", "--vpp-bin=" + r.Bin}, "data/vpp/api.sock"
	}
	m, err := startMesh(ctx, meshConfig{
		highwire: r.Highwire, dataplane: plane, agent: append([]string{"--kernel-pool=0"}, t.agent...), mechanism: strings.ToLower(mechanism),
		payload: string(t.payload), nodes: true, netns: endpoint.Path(),
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nlast words of the near agent:\n%s", err, m.agent.LastWords())
		}
		err = errors.Join(err, m.stop())
	}()
	p := nodePair{mesh: m, near: &dataplane{real: r.Bin != "", socket: m.path(socket)}, far: &dataplane{real: r.Bin != "", socket: filepath.Join(m.path("far"), socket)}}
	for core, d := range []*dataplane{p.near, p.far} {
		if d.hand, err = vppapi.Dial(ctx, d.socket); err != nil {
			return err
		}
		defer d.hand.Close()
		if d.real {
			if err := pin(d.hand.PID(), core); err != nil {
				return err
			}
		}
	}
	return fn(p)
}

// pin keeps all threads of a process on the core.
func pin(pid, core int) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(core)
	for _, t := range tasks {
		var id int
		if _, err := fmt.Sscan(t.Name(), &id); err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) { // on a machine with one core there is nothing to keep
			return fmt.Errorf("keep thread %d on core %d: %w", id, core, err)
		}
	}
	return nil
}

// setUp measures how long Requests take, one after the other, and leaves a vWire.
func (r *remote) setUp(ctx context.Context, name string, c *caller) error {
	var requests calls
	for i := range r.Requests + 1 {
		requests.all(ctx, []*caller{c}, (*caller).request)
		if i == r.Requests || len(requests.errs) > 0 {
			break
		}
		if err := c.close(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(requests.errs...); err != nil {
		return err
	}
	for _, q := range []struct {
		name string
		p    float64
	}{{"p50", 0.5}, {"p95", 0.95}} {
		r.report.Add(Figure{Name: name + ": Request, " + q.name, Value: requests.took.Quantile(q.p), Unit: "ms",
			Conditions: fmt.Sprintf("%d Requests, one after the other; answered once the tunnel takes packets", len(requests.took))})
	}
	return nil
}

// kernelEnds is set-up and TCP between kernel interfaces on both nodes.
func (r *remote) kernelEnds(ctx context.Context, t tunnelKind) error {
	name := t.name + ", kernel ends"
	return withEnds(2, func(e ...ends) error {
		return r.withNodes(ctx, t, mechanisms.Kernel, e[0].endpoint, func(p nodePair) error {
			c, err := p.caller(ctx, 0, mechanisms.Kernel, e[0].client.File())
			if err != nil {
				return err
			}
			if err := r.setUp(ctx, name, c); err != nil {
				return err
			}
			peer, mtu, err := c.peer()
			if err != nil {
				return err
			}
			var byHand Trial
			conditions := fmt.Sprintf("MTU %d inside", mtu)
			if p.near.real {
				err := p.byHand(ctx, t, e[1].hand(ctx, p, t, mtu))
				if err == nil {
					err = answers(ctx, e[1].client, endpointAddr)
				}
				if err != nil {
					return fmt.Errorf("by hand: %w", err)
				}
				byHand = e[1].stream(r.Length)
				conditions += "; baseline: a tunnel by vppctl between the same two VPPs, same rings"
			}
			vwire := func(ctx context.Context) ([]float64, error) {
				f, err := lab.Stream(ctx, e[0].client, e[0].endpoint, peer, r.Length)
				return []float64{f.BitsPerSecond() / 1e9}, err
			}
			both, err := Compare(ctx, r.Rounds, vwire, byHand)
			if err == nil {
				r.report.Add(both[0].Figure(name+": TCP", "Gb/s", "ratio >= 0.98", conditions))
			}
			return err
		})
	})
}

// answers waits until an echo comes back: a hand does not wait for handshakes.
func answers(ctx context.Context, from *lab.Namespace, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	for {
		once, end := context.WithTimeout(ctx, time.Second)
		e, err := from.Ping(once, to, 1)
		end()
		if e.Received > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not answer: %w", to, errors.Join(err, ctx.Err()))
		}
	}
}

// memifEnds is set-up and packets between memif interfaces on both nodes. The client's application is in this process; packets are
// counted as they come out of the tunnel in the far VPP, which hands them on to the endpoint's.
func (r *remote) memifEnds(ctx context.Context, t tunnelKind) error {
	name := t.name + ", memif ends"
	return withEnds(2, func(e ...ends) error {
		return r.withNodes(ctx, t, mechanisms.Memif, e[0].endpoint, func(p nodePair) error {
			c, err := p.caller(ctx, 0, mechanisms.Memif, e[0].client.File())
			if err != nil {
				return err
			}
			if err := r.setUp(ctx, name, c); err != nil {
				return err
			}
			if !p.near.real {
				r.Log.Warn("no packet rates: they need a real VPP")
				return nil
			}
			own, err := p.tunnelOut(ctx, t, "")
			if err != nil {
				return err
			}
			hand, err := p.handMemifs(ctx, t, e[1])
			if err != nil {
				return fmt.Errorf("by hand: %w", err)
			}
			defer hand.stop()
			handOut, err := p.tunnelOut(ctx, t, own)
			if err != nil {
				return err
			}
			vwire, err := c.application(ctx, t, e[0].client)
			if err != nil {
				return err
			}
			defer vwire.stop()
			both, err := Compare(ctx, r.Rounds, p.packets(vwire, own, r.Length), p.packets(hand, handOut, r.Length))
			if err == nil {
				r.report.Add(both[0].Figure(name+": packets", "Mpps", "ratio >= 0.98",
					"64-byte packets one way, made by this process on the same cores; baseline: a tunnel by vppctl between the same two VPPs, same rings"),
					both[1].Figure(name+": cost", "clocks/packet", "ratio <= 1.02", "sum over the nodes of both VPPs"))
			}
			return err
		})
	})
}
