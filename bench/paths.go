package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"highwire/bench/search"
	"highwire/vppapi/fault"
	"highwire/vppapi/process"
)

// PathNames are the packet paths that can be measured.
var PathNames = []string{"memif", "memif-direct", "kernel", "kernel-direct"}

// PathOptions of a run of Paths.
type PathOptions struct {
	// Bin is the vpp executable; empty for the one on PATH, and pocketvpp where there is none.
	Bin string
	// Paths of PathNames, and Profiles, in the order to measure them.
	Paths    []string
	Profiles []Profile
	// Runs repeats everything, to show how far results lie apart.
	Runs int
	// Rounds of comparisons that take turns, each of Trial.
	Rounds int
	// Trial is how long one trial of a search lasts at its end; Sum is how long a load is offered in all before it is judged, and
	// Width how near bounds have to come, as a part of the load.
	Trial, Sum time.Duration
	Width      float64
	// Echoes are sent to learn the latency of kernel paths.
	Echoes int
	// Progress is told what is measured now, and which part of the run is done, 0 to 1; nil tells nobody.
	Progress func(what string, done float64)
	// Log hears what cannot be measured, and why.
	Log *slog.Logger
}

// pathRun is one run of Paths.
type pathRun struct {
	PathOptions
	run
	results *Results
	samples gatherer
	// steps done, of all.
	done, steps float64
}

// What the steps of a run take, in parts of the shortest.
const (
	ceilingSteps, mrrSteps, searchSteps, tcpSteps, echoSteps = 1, 2, 8, 3, 1
)

// Paths measures how packets go on the chosen paths beside the same made by hand: throughput by the search of package search, what
// comes through at the maximal load, clocks by node, TCP, and latency. It must run inside a namespace of its own (Inside). A path that
// fails does not keep the others from being measured. There are no results once ctx has ended.
func Paths(ctx context.Context, o PathOptions) (*Results, error) {
	bin, err := process.Find(o.Bin)
	if o.Bin != "" && err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hw-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if bin == "" {
		o.Log.Warn("no VPP found: measuring pocketvpp, whose figures say nothing about VPP; give --vpp-bin or put vpp on PATH")
	}
	vpp, err := startDataplane(ctx, dir+"/vpp", bin, 0)
	if err != nil {
		return nil, fmt.Errorf("start the dataplane: %w", err)
	}
	defer vpp.stop()
	r := &pathRun{
		PathOptions: o, results: &Results{Machine: newMachine(vpp.name())},
		run: run{vpp: vpp, dir: dir, bin: bin, rounds: o.Rounds, length: o.Trial, log: o.Log},
	}
	before := readCPUTime()
	r.plan()
	var errs []error
	for n := range o.Runs {
		for _, path := range o.Paths {
			if err := r.measure(ctx, path); err != nil {
				errs = append(errs, fmt.Errorf("%s, run %d: %w", path, n+1, err))
			}
			if ctx.Err() != nil {
				return nil, fault.New(fault.KindOf(ctx.Err()), "stopped before the end, no report: %w", ctx.Err())
			}
		}
	}
	r.progress("done", 0)
	r.results.Machine.Steal = readCPUTime().stealSince(before)
	r.results.Figures = r.samples.figures()
	return r.results, errors.Join(errs...)
}

func (r *pathRun) measure(ctx context.Context, path string) error {
	switch path {
	case "memif":
		return r.withGenerator(ctx, func(m *memifLoad) error { return r.memif(ctx, m) })
	case "memif-direct":
		return r.withGenerator(ctx, func(m *memifLoad) error { return r.memifDirect(ctx, m) })
	case "kernel":
		return r.kernel(ctx, path, options{}, r.vpp.real)
	case "kernel-direct":
		return r.kernel(ctx, path, options{direct: true}, true)
	}
	return fault.New(fault.Invalid, "path %q: want one of %s", path, strings.Join(PathNames, ", "))
}

// plan adds up the steps.
func (r *pathRun) plan() {
	for _, path := range r.PathOptions.Paths {
		switch {
		case strings.HasPrefix(path, "kernel"):
			r.steps += tcpSteps + echoSteps
		case r.generates() && path == "memif":
			r.steps += float64(len(r.Profiles)) * (ceilingSteps + mrrSteps + 2*searchSteps)
		case r.generates():
			r.steps += float64(len(r.Profiles)) * mrrSteps
		}
	}
	r.steps *= float64(r.Runs)
}

