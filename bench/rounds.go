package bench

import (
	"context"
	"fmt"
	"slices"
)

// Sample is measurements of one thing in one unit, in the order they were taken.
type Sample []float64

// Quantile is the measurement below which the fraction p (0 to 1) of all lie, between two of them by their distance; 0 of none.
func (s Sample) Quantile(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	at := p * float64(len(sorted)-1)
	i := min(int(at), len(sorted)-1)
	next := min(i+1, len(sorted)-1)
	return sorted[i] + (at-float64(i))*(sorted[next]-sorted[i])
}

// Median is the 0.5 quantile.
func (s Sample) Median() float64 { return s.Quantile(0.5) }

// Trial measures something once.
type Trial func(context.Context) (float64, error)

// Comparison is what rounds have measured of something and of its baseline, round by round.
type Comparison struct{ Value, Baseline Sample }

// Compare runs rounds of both trials and lets each go first in every second round, so that neither gains by what
// the machine does meanwhile. A first round warms up and is not counted. Without a baseline the value stands alone.
func Compare(ctx context.Context, rounds int, value, baseline Trial) (Comparison, error) {
	var c Comparison
	for round := range rounds + 1 {
		sides := []struct {
			trial Trial
			into  *Sample
		}{{value, &c.Value}, {baseline, &c.Baseline}}
		if round%2 == 1 {
			slices.Reverse(sides)
		}
		for _, s := range sides {
			if s.trial == nil {
				continue
			}
			v, err := s.trial(ctx)
			if err != nil {
				return c, fmt.Errorf("round %d: %w", round, err)
			}
			if round > 0 {
				*s.into = append(*s.into, v)
			}
		}
	}
	return c, nil
}

// Ratios are value by baseline in each round; none without a baseline.
func (c Comparison) Ratios() Sample {
	var r Sample
	for i, b := range c.Baseline {
		if b != 0 {
			r = append(r, c.Value[i]/b)
		}
	}
	return r
}

// Figure summarizes the comparison. Its conditions are rounds and spread, and what else there is to know.
func (c Comparison) Figure(name, unit, wanted, conditions string) Figure {
	r := c.Ratios()
	spread := fmt.Sprintf("%d rounds, middle half of values %.4g to %.4g", len(c.Value), c.Value.Quantile(0.25), c.Value.Quantile(0.75))
	if len(r) > 0 {
		spread = fmt.Sprintf("%d rounds, middle half of ratios %.3f to %.3f", len(r), r.Quantile(0.25), r.Quantile(0.75))
	}
	return Figure{
		Name: name, Value: c.Value.Median(), Unit: unit, Baseline: c.Baseline.Median(), Ratio: r.Median(),
		Wanted: wanted, Conditions: spread + "; " + conditions,
	}
}
