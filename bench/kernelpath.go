package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// percentiles that a report has of latencies.
var percentiles = []float64{0, 10, 25, 50, 75, 90, 95, 99, 99.9, 100}

// kernel measures TCP and echoes between two kernel ends: a vWire of an agent with these options beside the same by hand, which is
// VPP by vppctl, or a plain veth pair where the path is direct. Without a baseline the vWire stands alone.
func (r *pathRun) kernel(ctx context.Context, name string, o options, baseline bool) error {
	conditions := "TCP, ETHERNET payload, MTU 1500, checksum and GSO pass-through"
	wanted := "ratio >= 0.98"
	if o.direct {
		wanted = "ratio >= 0.95"
	}
	return withEnds(2, func(e ...ends) error {
		var byHand Trial
		if baseline {
			undo, err := r.handMade(ctx, e[1], o.direct)
			if err != nil {
				return err
			}
			defer undo()
			byHand = e[1].stream(r.length)
			conditions += map[bool]string{true: "; baseline: a plain veth pair", false: "; baseline: the same VPP by vppctl"}[o.direct]
		}
		return r.vpp.with(ctx, o, func(a *agent) error {
			if _, err := e[0].set(ctx, a, "path"); err != nil {
				return err
			}
			r.progress(name+" TCP", tcpSteps)
			c, err := Compare(ctx, r.rounds, e[0].stream(r.length), byHand)
			if err == nil {
				r.samples.add(name+" TCP", "Gb/s", wanted, conditions, c[0].Value, c[0].Baseline)
				r.progress(name+" echoes", echoSteps)
				err = r.echoes(ctx, name, e[0], e[1], baseline)
			}
			return errors.Join(err, a.Delete(context.WithoutCancel(ctx), "path"))
		})
	})
}

// handMade joins the ends by hand.
func (r *pathRun) handMade(ctx context.Context, e ends, direct bool) (undo func(), err error) {
	if direct {
		return func() {}, e.joinByVeth() // it goes with the namespaces
	}
	undo = func() { _ = errors.Join(r.vpp.deleteHostInterfaces(context.WithoutCancel(ctx)), deleteHandVeths()) }
	err = errors.Join(e.handVeths(), r.vpp.cli(ctx, hostInterfaces()...))
	if err != nil {
		undo()
	}
	return undo, err
}

// echoes measures round trips without other load. Both sides take turns, so that neither has the machine at its best.
func (r *pathRun) echoes(ctx context.Context, name string, vwire, byHand ends, baseline bool) error {
	sides := []echoed{newEchoed(name, "vWire", vwire)}
	if baseline {
		sides = append(sides, newEchoed(name, "by hand", byHand))
	}
	const turn = 20
	for sent := 0; sent < r.Echoes; sent += turn {
		for i := range sides {
			if err := sides[i].probe(ctx, turn); err != nil {
				return err
			}
		}
	}
	var p50, p99 [2]Sample
	for i, s := range sides {
		l := s.latency()
		r.results.Latencies = append(slices.DeleteFunc(r.results.Latencies, func(o Latency) bool { return o.Path == l.Path && o.Of == l.Of }), l)
		if l.Received > 0 {
			p50[i] = Sample{float64(s.times.ValueAtQuantile(50)) / 1e3}
			p99[i] = Sample{float64(s.times.ValueAtQuantile(99)) / 1e3}
		}
	}
	conditions := fmt.Sprintf("%d ICMP echoes, one after the other", r.Echoes)
	r.samples.add(name+" round trip, p50", "µs", "", conditions, p50[0], p50[1])
	r.samples.add(name+" round trip, p99", "µs", "", conditions, p99[0], p99[1])
	return nil
}

// echoed is round trips of one side, in nanoseconds up to the second after which an echo counts as lost.
type echoed struct {
	path, of string
	ends     ends
	times    *hdrhistogram.Histogram
	sent     int
}

func newEchoed(path, of string, e ends) echoed {
	const digits = 3
	return echoed{path: path, of: of, ends: e, times: hdrhistogram.New(1, time.Second.Nanoseconds(), digits)}
}

func (e *echoed) probe(ctx context.Context, count int) error {
	e.sent += count
	_, err := e.ends.client.PingEach(ctx, endpointAddr, count, func(took time.Duration) {
		_ = e.times.RecordValue(min(took, time.Second).Nanoseconds()) // which is within its range
	})
	return err
}

func (e *echoed) latency() Latency {
	received := int(e.times.TotalCount())
	l := Latency{Path: e.path, Of: e.of, Sent: e.sent, Received: received, Loss: 1 - float64(received)/float64(max(e.sent, 1))}
	for _, p := range percentiles {
		if received > 0 {
			l.Percentiles = append(l.Percentiles, Percentile{p, time.Duration(e.times.ValueAtQuantile(p))})
		}
	}
	return l
}
