package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi/process"
)

// RecoveryConfig of a run of Recovery.
type RecoveryConfig struct {
	// Highwire is the binary that is measured.
	Highwire string
	// Bin is the vpp executable; empty for the one on PATH, and pocketvpp where there is none.
	Bin string
	// Only measures the groups of figures whose names contain it.
	Only string
	// VWires is how many carry the stream, Rate how many packets a second it has.
	VWires, Rate int
	// Kills is how often agent and VPP are killed while the stream flows.
	Kills int
	// Others is how many more memif vWires come and go beside the stream; OtherKernels likewise of kernel interfaces.
	Others, OtherKernels int
	// Rounds of Request and Close while agent and VPP are killed at random.
	Rounds int
	// Seed of the random part; 0 for one from the clock.
	Seed uint64
	// Log is told what is measured now.
	Log *slog.Logger
}

// recovery is one run.
type recovery struct {
	RecoveryConfig
	report *Report
	real   bool
}

// Recovery measures what is lost when agent or VPP are killed, when other vWires come and go, and what is left after many
// Requests and Closes meanwhile. It must run inside a namespace of its own (Inside). A figure that fails does not keep the
// others from being measured: the report has those that did not. There is none once ctx has ended.
func Recovery(ctx context.Context, c RecoveryConfig) (*Report, error) {
	bin, err := process.Find(c.Bin)
	if c.Bin != "" && err != nil {
		return nil, fmt.Errorf("HIGHWIRE_VPP_BIN: %w", err)
	}
	c.Bin = bin
	name := "real VPP with one thread"
	if bin == "" {
		c.Log.Warn("no VPP found: measuring with pocketvpp, whose figures say nothing about VPP; set HIGHWIRE_VPP_BIN or put vpp on PATH")
		name = "pocketvpp (its figures say nothing about VPP)"
	}
	r := &recovery{RecoveryConfig: c, report: &Report{Machine: machine(name)}, real: bin != ""}
	return r.report.gather(ctx, c.Log, c.Only, []group{
		{"agent killed", r.agentKilled}, {"VPP killed", r.vppKilled}, {"VPP hangs", r.vppHangs},
		{"others come and go, memif", func(ctx context.Context) error { return r.others(ctx, mechanisms.Memif, c.Others) }},
		{"others come and go, kernel", func(ctx context.Context) error { return r.others(ctx, mechanisms.Kernel, c.OtherKernels) }},
		{"churn", r.churn},
	})
}

// stage is a mesh on a dataplane that can be killed.
type stage struct {
	*mesh
	plane
	own *os.File // our own namespace
}

// stage starts the processes; c says what is particular to it.
func (r *recovery) stage(ctx context.Context, c meshConfig) (s *stage, err error) {
	s = &stage{}
	if r.real {
		s.plane = &spawned{}
	} else if s.plane, err = newPocket(); err != nil {
		return nil, err
	}
	c.highwire, c.dataplane, c.agent, c.log = r.Highwire, s.flags(r.Bin), append([]string{"--memif-direct", "never"}, c.agent...), "info"
	s.mesh, err = startMesh(ctx, c)
	if err != nil {
		return nil, errors.Join(err, s.plane.end())
	}
	s.undo = append([]func() error{s.plane.end}, s.undo...) // last of all
	s.found(s.mesh)
	if s.own, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.later(s.own.Close)
	return s, nil
}

// namespace makes one that lives as long as the stage.
func (s *stage) namespace() (*os.File, error) {
	ns, err := lab.New()
	if err != nil {
		return nil, err
	}
	s.later(ns.Close)
	return ns.File(), nil
}

// memifs are n clients with a memif vWire each.
func (s *stage) memifs(ctx context.Context, first, n int) ([]*caller, error) {
	callers, err := s.clients(ctx, first, n, mechanisms.Memif)
	if err != nil {
		return nil, err
	}
	var requests calls
	requests.all(ctx, callers, (*caller).request)
	if len(requests.errs) > 0 {
		return nil, fmt.Errorf("requests: %s", requests.failures())
	}
	return callers, nil
}

// streaming calls fn while the stream flows through vWires of a new stage.
func (r *recovery) streaming(ctx context.Context, mechanism string, fn func(*stage, *traffic) error, agent ...string) error {
	s, err := r.stage(ctx, meshConfig{mechanism: mechanism, agent: agent})
	if err != nil {
		return err
	}
	err = func() error {
		callers, err := s.memifs(ctx, 0, r.VWires)
		if err != nil {
			return err
		}
		t, err := newTraffic(ctx, callers, r.Rate)
		if err != nil {
			return err
		}
		defer t.end()
		return fn(s, t)
	}()
	if err != nil {
		err = fmt.Errorf("%w\nlast words of the agent:\n%s", err, s.agent.LastWords())
	}
	return errors.Join(err, s.stop())
}

func (r *recovery) conditions(format string, args ...any) string {
	return fmt.Sprintf("%d memif vWires, %d packets/s of 84 bytes over all of them, each answered by the endpoint; ", r.VWires, r.Rate) + fmt.Sprintf(format, args...)
}