// progress tells that a step begins, after which so many are done.
func (r *pathRun) progress(what string, steps float64) {
	if r.Progress != nil {
		r.Progress(what, min(1, r.done/max(r.steps, 1)))
	}
	r.done += steps
}

// generates tells whether there can be a generator: a second VPP on another core.
func (r *pathRun) generates() bool { return r.vpp.real && runtime.NumCPU() >= 2 }

// Priorities of a VPP (nice values).
const highest, normal = -20, 0

// priority of VPP's one thread. The highest lets other work on the machine disturb it less; who may not give it measures without.
func (d *dataplane) priority(nice int) {
	if d.real {
		_ = unix.Setpriority(unix.PRIO_PROCESS, d.hand.PID(), nice)
	}
}

// withGenerator calls fn with a generator joined to itself and to the hand-made path.
func (r *pathRun) withGenerator(ctx context.Context, fn func(*memifLoad) error) error {
	if !r.generates() {
		r.log.Warn("no packet rates: they need a real VPP and a second core for the generator")
		return nil
	}
	generator, err := startDataplane(ctx, filepath.Join(r.dir, "generator"), r.bin, 1)
	if err != nil {
		return fmt.Errorf("start the generator: %w", err)
	}
	defer generator.stop()
	generator.priority(highest)
	r.vpp.priority(highest)
	defer r.vpp.priority(normal) // TCP's ends, in this process and the kernel, need their part of its core
	m := &memifLoad{vpp: r.vpp, generator: generator, length: r.length}
	err = m.join(ctx, loopPath, func() error { return nil })
	if err == nil {
		err = m.byHand(ctx)
	}
	if err == nil {
		err = fn(m)
	}
	return errors.Join(err, m.vpp.cli(context.WithoutCancel(ctx), "delete interface memif "+handIn, "delete interface memif "+handOut,
		"delete memif socket id 11", "delete memif socket id 21"))
}

// memif measures a vWire through VPP with every profile.
func (r *pathRun) memif(ctx context.Context, m *memifLoad) error {
	return m.withVWire(ctx, vwirePath, options{}, func() error {
		for _, profile := range r.Profiles {
			if err := r.memifProfile(ctx, m, profile); err != nil {
				return fmt.Errorf("frames of %s bytes: %w", profile.Name, err)
			}
		}
		return nil
	})
}

func (r *pathRun) memifProfile(ctx context.Context, m *memifLoad, profile Profile) error {
	name := "memif " + profile.Name + " "
	s := Searched{Path: "memif", Profile: profile.Name, Bytes: profile.Bytes()}
	var err error
	r.progress(name+"ceiling of the generator", ceilingSteps)
	if s.Ceiling, err = m.ceiling(ctx, profile); err != nil {
		return err
	}
	r.progress(name+"MRR", mrrSteps)
	both, err := Compare(ctx, r.rounds, m.maximal(vwirePath, profile, &s.VWire), m.maximal(handPath, profile, &s.ByHand))
	if err != nil {
		return err
	}
	s.VWire.MRR, s.ByHand.MRR = both[0].Value.Median()*1e6, both[0].Baseline.Median()*1e6
	for _, side := range []struct {
		what string
		path path
		*Side
	}{{"the vWire", vwirePath, &s.VWire}, {"by hand", handPath, &s.ByHand}} {
		r.progress(name+"NDR and PDR, "+side.what, searchSteps)
		if err := r.search(ctx, m, side.path, profile, s.Ceiling, side.Side); err != nil {
			return err
		}
	}
	// What comes through as fast as the generator can send was not held up by VPP.
	s.Limited = s.VWire.MRR >= 0.97*s.Ceiling || !s.VWire.NDR.Regular && s.VWire.NDR.Upper == 0
	limit := "VPP is the limit"
	if s.Limited {
		limit = "limited by the generator"
	}
	conditions := fmt.Sprintf("frames one way, ring 1024, slaves copy; generator's ceiling %.4g Mpps: %s; baseline: the same VPP by vppctl, polling", s.Ceiling/1e6, limit)
	r.samples.add(name+"MRR", "Mpps", "ratio >= 0.98", conditions, both[0].Value, both[0].Baseline)
	r.samples.addBounds(name+"NDR", conditions, s.VWire.NDR, s.ByHand.NDR)
	r.samples.addBounds(name+"PDR", conditions, s.VWire.PDR, s.ByHand.PDR)
	r.samples.add(name+"cost", "clocks/packet", "ratio <= 1.02", "sum over VPP's nodes at the maximal load", both[1].Value, both[1].Baseline)
	r.keep(s)
	return nil
}

