package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/identity"
	"highwire/mechanisms"
)

const (
	// idleCount is how many vWires idle.
	idleCount = 1000
	// refreshEvery is when a client with tokens of the default lifetime refreshes.
	refreshEvery = identity.DefaultTokenLifetime / 5
)

// idle is what the agent needs for vWires that stand while their clients do what clients do: keep a monitor stream open and
// refresh in time.
func (r *control) idle(ctx context.Context) error {
	n := r.scaled(idleCount)
	w := way{name: "idle", mechanism: mechanisms.Memif, agent: []string{"--memif-direct", "never"}}
	return r.with(ctx, w, n, func(m *mesh, callers []*caller) error {
		var requests calls
		requests.all(ctx, callers, (*caller).request)
		if len(requests.errs) > 0 {
			return fmt.Errorf("not all stand: %s", requests.failures())
		}
		watching, stop := context.WithCancel(ctx)
		var watches sync.WaitGroup
		defer watches.Wait()
		defer stop()
		for _, c := range callers {
			if err := c.watch(watching, &watches); err != nil {
				return err
			}
		}
		before, err := usageOf(m.agent.PID())
		if err != nil {
			return err
		}
		begun := time.Now()
		turn := time.NewTicker(refreshEvery / time.Duration(n))
		defer turn.Stop()
		var refreshes calls
		most := before.memory
		for i := 0; time.Since(begun) < r.Idle; i++ {
			select {
			case <-turn.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			refreshes.all(ctx, callers[i%n:i%n+1], (*caller).request)
			now, err := usageOf(m.agent.PID())
			if err != nil {
				return err
			}
			most = max(most, now.memory)
		}
		took := time.Since(begun)
		after, err := usageOf(m.agent.PID())
		if err != nil {
			return err
		}
		conditions := fmt.Sprintf("memif through VPP, each client with a monitor stream, refreshes every %v: %d in %v, %s",
			refreshEvery, refreshes.tried, took.Round(time.Second), refreshes.failures())
		r.report.Add(
			Figure{Name: fmt.Sprintf("%d idle vWires: CPU of the agent", n), Value: share(after.cpu-before.cpu, took), Unit: "% of a core", Wanted: "<= 1 %", Conditions: conditions},
			Figure{Name: fmt.Sprintf("%d idle vWires: memory of the agent", n), Value: float64(most) / 1e6, Unit: "MB resident", Wanted: "<= 100 MB", Conditions: "the most seen meanwhile"},
			Figure{Name: fmt.Sprintf("%d idle vWires: refresh, p50", n), Value: refreshes.took.Median(), Unit: "ms"},
		)
		return nil
	})
}

// watch keeps a monitor stream of the caller's connection open until ctx ends.
func (c *caller) watch(ctx context.Context, watches *sync.WaitGroup) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, &connection.MonitorScopeSelector{
		PathSegments: []*connection.PathSegment{{Id: c.conn.Id}},
	})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.conn.Id, err)
	}
	watches.Go(func() {
		defer conn.Close()
		for err == nil {
			_, err = stream.Recv()
		}
	})
	return nil
}