// agentKilled: the agent is killed and started again; nobody's packets care, and the new agent changes nothing in VPP.
func (r *recovery) agentKilled(ctx context.Context) error {
	return r.streaming(ctx, "memif", func(s *stage, t *traffic) error {
		before, err := s.still(ctx)
		if err != nil {
			return err
		}
		var took Sample
		begun := time.Now()
		for range r.Kills {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			killed := time.Now()
			s.agent.Kill()
			if err := s.startAgent(ctx); err != nil {
				return err
			}
			if up, err := s.standing(ctx); err != nil || up != r.VWires {
				return fmt.Errorf("%d of %d vWires stand with the new agent: %w", up, r.VWires, err)
			}
			took = append(took, milliseconds(time.Since(killed)))
		}
		after, err := s.still(ctx)
		if err != nil {
			return err
		}
		lost, sent, err := t.lost(ctx, begun, time.Now())
		if err != nil {
			return err
		}
		what := r.conditions("SIGKILL and a new start, %d times; %s", r.Kills, after.since(before))
		r.report.Add(
			Figure{Name: "agent killed: packets lost", Value: float64(lost), Unit: fmt.Sprintf("of %d", sent), Wanted: "0", Conditions: what},
			Figure{Name: "agent killed: messages that change VPP", Value: float64(after.sum() - before.sum()), Unit: "messages", Wanted: "0", Conditions: "counted by VPP"},
			Figure{Name: "agent killed: the new one serves, worst", Value: took.Quantile(1), Unit: "ms", Conditions: "from the SIGKILL until it has compared all with VPP"},
		)
		return nil
	})
}

// vppKilled: VPP is killed; its successor forwards on all vWires.
func (r *recovery) vppKilled(ctx context.Context) error {
	return r.streaming(ctx, "memif", func(s *stage, t *traffic) error {
		var noticed, all, outage Sample
		for range r.Kills {
			if err := pause(ctx, 2*time.Second); err != nil {
				return err
			}
			killed, err := s.kill(ctx)
			if err != nil {
				return err
			}
			answers, err := s.answers(ctx)
			if err != nil {
				return err
			}
			last, err := r.forwarding(ctx, t, killed)
			if err != nil {
				return err
			}
			all, outage = append(all, milliseconds(last.Sub(answers))), append(outage, milliseconds(last.Sub(killed)))
			if at, ok := s.agentNoticed(killed); ok {
				noticed = append(noticed, milliseconds(at.Sub(killed)))
			}
		}
		what := r.conditions("SIGKILL %d times, worst", r.Kills)
		r.report.Add(
			Figure{Name: "VPP killed: noticed after", Value: noticed.Quantile(1), Unit: "ms", Wanted: "<= 300 ms", Conditions: what},
			Figure{Name: "VPP killed: all forward after the new one answers", Value: all.Quantile(1), Unit: "ms", Wanted: "<= 500 ms",
				Conditions: fmt.Sprintf("%s; all: %.0f to %.0f ms", what, all.Quantile(0), all.Quantile(1))},
			Figure{Name: "VPP killed: all forward after the kill", Value: outage.Quantile(1), Unit: "ms", Conditions: "VPP's own start included"},
		)
		return nil
	})
}

// recoversWithin is when waiting for vWires to come back ends.
const recoversWithin = time.Minute

func (r *recovery) forwarding(ctx context.Context, t *traffic, after time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, recoversWithin)
	defer cancel()
	return t.forwarding(ctx, after)
}

// vppHangs: VPP is stopped; the agent notices, ends it, and its successor forwards.
func (r *recovery) vppHangs(ctx context.Context) error {
	if !r.real {
		r.Log.Warn("pocketvpp is a part of this process and cannot be stopped")
		return nil
	}
	return r.streaming(ctx, "memif", func(s *stage, t *traffic) error {
		pid, err := s.plane.(*spawned).pid(ctx)
		if err != nil {
			return err
		}
		stopped := time.Now()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		last, err := r.forwarding(ctx, t, stopped)
		if err != nil {
			return err
		}
		at, ok := s.agentNoticed(stopped)
		if !ok {
			return errors.New("the agent says nothing of a VPP that hung")
		}
		r.report.Add(
			Figure{Name: "VPP hangs: noticed after", Value: at.Sub(stopped).Seconds(), Unit: "s", Wanted: "<= 4 s", Conditions: r.conditions("SIGSTOP, once")},
			Figure{Name: "VPP hangs: all forward after", Value: last.Sub(stopped).Seconds(), Unit: "s", Conditions: "the agent has ended it and started another"},
		)
		return nil
	})
}

// others: while the stream flows, other vWires are made and removed.
func (r *recovery) others(ctx context.Context, mechanism string, n int) error {
	if n == 0 {
		return nil
	}
	return r.streaming(ctx, "memif,kernel", func(s *stage, t *traffic) error {
		callers, err := s.clients(ctx, r.VWires, n, mechanism)
		if err != nil {
			return err
		}
		begun := time.Now()
		var requests, closes calls
		const atOnce = 50
		for i := 0; i < n; i += atOnce {
			requests.all(ctx, callers[i:min(i+atOnce, n)], (*caller).request)
		}
		up, err := s.standing(ctx)
		if err != nil {
			return err
		}
		for i := 0; i < n; i += atOnce {
			closes.all(ctx, callers[i:min(i+atOnce, n)], (*caller).close)
		}
		lost, sent, err := t.lost(ctx, begun, time.Now())
		if err != nil {
			return err
		}
		if len(requests.errs) > 0 || up != r.VWires+n {
			return fmt.Errorf("%d of %d vWires stand; requests: %s", up, r.VWires+n, requests.failures())
		}
		r.report.Add(Figure{
			Name: fmt.Sprintf("%d other vWires by %s made and removed: packets lost", n, strings.ToLower(mechanism)), Value: float64(lost), Unit: fmt.Sprintf("of %d", sent),
			Wanted: "0", Conditions: r.conditions("%d at once, in %v; closing them: %s", atOnce, time.Since(begun).Round(time.Second), closes.failures()),
		})
		return nil
	}, "--kernel-limit", "256")
}
