package search

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"highwire/vppapi/fault"
)

const ms = time.Millisecond

func goal(loss, exceed, width float64) Goal {
	return Goal{Name: "g", LossRatio: loss, InitialTrial: 100 * ms, FinalTrial: 200 * ms, DurationSum: time.Second, ExceedRatio: exceed, Width: width}
}

// system is a simulated one: it forwards up to its capacity, and loses a little at every load if it leaks; a part of its trials
// is disturbed and loses more.
type system struct {
	capacity, leak, disturbed float64
	random                    *rand.Rand
	trials                    int
	offered                   time.Duration
}

func (s *system) measure(_ context.Context, load float64, d time.Duration) (float64, error) {
	s.trials++
	s.offered += d
	loss := s.leak
	if load > s.capacity {
		loss = max(loss, 1-s.capacity/load)
	}
	if s.disturbed > 0 && s.random.Float64() < s.disturbed {
		loss = max(loss, 0.1)
	}
	return loss, nil
}

// highest is the naive answer: the highest load whose loss is within the goal, found by going through the loads one by one.
func (s *system) highest(c Config, loss float64) float64 {
	best := 0.0
	for load := c.Min; load <= c.Max; load *= 1.0005 {
		steady := s.leak
		if load > s.capacity {
			steady = max(steady, 1-s.capacity/load)
		}
		if steady <= loss {
			best = load
		}
	}
	return best
}

// TestLikeNaive: for any capacity, loss curve and goals the bounds enclose what a sweep over all loads finds.
func TestLikeNaive(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		s := &system{capacity: math.Pow(10, 3+5*r.Float64()), random: r}
		if r.IntN(3) == 0 {
			s.leak = 0.01 * r.Float64()
		}
		c := Config{Min: 1e2, Max: 1e9, Goals: []Goal{goal(0, 0.5*r.Float64(), 0.002+0.1*r.Float64()), goal(0.005, 0.5*r.Float64(), 0.002+0.1*r.Float64())}}
		results, trials, err := Run(t.Context(), c, s.measure)
		if err != nil || len(trials) != s.trials || len(results) != 2 {
			t.Fatalf("%+v: %v, %d of %d trials", s, err, len(trials), s.trials)
		}
		for i, got := range results {
			want := s.highest(c, c.Goals[i].LossRatio)
			if want == 0 { // it leaks too much at any load
				if got.Lower != 0 || got.Regular || got.Throughput != 0 {
					t.Errorf("%+v: %+v, want none", s, got)
				}
				continue
			}
			if got.Lower > want*1.001 || got.Upper < want*0.999 || (got.Upper-got.Lower)/got.Upper > c.Goals[i].Width*1.000001 || !got.Regular {
				t.Errorf("capacity %g, leak %g, goal %g of width %g: %g to %g, want around %g", s.capacity, s.leak, c.Goals[i].LossRatio, c.Goals[i].Width, got.Lower, got.Upper, want)
			}
			if got.Throughput > got.Lower || got.Throughput < got.Lower*(1-c.Goals[i].LossRatio-1e-9) {
				t.Errorf("throughput %g at %g", got.Throughput, got.Lower)
			}
		}
		if s.trials > 150 {
			t.Errorf("%d trials", s.trials)
		}
	}
}

// TestNoise: what disturbs less of the time than a goal allows for does not change the answer much.
func TestNoise(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 7))
	for range 100 {
		s := &system{capacity: 1e6, disturbed: 0.1, random: r}
		g := goal(0, 0.5, 0.01)
		g.DurationSum = 3 * time.Second
		results, _, err := Run(t.Context(), Config{Min: 1e3, Max: 1e8, Goals: []Goal{g}, MaxTrials: 5000}, s.measure)
		if err != nil {
			t.Fatal(err)
		}
		if got := results[0]; got.Lower > 1e6*1.001 || got.Lower < 0.5e6 {
			t.Errorf("%g to %g", got.Lower, got.Upper)
		}
	}
}