// keep has the searches of the last run.
func (r *pathRun) keep(s Searched) {
	same := func(o Searched) bool { return o.Path == s.Path && o.Profile == s.Profile }
	if i := slices.IndexFunc(r.results.Searches, same); i >= 0 {
		r.results.Searches[i] = s
		return
	}
	r.results.Searches = append(r.results.Searches, s)
}

// memifDirect measures two memif peers joined without VPP; by hand they would go over it.
func (r *pathRun) memifDirect(ctx context.Context, m *memifLoad) error {
	return m.withVWire(ctx, directPath, options{direct: true}, func() error {
		for _, profile := range r.Profiles {
			name := "memif-direct " + profile.Name + " "
			r.progress(name+"MRR", mrrSteps)
			var vwire, byHand Side
			c, err := Compare(ctx, r.rounds, m.maximal(directPath, profile, &vwire), m.maximal(handPath, profile, &byHand))
			if err != nil {
				return err
			}
			r.samples.add(name+"MRR", "Mpps", "ratio > 1", "generator and sink, on one core, are the limit; baseline: the hand-made path over VPP", c[0].Value, c[0].Baseline)
		}
		return nil
	})
}

// search finds NDR and PDR.
func (r *pathRun) search(ctx context.Context, m *memifLoad, p path, profile Profile, ceiling float64, side *Side) error {
	if err := m.pollFor(ctx, p); err != nil {
		return err
	}
	goal := func(name string, loss float64) search.Goal {
		return search.Goal{Name: name, LossRatio: loss, InitialTrial: r.Trial / 2, FinalTrial: r.Trial, DurationSum: r.Sum, ExceedRatio: 0.5, Width: r.Width}
	}
	results, trials, err := search.Run(ctx, search.Config{Min: ceiling / 1e4, Max: ceiling, Goals: []search.Goal{goal("NDR", 0), goal("PDR", 0.005)}},
		func(ctx context.Context, load float64, d time.Duration) (float64, error) {
			return m.trialLoss(ctx, p, profile, load, d)
		})
	side.Trials = trials
	if len(results) == 2 {
		side.NDR, side.PDR = results[0], results[1]
	}
	if fault.Is(err, fault.Exhausted) {
		r.log.Warn("a search has not settled", "path", profile.Name, "reason", err)
		err = nil
	}
	return err
}

// trialLoss is a trial of a search. One in which a VPP had to wait for its core is repeated, as long as patience lasts.
func (m *memifLoad) trialLoss(ctx context.Context, p path, profile Profile, load float64, d time.Duration) (float64, error) {
	for tries := 0; ; tries++ {
		before := m.vpp.waiting() + m.generator.waiting()
		o, err := m.offer(ctx, p, profile, load, d)
		if err != nil {
			return 0, err
		}
		if m.vpp.waiting()+m.generator.waiting()-before <= time.Duration(waited*float64(d)) || tries >= patience {
			return o.loss(load, d), nil
		}
	}
}

// ceiling is what the generator makes with nobody in between: the best of three trials.
func (m *memifLoad) ceiling(ctx context.Context, profile Profile) (best float64, err error) {
	for range 3 {
		o, err := m.offer(ctx, loopPath, profile, 0, m.length)
		if err != nil {
			return 0, err
		}
		best = max(best, float64(o.received)/o.took.Seconds())
	}
	if best == 0 {
		return 0, fault.New(fault.Unavailable, "the generator's own packets do not come back to it")
	}
	return best, nil
}

// maximal is a trial at the generator's full rate: million packets a second, and clocks for each. It leaves the clocks by node in side.
func (m *memifLoad) maximal(p path, profile Profile, side *Side) Trial {
	return func(ctx context.Context) ([]float64, error) {
		if err := m.pollFor(ctx, p); err != nil {
			return nil, err
		}
		before := m.vpp.waiting() + m.generator.waiting()
		o, err := m.offer(ctx, p, profile, 0, m.length)
		if err != nil {
			return nil, err
		}
		if nodes := o.nodes.byPacket("memif-input"); len(nodes) > 0 {
			side.Nodes = nodes
		}
		measured := []float64{float64(o.received) / o.took.Seconds() / 1e6, o.nodes.clocksPerPacket("memif-input")}
		if m.vpp.waiting()+m.generator.waiting()-before > time.Duration(waited*float64(m.length)) {
			err = errDisturbed
		}
		return measured, err
	}
}
