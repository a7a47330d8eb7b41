package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
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

// Certainty is between which values the true median lies with 95 % certainty, however the measurements are distributed: the
// binomial order statistics, by their normal approximation. Few measurements say little.
func (s Sample) Certainty() (low, high float64) {
	off := 0.98 / math.Sqrt(float64(max(1, len(s))))
	return s.Quantile(max(0, 0.5-off)), s.Quantile(min(1, 0.5+off))
}

// Trial measures once: a number for each figure, the same ones every time. With errDisturbed the numbers stand too.
type Trial func(context.Context) ([]float64, error)

// errDisturbed: other work on the machine got in the way of a trial.
var errDisturbed = errors.New("disturbed")

// patience is how many rounds may be repeated for each that counts, because they were disturbed.
const patience = 3

// Comparison is what rounds have measured of something and of its baseline, round by round.
type Comparison struct {
	Value, Baseline Sample
	// Disturbed is how many of the rounds were, when the patience for repeating them had run out.
	Disturbed int
}

// Compare runs rounds of both trials and lets each go first in every second round, so that neither gains by what
// the machine does meanwhile. A first round warms up and is not counted. Without a baseline the value stands alone. It
// returns a comparison for each number of the trials.
func Compare(ctx context.Context, rounds int, value, baseline Trial) ([]Comparison, error) {
	var all []Comparison
	repeats := patience * rounds
	for round := 0; round <= rounds; {
		a, b, err := both(ctx, value, baseline, round%2 == 1)
		disturbed := errors.Is(err, errDisturbed)
		switch {
		case err != nil && !disturbed:
			return nil, fmt.Errorf("round %d: %w", round, err)
		case disturbed && repeats > 0:
			repeats--
			continue
		case round == 0:
			all = make([]Comparison, len(a))
		default:
			for i := range all {
				all[i].Value = append(all[i].Value, a[i])
				if b != nil {
					all[i].Baseline = append(all[i].Baseline, b[i])
				}
				if disturbed {
					all[i].Disturbed++
				}
			}
		}
		round++
	}
	return all, nil
}

// both runs a round.
func both(ctx context.Context, value, baseline Trial, baselineFirst bool) (a, b []float64, err error) {
	var err2 error
	if baseline != nil && baselineFirst {
		b, err2 = baseline(ctx)
	}
	a, err = value(ctx)
	if baseline != nil && !baselineFirst {
		b, err2 = baseline(ctx)
	}
	for _, e := range []error{err, err2} {
		if e != nil && !errors.Is(e, errDisturbed) {
			return nil, nil, e
		}
	}
	return a, b, errors.Join(err, err2)
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
	spread := fmt.Sprintf("%d rounds, middle half %.4g to %.4g", len(c.Value), c.Value.Quantile(0.25), c.Value.Quantile(0.75))
	if len(r) > 0 {
		low, high := r.Certainty()
		spread = fmt.Sprintf("%d rounds, middle half of ratios %.3f to %.3f, their median %.3f to %.3f with 95 %% certainty",
			len(r), r.Quantile(0.25), r.Quantile(0.75), low, high)
	}
	if c.Disturbed > 0 {
		spread += fmt.Sprintf(", %d disturbed by other work on the machine", c.Disturbed)
	}
	var low, high float64
	if len(c.Value) > 1 {
		low, high = c.Value.Certainty()
	}
	return Figure{
		Low: low, High: high,
		Name: name, Value: c.Value.Median(), Unit: unit, Baseline: c.Baseline.Median(), Ratio: r.Median(),
		Wanted: wanted, Conditions: spread + "; " + conditions,
	}
}
