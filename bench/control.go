package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi/process"
)

// ControlConfig of a run of Control.
type ControlConfig struct {
	// Highwire is the binary that is measured.
	Highwire string
	// Bin is the vpp executable; empty for the one on PATH, and pocketvpp where there is none.
	Bin string
	// Only measures the groups of figures whose names contain it.
	Only string
	// Scale of the numbers of rounds and vWires; 1 is the real thing.
	Scale float64
	// Idle is how long idle vWires are looked at.
	Idle time.Duration
	// Log is told what is measured now.
	Log *slog.Logger
}

// control is one run.
type control struct {
	ControlConfig
	report *Report
	real   bool
}

// way is one way of joining a client and an endpoint.
type way struct {
	name, mechanism string
	// payload, empty for the endpoint's default; nodes puts the endpoint on a second node.
	payload string
	nodes   bool
	// agent are flags of the agent.
	agent []string
	// atOnce are how many call at the same time, stand how many vWires are made to stand.
	atOnce, stand []int
	// rest is a pause before a round, in which the agent refills its pool of devices.
	rest time.Duration
	// wanted are the bars by figure.
	wanted map[string]string
}

func (r *control) ways() []way {
	kernel := way{
		name: "kernel", mechanism: mechanisms.Kernel, atOnce: []int{1, 10, 100}, stand: []int{1, 100}, rest: 600 * time.Millisecond,
		wanted: map[string]string{"Request, 1 at once, p50": "<= 10 ms"},
	}
	if !r.real {
		// Nothing but memory bounds the interfaces of pocketvpp.
		kernel.agent = []string{"--kernel-limit", "1024"}
		kernel.atOnce, kernel.stand = append(kernel.atOnce, 200), append(kernel.stand, 200)
		kernel.wanted["200 vWires stand"] = "<= 2000 ms"
	}
	few := []int{1, 10}
	many, stand := []int{1, 10, 100, 500}, []int{1, 100, 1000}
	return []way{
		{name: "memif through VPP", mechanism: mechanisms.Memif, agent: []string{"--memif-direct", "never"}, atOnce: many, stand: stand,
			wanted: map[string]string{"Request, 1 at once, p50": "<= 2 ms", "1000 vWires stand": "<= 2000 ms"}},
		{name: "memif direct", mechanism: mechanisms.Memif, atOnce: many, stand: stand},
		kernel,
		{name: "memif over two nodes, vxlan", mechanism: mechanisms.Memif, payload: "ETHERNET", nodes: true, atOnce: few},
		{name: "memif over two nodes, wireguard", mechanism: mechanisms.Memif, payload: "IP", nodes: true, atOnce: few},
		{name: "kernel over two nodes, vxlan", mechanism: mechanisms.Kernel, payload: "ETHERNET", nodes: true, atOnce: few, rest: kernel.rest},
		{name: "kernel over two nodes, wireguard", mechanism: mechanisms.Kernel, payload: "IP", nodes: true, atOnce: few, rest: kernel.rest},
	}
}

// Control measures Requests and Closes over real sockets, from clients in this process through an agent to an endpoint, each
// a process of its own. It must run inside a namespace of its own (Inside). A figure that fails does not keep the others from
// being measured: the report has those that did not. There is none once ctx has ended.
func Control(ctx context.Context, c ControlConfig) (*Report, error) {
	bin, err := process.Find(c.Bin)
	if c.Bin != "" && err != nil {
		return nil, fmt.Errorf("HIGHWIRE_VPP_BIN: %w", err)
	}
	c.Bin = bin
	name := "real VPP with one thread"
	if bin == "" {
		c.Log.Warn("no VPP found: measuring with pocketvpp, whose figures say nothing about VPP; set HIGHWIRE_VPP_BIN or put vpp on PATH")
		name = "pocketvpp (its figures say nothing about VPP)"
	}
	r := &control{ControlConfig: c, report: &Report{Machine: machine(name) + "; " + controlConditions}, real: bin != ""}
	groups := []group{{"idle vWires", r.idle}}
	for _, w := range r.ways() {
		groups = append(groups, group{"latency of " + w.name, func(ctx context.Context) error { return r.latencies(ctx, w) }})
		if len(w.stand) > 0 {
			groups = append(groups, group{"time until vWires stand, " + w.name, func(ctx context.Context) error { return r.stand(ctx, w) }})
		}
	}
	return r.report.gather(ctx, c.Log, c.Only, groups)
}

// scaled is n times Scale, at least one.
func (r *control) scaled(n int) int { return max(1, int(float64(n)*r.Scale)) }

// sizes are the numbers times Scale, each once.
func (r *control) sizes(numbers []int) []int {
	list := make([]int, len(numbers))
	for i, n := range numbers {
		list[i] = r.scaled(n)
	}
	return slices.Compact(list)
}

