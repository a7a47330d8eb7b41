// Package search finds the highest load that a system forwards with no more loss than a goal allows, after MLRsearch
// (RFC 9971: Multiple Loss Ratio Search).
//
// It is pure: what is offered and how loss is counted is the business of a Measure function, so a search runs against a
// simulated system as well as a real one. A search in short:
//
//  1. The maximal load is offered once. What comes through is where the limit is looked for first.
//  2. For each goal a coarse target, of a wider interval and shorter trials, is reached first, then finer ones, the last of
//     which is the goal itself. Trials count for every goal.
//  3. For a target, loads are offered until one load is a lower bound, one above it an upper bound, and both lie within the
//     target's width. A load is either only by enough trials of enough length (classify.go); until then it is offered again.
//
// A goal whose bounds are both found is a regular result. At the maximal load there is nothing above to bound it: such a result is
// irregular, and says of the system only that it is not the limit.
package search

import (
	"context"
	"fmt"
	"math"
	"time"

	"highwire/vppapi/fault"
)

// Goal is what a load has to keep to. The names are those of RFC 9971, section 4.
type Goal struct {
	Name string
	// LossRatio is the highest loss ratio of a trial that counts as low loss, 0 to less than 1.
	LossRatio float64
	// InitialTrial and FinalTrial are the durations of the first, coarse trials and of those that decide.
	InitialTrial, FinalTrial time.Duration
	// DurationSum is how long a load is offered in trials of FinalTrial before it is certain.
	DurationSum time.Duration
	// ExceedRatio is the part of that time in which loss may be higher, 0 to less than 1.
	ExceedRatio float64
	// Width is how far the bounds may lie apart, as a part of the upper one, more than 0 and less than 1.
	Width float64
}

// Trial is one measurement.
type Trial struct {
	// Load in packets a second, as intended.
	Load     float64       `json:"load"`
	Duration time.Duration `json:"duration"`
	// LossRatio of what was intended: what was not even offered counts as lost.
	LossRatio float64 `json:"lossRatio"`
}

// Measure offers the load for the duration and tells which part of it was lost, 0 to 1.
type Measure func(ctx context.Context, load float64, duration time.Duration) (lossRatio float64, err error)

// Config of a search.
type Config struct {
	// Min and Max bound the loads, packets a second.
	Min, Max float64
	// Goals in the order in which they are reached.
	Goals []Goal
	// MaxTrials ends a search that does not settle; 0 for 500.
	MaxTrials int
}

// Result of one goal.
type Result struct {
	Goal Goal `json:"-"`
	// Lower and Upper are the relevant bounds; 0 for one that was not found.
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
	// Throughput is the conditional throughput: what came through at the lower bound in its trials that decide, so that a goal
	// which allows loss is not credited with what was lost.
	Throughput float64 `json:"throughput"`
	// Regular: both bounds were found, within the width.
	Regular bool `json:"regular"`
}

// Check refuses what no search could work with, with fault.Invalid.
func (c Config) Check() error {
	if !(c.Min > 0 && c.Max > c.Min && !math.IsInf(c.Max, 0)) {
		return fault.New(fault.Invalid, "search: loads from %g to %g: want more than 0, and the second one higher", c.Min, c.Max)
	}
	for _, g := range c.Goals {
		switch {
		case !(g.LossRatio >= 0 && g.LossRatio < 1):
			return fault.New(fault.Invalid, "search goal %s: loss ratio %g: want 0 to less than 1", g.Name, g.LossRatio)
		case !(g.ExceedRatio >= 0 && g.ExceedRatio < 1):
			return fault.New(fault.Invalid, "search goal %s: exceed ratio %g: want 0 to less than 1", g.Name, g.ExceedRatio)
		case !(g.Width > 0 && g.Width < 1):
			return fault.New(fault.Invalid, "search goal %s: width %g: want more than 0 and less than 1", g.Name, g.Width)
		case g.InitialTrial <= 0 || g.FinalTrial < g.InitialTrial || g.DurationSum < g.FinalTrial:
			return fault.New(fault.Invalid, "search goal %s: trials of %v to %v, %v in all: want more than 0 and none shorter than the one before",
				g.Name, g.InitialTrial, g.FinalTrial, g.DurationSum)
		}
	}
	return nil
}

// Run searches. It returns a result for each goal in order, and all trials. An error is Measure's, or fault.Exhausted where
// MaxTrials were not enough: then results and trials are as far as it came.
func Run(ctx context.Context, c Config, measure Measure) ([]Result, []Trial, error) {
	if err := c.Check(); err != nil {
		return nil, nil, err
	}
	s := &search{Config: c, measure: measure, trials: make(map[float64][]Trial)}
	if s.MaxTrials == 0 {
		s.MaxTrials = 500
	}
	if len(c.Goals) == 0 {
		return nil, nil, nil
	}
	err := s.begin(ctx)
	var results []Result
	for _, g := range c.Goals {
		for _, target := range targets(g) {
			if err == nil {
				err = s.reach(ctx, target)
			}
		}
		results = append(results, s.result(g))
	}
	return results, s.all, err
}

