package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi"
)

// requestsOverGRPC is how long a client waits for a vWire between two kernel ends and for its end: calls with mTLS, tokens and a
// namespace handed over, through an agent to an endpoint, each a process of its own. The baseline is the same as latency's.
func (r *run) requestsOverGRPC(ctx context.Context) error {
	return withEnds(1, func(e ...ends) error {
		var byHand Trial
		if r.vpp.real {
			if err := e[0].handVeths(); err != nil {
				return err
			}
			defer func() { _ = deleteHandVeths() }()
			byHand = r.callsByHand
		}
		for _, of := range []struct {
			name string
			pool int
		}{{"kernel-kernel by gRPC, warm pool", poolSize}, {"kernel-kernel by gRPC, cold", 0}} {
			c, err := r.compareRequests(ctx, of.pool, byHand)
			if err != nil {
				return err
			}
			r.report.Add(latencyFigures(c[0], "Request "+of.name, of.pool > 0)...)
			r.report.Add(c[1].Figure("Close "+of.name+", p50", "ms", "", "answered once nothing passes; baseline: VPP's own time for two deletes by vppctl"))
		}
		return nil
	})
}

// compareRequests measures a Request and a Close in a mesh with a pool of so many devices.
func (r *run) compareRequests(ctx context.Context, pool int, byHand Trial) (result []Comparison, err error) {
	dataplane, socket := []string{"--vpp=pocket"}, "data/pocketvpp.sock"
	if r.vpp.real {
		dataplane, socket = []string{"--vpp=spawn", "--vpp-bin=" + r.bin}, "data/vpp/api.sock"
	}
	m, err := startMesh(ctx, meshConfig{
		highwire: r.highwire, dataplane: dataplane, agent: []string{fmt.Sprintf("--kernel-pool=%d", pool)}, mechanism: "kernel",
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	vpp, err := vppapi.Dial(ctx, filepath.Join(m.dir, socket))
	if err != nil {
		return nil, err
	}
	defer vpp.Close()
	client, err := lab.New()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	c, err := m.caller(ctx, 0, mechanisms.Kernel, client.File())
	if err != nil {
		return nil, err
	}
	return Compare(ctx, r.requests, func(ctx context.Context) ([]float64, error) {
		if err := awaitSpares(ctx, vpp, pool); err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := c.request(ctx); err != nil {
			return nil, err
		}
		made := time.Now()
		err = c.close(ctx)
		return []float64{milliseconds(made.Sub(begun)), milliseconds(time.Since(made))}, err
	}, byHand)
}