// TestEdges: limits outside of the range are told as such, and so is what never settles.
func TestEdges(t *testing.T) {
	t.Parallel()
	c := Config{Min: 1e3, Max: 1e6, Goals: []Goal{goal(0, 0.5, 0.01)}}
	fast := &system{capacity: 1e9}
	results, _, err := Run(t.Context(), c, fast.measure)
	if err != nil || results[0].Regular || results[0].Lower != c.Max || results[0].Upper != 0 || results[0].Throughput != c.Max {
		t.Errorf("faster than the range: %+v, %v", results, err)
	}
	slow := &system{capacity: 1}
	results, _, err = Run(t.Context(), c, slow.measure)
	if err != nil || results[0].Regular || results[0].Lower != 0 || results[0].Upper != c.Min || results[0].Throughput != 0 {
		t.Errorf("slower than the range: %+v, %v", results, err)
	}
	broken := errors.New("broken")
	if _, _, err := Run(t.Context(), c, func(context.Context, float64, time.Duration) (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	c.MaxTrials = 3
	if _, trials, err := Run(t.Context(), c, (&system{capacity: 5e5}).measure); !fault.Is(err, fault.Exhausted) || len(trials) != 3 {
		t.Errorf("%d trials, %v", len(trials), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Run(ctx, c, fast.measure); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for says, change := range map[string]func(*Config){
		"loads from":   func(c *Config) { c.Min = 0 },
		"loss ratio":   func(c *Config) { c.Goals[0].LossRatio = 1 },
		"exceed ratio": func(c *Config) { c.Goals[0].ExceedRatio = -1 },
		"width":        func(c *Config) { c.Goals[0].Width = math.NaN() },
		"trials of":    func(c *Config) { c.Goals[0].DurationSum = 0 },
	} {
		c := Config{Min: 1, Max: 2, Goals: []Goal{goal(0, 0, 0.1)}}
		change(&c)
		if _, _, err := Run(t.Context(), c, fast.measure); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// TestClassify follows the rules of RFC 9971 case by case, for a goal of one second in trials of 200 ms.
func TestClassify(t *testing.T) {
	t.Parallel()
	low, high := func(d time.Duration) Trial { return Trial{1, d, 0} }, func(d time.Duration) Trial { return Trial{1, d, 0.3} }
	many := func(n int, t Trial) (list []Trial) {
		for range n {
			list = append(list, t)
		}
		return list
	}
	for name, c := range map[string]struct {
		exceed float64
		trials []Trial
		want   class
	}{
		"nothing":                      {0.5, nil, undecided},
		"too little":                   {0.5, many(2, low(200*ms)), undecided},
		"half of it low":               {0.5, many(3, low(200*ms)), lowerBound},
		"half of it high":              {0.5, many(3, high(200*ms)), upperBound},
		"two of each":                  {0.5, append(many(2, low(200*ms)), many(2, high(200*ms))...), undecided},
		"no exceeding":                 {0, many(1, high(200*ms)), upperBound},
		"no exceeding, nearly there":   {0, many(4, low(200*ms)), undecided},
		"no exceeding, there":          {0, many(5, low(200*ms)), lowerBound},
		"one long trial":               {0.5, many(1, low(time.Second)), lowerBound},
		"short ones with low loss":     {0.5, many(50, low(100*ms)), undecided},
		"short ones with high loss":    {0.5, many(6, high(100*ms)), upperBound},
		"short ones that balance":      {0.5, append(many(6, high(100*ms)), many(6, low(100*ms))...), undecided},
		"more time than was asked for": {0.5, append(many(8, low(200*ms)), many(6, high(200*ms))...), lowerBound},
	} {
		if got := classify(goal(0, c.exceed, 0.01), c.trials); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// More time decides, and never the other way round: a load that is certain stays so when the rest of its time is like it.
func FuzzClassify(f *testing.F) {
	f.Add([]byte{1, 0, 1, 1}, uint8(128))
	f.Fuzz(func(t *testing.T, outcomes []byte, exceed uint8) {
		g := goal(0, float64(exceed)/257, 0.1)
		var trials []Trial
		for _, o := range outcomes {
			trials = append(trials, Trial{1, time.Duration(o>>1+1) * 10 * ms, float64(o & 1)})
		}
		switch before := classify(g, trials); before {
		case lowerBound:
			if classify(g, append(trials, Trial{1, time.Second, 0})) != lowerBound {
				t.Error("more low loss undoes a lower bound")
			}
			if loss := quantileLoss(g, trials); loss > g.LossRatio {
				t.Errorf("a lower bound with loss %g", loss)
			}
		case upperBound:
			if classify(g, append(trials, Trial{1, time.Second, 1})) != upperBound {
				t.Error("more high loss undoes an upper bound")
			}
		case undecided:
			if len(trials) > 0 && classify(g, append(trials, Trial{1, time.Hour, 0})) == undecided {
				t.Error("an hour does not decide")
			}
		}
	})
}