// search is one in progress.
type search struct {
	Config
	measure Measure
	trials  map[float64][]Trial // by load
	all     []Trial             // as they were made
	hint    float64             // where to look first
}

// begin offers the maximal load, and then what came through of it.
func (s *search) begin(ctx context.Context) error {
	first := s.Goals[0].InitialTrial
	s.hint = s.Max
	for range 2 {
		t, err := s.offer(ctx, s.hint, first)
		if err != nil {
			return err
		}
		s.hint = s.within(t.Load * (1 - t.LossRatio))
	}
	return nil
}

func (s *search) within(load float64) float64 { return min(max(load, s.Min), s.Max) }

// offer makes one trial.
func (s *search) offer(ctx context.Context, load float64, d time.Duration) (Trial, error) {
	if len(s.all) >= s.MaxTrials {
		return Trial{}, fault.New(fault.Exhausted, "the search has not settled after %d trials: loss varies too much, or trials are too short", len(s.all))
	}
	if err := ctx.Err(); err != nil {
		return Trial{}, err
	}
	loss, err := s.measure(ctx, load, d)
	if err != nil {
		return Trial{}, fmt.Errorf("trial of %.4g packets/s: %w", load, err)
	}
	t := Trial{load, d, min(max(loss, 0), 1)}
	s.trials[load] = append(s.trials[load], t)
	s.all = append(s.all, t)
	return t, nil
}

// targets lead to the goal: each has half the width of the one before, and longer trials.
func targets(g Goal) []Goal {
	const steps = 3
	list := make([]Goal, steps)
	for i := range list {
		t := g
		t.Width = min(g.Width*math.Pow(2, float64(steps-1-i)), 0.5)
		if i < steps-1 {
			part := float64(i) / (steps - 1)
			t.FinalTrial = time.Duration(float64(g.InitialTrial) * math.Pow(float64(g.FinalTrial)/float64(g.InitialTrial), part))
			t.DurationSum = t.FinalTrial
		}
		list[i] = t
	}
	return list
}

// reach offers loads until the target's bounds are within its width.
func (s *search) reach(ctx context.Context, g Goal) error {
	for step := 1.0; ; {
		lower, upper := s.bounds(g)
		var next float64
		switch {
		case upper == 0 && lower >= s.Max, lower == 0 && upper > 0 && upper <= s.Min:
			return nil // irregular: the limit lies outside
		case lower > 0 && upper > 0 && (upper-lower)/upper <= g.Width:
			return nil
		case lower > 0 && upper > 0:
			next = s.between(g, lower, upper)
		case lower == 0 && upper == 0:
			next = s.hint
		case upper == 0: // look above, in growing steps
			next = s.within(lower / math.Pow(1-g.Width, step))
			step *= 2
		default: // look below
			next = s.within(upper * math.Pow(1-g.Width, step))
			step *= 2
		}
		if err := s.settle(ctx, g, next); err != nil {
			return err
		}
	}
}

// between is a load inside the interval: its geometric middle, or as near to one bound as the width allows where that
// ends the search sooner.
func (s *search) between(g Goal, lower, upper float64) float64 {
	if near := lower / (1 - g.Width); near*near >= lower*upper && near < upper {
		return near
	}
	return math.Sqrt(lower * upper)
}

// settle offers the load until it is a lower or an upper bound of the target.
func (s *search) settle(ctx context.Context, g Goal, load float64) error {
	for classify(g, s.trials[load]) == undecided {
		if _, err := s.offer(ctx, load, g.FinalTrial); err != nil {
			return err
		}
	}
	return nil
}

// bounds are the relevant ones: the lowest upper bound, and the highest lower bound below it.
func (s *search) bounds(g Goal) (lower, upper float64) {
	for load, trials := range s.trials {
		if classify(g, trials) == upperBound && (upper == 0 || load < upper) {
			upper = load
		}
	}
	for load, trials := range s.trials {
		if (upper == 0 || load < upper) && load > lower && classify(g, trials) == lowerBound {
			lower = load
		}
	}
	return lower, upper
}

func (s *search) result(g Goal) Result {
	r := Result{Goal: g}
	r.Lower, r.Upper = s.bounds(g)
	r.Regular = r.Lower > 0 && r.Upper > 0 && (r.Upper-r.Lower)/r.Upper <= g.Width*(1+1e-9)
	if r.Lower > 0 {
		r.Throughput = r.Lower * (1 - quantileLoss(g, s.trials[r.Lower]))
	}
	return r
}
