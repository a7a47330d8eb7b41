package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"highwire/mechanisms"
)

const (
	// churners are the clients that come and go at the same time, by memif and by kernel interfaces.
	churnMemifs, churnKernels = 16, 2
	// killEvery is how many rounds there are between two kills, on average.
	killEvery = 100
	// settlesWithin is when the last leftovers have to be gone: what a killed agent had asked the endpoint for and could not remember
	// is there until its token ends, and the agent has its grace period.
	settlesWithin = 4 * time.Minute
	churnGrace    = 5 * time.Second
	// churnLifetime of identities and with them of tokens.
	churnLifetime = time.Minute
)

// churn has clients come and go while agent and VPP are killed, and looks at what is left.
func (r *recovery) churn(ctx context.Context) error {
	seed := r.Seed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	r.Log.Info("churn", "seed", seed, "rounds", r.Rounds)
	s, err := r.stage(ctx, meshConfig{mechanism: "memif,kernel", agent: []string{"--grace", churnGrace.String(), "--metrics", "127.0.0.1:0"}, lifetime: churnLifetime})
	if err != nil {
		return err
	}
	c := &churning{recovery: r, stage: s, random: rand.New(rand.NewPCG(seed, 0))}
	if err = c.run(ctx); err != nil {
		err = fmt.Errorf("seed %d: %w\nlast words of the agent:\n%s", seed, err, s.agent.LastWords())
	}
	return errors.Join(err, s.stop())
}

// churning is a churn under way.
type churning struct {
	*recovery
	*stage
	random  *rand.Rand
	callers []*caller
	retries atomic.Int64
	kills   [2]int // of the agent, of VPP
}

func (c *churning) run(ctx context.Context) error {
	for _, of := range []struct {
		mechanism string
		n         int
	}{{mechanisms.Memif, churnMemifs}, {mechanisms.Kernel, churnKernels}} {
		clients, err := c.clients(ctx, len(c.callers), of.n, of.mechanism)
		if err != nil {
			return err
		}
		c.callers = append(c.callers, clients...)
	}
	// What a life of the agent has opened and allocated after some rounds is the measure for what comes after many.
	warm := c.Rounds/10 + killEvery
	if err := c.spin(ctx, warm, false); err != nil {
		return err
	}
	if err := c.killAgent(ctx); err != nil {
		return err
	}
	if err := c.spin(ctx, warm, false); err != nil {
		return err
	}
	before, err := c.atRest(ctx)
	if err != nil {
		return err
	}
	c.Log.Info("warm", "counted", before.things)
	begun := time.Now()
	if err := c.spin(ctx, c.Rounds, true); err != nil {
		return err
	}
	took := time.Since(begun)
	// The last life of the agent does as much as the one measured.
	if err := c.killAgent(ctx); err != nil {
		return err
	}
	if err := c.spin(ctx, warm, false); err != nil {
		return err
	}
	after, err := c.settled(ctx, before)
	if err != nil {
		return err
	}
	left, what := after.beyond(before)
	c.report.Add(Figure{
		Name: fmt.Sprintf("%d times Request and Close: things left", c.Rounds), Value: float64(left), Unit: "things", Wanted: "0",
		Conditions: fmt.Sprintf("%s; %d clients by memif and %d by kernel interfaces at once, agent killed %d times, VPP %d times, in %v; %d calls were repeated; looked at: %s",
			what, churnMemifs, churnKernels, c.kills[0], c.kills[1], took.Round(time.Second), c.retries.Load(), after.names()),
	})
	for _, name := range after.memory.names() {
		a, b := after.memory[name], before.memory[name]
		c.report.Add(Figure{
			Name: fmt.Sprintf("%d times Request and Close: memory of %s", c.Rounds, name), Value: float64(a) / 1e6, Unit: "MB resident",
			Baseline: float64(b) / 1e6, Ratio: float64(a) / float64(b), Wanted: "ratio <= 1.1", Conditions: fmt.Sprintf("baseline: after %d rounds", warm),
		})
	}
	return nil
}

// clients are n callers, kernel ones in namespaces of their own.
func (s *stage) clients(ctx context.Context, first, n int, mechanism string) ([]*caller, error) {
	list := make([]*caller, n)
	for i := range list {
		namespace := s.own
		if mechanism == mechanisms.Kernel {
			ns, err := s.namespace()
			if err != nil {
				return nil, err
			}
			namespace = ns
		}
		var err error
		if list[i], err = s.caller(ctx, first+i, mechanism, namespace); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// spin has all clients come and go, that many times in all, each until it succeeds. Every now and then somebody is killed.
func (c *churning) spin(ctx context.Context, rounds int, killing bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done, next atomic.Int64 // rounds, and the one that somebody is killed in
	next.Store(1 + c.random.Int64N(2*killEvery))
	due := make(chan struct{}, 1)
	var clients sync.WaitGroup
	errs := make([]error, len(c.callers))
	for i, who := range c.callers {
		clients.Go(func() {
			for errs[i] == nil {
				n := done.Add(1)
				if n > int64(rounds) {
					return
				}
				if killing && n == next.Load() {
					select {
					case due <- struct{}{}:
					default:
					}
				}
				errs[i] = errors.Join(c.insist(ctx, who.request), c.insist(ctx, who.close))
			}
		})
	}
	all := make(chan struct{})
	go func() { clients.Wait(); close(all) }()
	for {
		select {
		case <-all:
			return errors.Join(errs...)
		case <-due:
			if err := c.killSomebody(ctx); err != nil {
				cancel()
				<-all
				return err
			}
			next.Store(done.Load() + 1 + c.random.Int64N(2*killEvery))
		}
	}
}

// insist repeats a call until it succeeds.
func (c *churning) insist(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, recoversWithin)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, callTime)
		err := call(once)
		done()
		if err == nil {
			return nil
		}
		c.retries.Add(1)
		if pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

func (c *churning) killSomebody(ctx context.Context) error {
	if c.random.IntN(2) == 0 {
		return c.killAgent(ctx)
	}
	c.kills[1]++
	_, err := c.kill(ctx)
	return err
}

// killAgent ends the agent and starts it again.
func (c *churning) killAgent(ctx context.Context) error {
	c.kills[0]++
	c.agent.Kill()
	return c.startAgent(ctx)
}
