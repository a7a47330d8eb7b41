package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"highwire/vppapi/fault"
	"highwire/vppapi/process"
)

// Config of a run.
type Config struct {
	// Highwire is the binary whose processes answer Requests.
	Highwire string
	// Bin is the vpp executable; empty for the one on PATH, and pocketvpp where there is none.
	Bin string
	// Only measures the groups of figures whose names contain it.
	Only string
	// Rounds of every throughput figure, of Length each; Requests is rounds of every latency figure.
	Rounds, Requests int
	Length           time.Duration
	// Log is told what is measured now, and what cannot be.
	Log *slog.Logger
}

// run is one run of Throughput.
type run struct {
	report           *Report
	vpp              *dataplane
	dir, bin         string
	highwire         string
	rounds, requests int
	length           time.Duration
	log              *slog.Logger
}

// Throughput measures packets and Requests; see the package text. It must run inside a namespace of its own (Inside). A
// figure that fails does not keep the others from being measured: the report has those that did not. There is none once ctx has ended.
func Throughput(ctx context.Context, c Config) (*Report, error) {
	bin, err := process.Find(c.Bin)
	if c.Bin != "" && err != nil {
		return nil, fmt.Errorf("HIGHWIRE_VPP_BIN: %w", err)
	}
	dir, err := os.MkdirTemp("", "hw-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if bin == "" {
		c.Log.Warn("no VPP found: measuring pocketvpp, whose figures say nothing about VPP; set HIGHWIRE_VPP_BIN or put vpp on PATH")
	}
	vpp, err := startDataplane(ctx, dir+"/vpp", bin, 0)
	if err != nil {
		return nil, fmt.Errorf("start the dataplane: %w", err)
	}
	defer vpp.stop()
	r := &run{
		report: &Report{Machine: machine(vpp.name())}, vpp: vpp, dir: dir, bin: bin, highwire: c.Highwire,
		rounds: c.Rounds, requests: c.Requests, length: c.Length, log: c.Log,
	}
	var errs []error
	for _, f := range []struct {
		name    string
		measure func(context.Context) error
	}{{"TCP between kernel ends over VPP", r.kernelOverVPP}, {"TCP between kernel ends directly", r.kernelDirect}, {"latency of Sets", r.latency}, {"latency of Requests", r.requestsOverGRPC}, {"packets between memif ends", r.memif}} {
		if !strings.Contains(f.name, c.Only) {
			continue
		}
		c.Log.Info("measuring " + f.name)
		if err := f.measure(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
		if ctx.Err() != nil {
			return nil, fault.New(fault.KindOf(ctx.Err()), "stopped before the end, no report: %w", ctx.Err())
		}
	}
	return r.report, errors.Join(errs...)
}
