package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// latency is how long the reconciler's Set and Delete take for a vWire between two kernel ends, journal included: from the warm
// pool and cold, against the time that VPP alone takes for the calls a hand would make.
func (r *run) latency(ctx context.Context) error {
	return withEnds(2, func(e ...ends) error {
		var byHand Trial
		if r.vpp.real {
			if err := e[1].handVeths(); err != nil {
				return err
			}
			defer func() { _ = deleteHandVeths() }()
			byHand = r.callsByHand
		}
		for _, of := range []struct {
			name string
			pool int
		}{{"kernel-kernel, warm pool", poolSize}, {"kernel-kernel, cold", 0}} {
			err := r.vpp.with(ctx, options{pool: of.pool}, func(a *agent) error {
				c, err := Compare(ctx, r.requests, a.request(e[0], of.pool), byHand)
				if err != nil {
					return err
				}
				r.report.Add(latencyFigures(c[0], "Set "+of.name, of.pool > 0)...)
				r.report.Add(c[1].Figure("Delete "+of.name+", p50", "ms", "", "answered once nothing passes; baseline: VPP's own time for two deletes by vppctl"))
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func latencyFigures(c Comparison, name string, warm bool) []Figure {
	conditions := "without a baseline"
	if p50 := c.Baseline.Median(); p50 > 0 {
		conditions = fmt.Sprintf("%+.1f ms against the baseline: VPP's own time for two creates, two cross-connects, two ups by vppctl in one session", c.Value.Median()-p50)
	}
	wanted := "<= baseline + 10 ms"
	if warm {
		wanted = "<= 10 ms"
	}
	p95 := Figure{Name: name + ", p95", Value: c.Value.Quantile(0.95), Unit: "ms", Baseline: c.Baseline.Quantile(0.95), Conditions: fmt.Sprintf("%d rounds", len(c.Value))}
	if p95.Baseline > 0 {
		p95.Ratio = p95.Value / p95.Baseline
	}
	return []Figure{c.Figure(name+", p50", "ms", wanted, conditions), p95}
}

// request makes a vWire and removes it, and tells how many milliseconds each took.
func (a *agent) request(e ends, pool int) Trial {
	return func(ctx context.Context) ([]float64, error) {
		if err := a.await(ctx, pool); err != nil {
			return nil, err
		}
		set, err := e.set(ctx, a, "request")
		begun := time.Now()
		err = errors.Join(err, a.Delete(ctx, "request"))
		return []float64{milliseconds(set), milliseconds(time.Since(begun))}, err
	}
}

// callsByHand configures VPP between veth pairs that are there and undoes it, and tells how many milliseconds each took.
func (r *run) callsByHand(ctx context.Context) ([]float64, error) {
	begun := time.Now()
	err := r.vpp.cli(ctx, hostInterfaces()...)
	made := time.Now()
	err = errors.Join(err, r.vpp.deleteHostInterfaces(ctx))
	return []float64{milliseconds(made.Sub(begun)), milliseconds(time.Since(made))}, err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
