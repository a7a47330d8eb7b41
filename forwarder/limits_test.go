package forwarder_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
)

// served is what VPP says of the receive queues of our interfaces.
type served struct {
	ends               int
	queues, interrupts map[uint32]int // by worker
}

func (a *agent) served(t *testing.T) served {
	t.Helper()
	c, err := a.VPP()
	if err != nil {
		t.Fatal(err)
	}
	have, err := c.Dump(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s := served{queues: make(map[uint32]int), interrupts: make(map[uint32]int)}
	seen := make(map[string]map[uint32]bool)
	for _, e := range have {
		p, ok := e.Object.(vppapi.RxPlacement)
		if !ok {
			continue
		}
		if seen[p.Name] == nil {
			seen[p.Name] = make(map[uint32]bool)
			s.ends++
		}
		if seen[p.Name][p.Worker] {
			t.Errorf("two queues of %s on worker %d", p.Name, p.Worker)
		}
		seen[p.Name][p.Worker] = true
		s.queues[p.Worker]++
		if have[vppapi.RxMode{Name: p.Name}.Key()].Object == (vppapi.RxMode{Name: p.Name, Mode: vppapi.Interrupt}) {
			s.interrupts[p.Worker]++
		}
	}
	return s
}

// TestQueuesByWorkers: an interface has a queue for each worker or as many as were asked for, workers have equally many, and few
// of them wait for interrupts; a VPP with another number of workers gets all of them anew. Packets pass.
func TestQueuesByWorkers(t *testing.T) {
	const wires = 10
	for _, c := range []struct {
		workers                    int
		queues                     uint8
		queuesEach, interruptsEach int // of 2*wires ends
	}{
		{workers: 2, queuesEach: 20, interruptsEach: 8},
		{workers: 2, queues: 1, queuesEach: 10, interruptsEach: 8},
		{workers: 4, queues: 1, queuesEach: 5, interruptsEach: 5},
	} {
		t.Run(fmt.Sprintf("%d-workers-%d-queues", c.workers, c.queues), func(t *testing.T) {
			d := pocket(t, kernel.Veth, nil)
			d.workers, d.queues = c.workers, c.queues
			kill := d.start(t)
			ctx := within(t, 2*time.Minute)
			a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
			var pairs []*pair
			for i := range wires {
				p, _ := a.set(t, fmt.Sprintf("queues-%d", i), mechanisms.Ethernet)
				pairs = append(pairs, p)
			}
			s := a.served(t)
			if s.ends != 2*wires {
				t.Errorf("%d ends are served by workers, want %d", s.ends, 2*wires)
			}
			for w := range uint32(c.workers) {
				if s.queues[w] != c.queuesEach || s.interrupts[w] != c.interruptsEach {
					t.Errorf("worker %d has %d queues, %d of them in interrupt mode, want %d and %d", w, s.queues[w], s.interrupts[w], c.queuesEach, c.interruptsEach)
				}
			}
			pairs[0].reaches(ctx, t, families["dual"][1])
			pairs[wires-1].reaches(ctx, t, families["dual"][1])

			old, err := a.VPP()
			if err != nil {
				t.Fatal(err)
			}
			kill()
			d.workers = 0
			d.start(t)
			a.awaitAfter(t, old, wires, forwarder.Up)
			if s := a.served(t); s.ends != 0 {
				t.Errorf("%d ends are served by workers that are not there", s.ends)
			}
			pairs[0].reaches(ctx, t, families["dual"][1])
			for i := range wires {
				if err := a.Delete(ctx, fmt.Sprintf("queues-%d", i)); err != nil {
					t.Error(err)
				}
			}
			a.nothingLeft(ctx, t)
		})
	}
}

// TestOneWorker: kernel and memif vWires pass on a real VPP whose packets a worker serves.
func TestOneWorker(t *testing.T) {
	d := real(t, kernel.Veth)
	d.workers = 1
	d.start(t)
	ctx := within(t, 2*time.Minute)
	a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
	for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
		p, v := a.set(t, "worker-"+string(payload), payload)
		if s := a.served(t); s.queues[0] != 2 {
			t.Errorf("the worker serves %d queues, want 2", s.queues[0])
		}
		p.reaches(ctx, t, families["dual"][1])
		q := newPair(t)
		m := memifVWire(t, "memif-"+string(payload), q, memifKinds["memif-memif"], payload, families["dual"])
		far, _ := occupy(t, m.Endpoint, q.endpoint)
		near, probe := occupy(t, m.Client, q.client)
		a.setHeld(t, q, m)
		awaitLink(t, near, far)
		reachable(ctx, t, probe, families["dual"][1])
		a.explain(ctx, t)
		for _, id := range []string{v.ID, m.ID} {
			if err := a.Delete(ctx, id); err != nil {
				t.Error(err)
			}
		}
		a.nothingLeft(ctx, t)
	}
}
