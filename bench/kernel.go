package bench

import (
	"context"
	"errors"
	"time"

	"highwire/vppapi"
)

// poolSize is how many spare devices a warm agent keeps: for two vWires, so that the next one finds its own at once.
const poolSize = 4

// kernelOverVPP is TCP between two kernel ends over VPP, with devices made for the vWire and with such of the warm pool.
func (r *run) kernelOverVPP(ctx context.Context) error {
	conditions := "TCP, ETHERNET payload, MTU 1500, checksum and GSO pass-through"
	return withEnds(2, func(e ...ends) error {
		var byHand Trial
		if r.vpp.real {
			if err := errors.Join(e[1].handVeths(), r.vpp.cli(ctx, hostInterfaces()...)); err != nil {
				return err
			}
			defer func() { _ = errors.Join(r.vpp.deleteHostInterfaces(ctx), deleteHandVeths()) }()
			byHand = e[1].stream(r.length)
			conditions += "; baseline: the same VPP by vppctl"
		}
		for _, of := range []struct {
			name string
			pool int
		}{{"TCP kernel-vWire-kernel", 0}, {"TCP kernel-vWire-kernel, warm pool", poolSize}} {
			err := r.vpp.with(ctx, options{pool: of.pool}, func(a *agent) error {
				return r.stream(ctx, a, e[0], of.pool, byHand, Figure{Name: of.name, Wanted: "ratio >= 0.98", Conditions: conditions})
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// kernelDirect is TCP between two kernel ends without VPP.
func (r *run) kernelDirect(ctx context.Context) error {
	const conditions = "TCP, ETHERNET payload, MTU 1500; baseline: a plain veth pair"
	return withEnds(2, func(e ...ends) error {
		if err := e[1].joinByVeth(); err != nil {
			return err
		}
		return r.vpp.with(ctx, options{direct: true}, func(a *agent) error {
			return r.stream(ctx, a, e[0], 0, e[1].stream(r.length), Figure{Name: "TCP kernel-kernel direct", Wanted: "ratio >= 0.95", Conditions: conditions})
		})
	})
}

// stream compares a vWire between the ends with the baseline, for the figure f.
func (r *run) stream(ctx context.Context, a *agent, e ends, pool int, baseline Trial, f Figure) error {
	if err := a.await(ctx, pool); err != nil {
		return err
	}
	if _, err := e.set(ctx, a, "stream"); err != nil {
		return err
	}
	c, err := Compare(ctx, r.rounds, e.stream(r.length), baseline)
	if err = errors.Join(err, a.Delete(ctx, "stream")); err != nil {
		return err
	}
	r.report.Add(c[0].Figure(f.Name, "Gb/s", f.Wanted, f.Conditions))
	return nil
}

// await waits until the agent's pool has so many devices, and what its vWires have left is gone.
func (a *agent) await(ctx context.Context, spares int) error {
	c, err := a.VPP()
	if err != nil {
		return err
	}
	return awaitSpares(ctx, c, spares)
}

// awaitSpares waits until VPP holds so many devices of a pool and none else. Spares are nothing anybody is told of, so VPP is asked.
func awaitSpares(ctx context.Context, c *vppapi.Conn, spares int) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		have, err := c.Dump(ctx)
		if err != nil {
			return err
		}
		n, others := 0, 0
		for k, o := range have {
			p, ok := o.Object.(vppapi.AFPacket)
			if !ok {
				continue
			}
			if _, up := have[vppapi.Up{Name: k.Name}.Key()]; up && k == vppapi.Interface("spare-"+p.Host+":pool") {
				n++
			} else {
				others++
			}
		}
		if n >= spares && others == 0 {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
