package bench

import (
	"fmt"

	"highwire/bench/search"
)

// gatherer collects what repeated runs measure of the same figures.
type gatherer struct {
	order []string
	known map[string]*gathered
}

type gathered struct {
	unit, wanted, conditions string
	comparison               Comparison
	// low and high are the bounds of a single search.
	low, high float64
}

func (g *gatherer) add(name, unit, wanted, conditions string, value, baseline Sample) *gathered {
	f := g.known[name]
	if f == nil {
		if g.known == nil {
			g.known = make(map[string]*gathered)
		}
		f = &gathered{unit: unit, wanted: wanted, conditions: conditions}
		g.known[name] = f
		g.order = append(g.order, name)
	}
	f.comparison.Value = append(f.comparison.Value, value...)
	f.comparison.Baseline = append(f.comparison.Baseline, baseline...)
	return f
}

// addBounds adds the conditional throughput of a search and its bounds. A search that found none adds nothing.
func (g *gatherer) addBounds(name, conditions string, vwire, byHand search.Result) {
	if vwire.Throughput == 0 {
		return
	}
	var baseline Sample
	if byHand.Throughput > 0 {
		baseline = Sample{byHand.Throughput / 1e6}
	}
	f := g.add(name, "Mpps", "", conditions, Sample{vwire.Throughput / 1e6}, baseline)
	f.low, f.high = vwire.Throughput/1e6, max(vwire.Upper, vwire.Throughput)/1e6
}

// figures are all figures in the order in which they came.
func (g *gatherer) figures() []Figure {
	var list []Figure
	for _, name := range g.order {
		f := g.known[name]
		c := f.comparison
		if len(c.Baseline) != len(c.Value) {
			c.Baseline = nil // a run of the other side failed: nothing to hold it to
		}
		figure := c.Figure(name, f.unit, f.wanted, f.conditions)
		if len(c.Value) == 1 && f.high > 0 {
			figure.Low, figure.High = f.low, f.high
			figure.Conditions = fmt.Sprintf("one search, bounds %.4g and %.4g; %s", f.low, f.high, f.conditions)
		}
		list = append(list, figure)
	}
	return list
}