// with runs fn in a mesh with n clients, and ends the mesh.
func (r *control) with(ctx context.Context, w way, n int, fn func(*mesh, []*caller) error) error {
	dataplane := []string{"--vpp=pocket"}
	if r.real {
		dataplane = []string{"--vpp=spawn", "--vpp-bin=" + r.Bin}
	}
	m, err := startMesh(ctx, meshConfig{highwire: r.Highwire, dataplane: dataplane, agent: w.agent, mechanism: strings.ToLower(w.mechanism),
		payload: w.payload, nodes: w.nodes})
	if err != nil {
		return err
	}
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return errors.Join(err, m.stop())
	}
	m.later(own.Close)
	callers := make([]*caller, n)
	for i := range callers {
		namespace := own
		if w.mechanism == mechanisms.Kernel {
			ns, err := lab.New()
			if err != nil {
				return errors.Join(err, m.stop())
			}
			m.later(ns.Close)
			namespace = ns.File()
		}
		if callers[i], err = m.caller(ctx, i, w.mechanism, namespace); err != nil {
			return errors.Join(err, m.stop())
		}
	}
	err = fn(m, callers)
	if err != nil {
		err = fmt.Errorf("%w\nlast words of the agent:\n%s", err, m.agent.LastWords())
	}
	return errors.Join(err, m.stop())
}

// callTime bounds a call: longer than any client waits.
const callTime = 30 * time.Second

// calls is the outcome of many calls: how many milliseconds those took that succeeded, and why others did not.
type calls struct {
	took   Sample
	errs   []error
	tried  int
	within time.Duration // of the last batch, from its first call to its last answer
}

// all makes all callers call at once.
func (c *calls) all(ctx context.Context, callers []*caller, call func(*caller, context.Context) error) {
	took, errs := make([]time.Duration, len(callers)), make([]error, len(callers))
	var running sync.WaitGroup
	begun := time.Now()
	for i, who := range callers {
		running.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			begun := time.Now()
			errs[i] = call(who, ctx)
			took[i] = time.Since(begun)
		})
	}
	running.Wait()
	c.within = time.Since(begun)
	c.tried += len(callers)
	for i, err := range errs {
		if err != nil {
			c.errs = append(c.errs, err)
			continue
		}
		c.took = append(c.took, milliseconds(took[i]))
	}
}

// failures is what stands in the conditions of a figure.
func (c *calls) failures() string {
	if len(c.errs) == 0 {
		return fmt.Sprintf("none of %d failed", c.tried)
	}
	return fmt.Sprintf("%d of %d FAILED, the first: %v", len(c.errs), c.tried, c.errs[0])
}

// controlConditions hold for all figures.
const controlConditions = "each call with a TLS handshake of its own, tokens signed and checked at every hop, endpoint in a process of its own"

// latencies is how long Request and Close take when so many call at once.
func (r *control) latencies(ctx context.Context, w way) error {
	most := r.scaled(w.atOnce[len(w.atOnce)-1])
	return r.with(ctx, w, most, func(_ *mesh, callers []*caller) error {
		for _, n := range r.sizes(w.atOnce) {
			rounds := max(1, r.scaled(min(100, 1000/n)))
			if w.mechanism == mechanisms.Kernel {
				rounds = max(1, r.scaled(min(30, 100/n)))
			}
			var requests, closes calls
			for range rounds {
				if err := pause(ctx, w.rest); err != nil {
					return err
				}
				requests.all(ctx, callers[:n], (*caller).request)
				closes.all(ctx, callers[:n], (*caller).close)
			}
			for _, of := range []struct {
				call string
				*calls
			}{{"Request", &requests}, {"Close", &closes}} {
				for _, q := range []struct {
					name string
					p    float64
				}{{"p50", 0.5}, {"p95", 0.95}, {"max", 1}} {
					what := fmt.Sprintf("%s, %d at once, %s", of.call, n, q.name)
					f := Figure{Name: w.name + ": " + what, Value: of.took.Quantile(q.p), Unit: "ms", Wanted: w.wanted[what]}
					if q.p == 0.5 {
						f.Conditions = fmt.Sprintf("%d rounds, %s", rounds, of.failures())
					}
					r.report.Add(f)
				}
			}
		}
		return nil
	})
}

// stand is how long it takes from the first of so many Requests at once until the last vWire stands.
func (r *control) stand(ctx context.Context, w way) error {
	most := r.scaled(w.stand[len(w.stand)-1])
	return r.with(ctx, w, most, func(m *mesh, callers []*caller) error {
		for _, n := range r.sizes(w.stand) {
			var requests, closes calls
			var took, cost Sample
			rounds := 3
			if w.mechanism == mechanisms.Kernel {
				rounds = 1
			}
			for range rounds {
				if err := pause(ctx, w.rest); err != nil {
					return err
				}
				before, err := m.cpu()
				if err != nil {
					return err
				}
				requests.all(ctx, callers[:n], (*caller).request)
				took = append(took, milliseconds(requests.within))
				after, err := m.cpu()
				if err != nil {
					return err
				}
				cost = append(cost, milliseconds(after-before)/float64(n))
				if up, err := m.standing(ctx); err != nil || up != n {
					return fmt.Errorf("%d of %d vWires stand: %w", up, n, errors.Join(append(requests.errs, err)...))
				}
				closes.all(ctx, callers[:n], (*caller).close)
			}
			what := fmt.Sprintf("%d vWires stand", n)
			r.report.Add(Figure{
				Name: w.name + ": " + what, Value: took.Median(), Unit: "ms", Wanted: w.wanted[what],
				Conditions: fmt.Sprintf("%d rounds, %.4g to %.4g ms, %s; closing them: %s; %.2g ms of CPU each, clients and VPP included", rounds,
					took.Quantile(0), took.Quantile(1), requests.failures(), closes.failures(), cost.Median()),
			})
		}
		return nil
	})
}

// share is d as a part of one core's time over a while, in percent.
func share(d, while time.Duration) float64 { return 100 * d.Seconds() / while.Seconds() }
