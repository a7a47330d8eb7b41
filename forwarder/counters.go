package forwarder

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"highwire/vppapi"
	"highwire/vppapi/stats"
)

// CountedBy says whose counters they are.
type CountedBy string

// Who counts the packets of a vWire.
const (
	// ByVPP: its interfaces in VPP do.
	ByVPP CountedBy = "vpp"
	// ByKernel: packets pass without VPP, and the interfaces of the direct path do.
	ByKernel CountedBy = "kernel"
	// ByNobody: packets pass through memory of the peers, which nobody else sees.
	ByNobody CountedBy = ""
)

// Counters of a vWire. Rx is what its end sent into the vWire, Tx what was given to that end.
type Counters struct {
	By               CountedBy
	Client, Endpoint stats.Counters
}

// counter is an object that counts what passes it without VPP.
type counter interface {
	Count(ctx context.Context) (client, endpoint stats.Counters, err error)
}

// countsAtOnce bounds how many direct paths are asked side by side.
const countsAtOnce = 4

// Counters reads the counters of all vWires by id; what cannot be counted now is missing. VPP's snapshot, nil while there is
// no VPP, comes along: it was read once for all. The error says why.
func (r *Reconciler) Counters(ctx context.Context) (map[string]Counters, *stats.Snapshot, error) {
	var snapshot *stats.Snapshot
	vpp, err := r.VPP()
	if err == nil {
		snapshot, err = vpp.Stats(ctx)
	}
	list := r.List()
	all := make(map[string]Counters, len(list))
	var mu sync.Mutex
	var direct errgroup.Group
	direct.SetLimit(countsAtOnce)
	for _, s := range list {
		if s.direct != nil {
			direct.Go(func() error {
				client, endpoint, err := s.direct.Count(ctx)
				if err != nil {
					return nil // its interface is not there, which its state tells
				}
				mu.Lock()
				defer mu.Unlock()
				all[s.VWire.ID] = Counters{ByKernel, client, endpoint}
				return nil
			})
			continue
		}
		client, ok1 := s.counted(snapshot, s.VWire.Client.Name())
		endpoint, ok2 := s.counted(snapshot, s.VWire.Endpoint.Name())
		if ok1 || ok2 {
			mu.Lock()
			all[s.VWire.ID] = Counters{ByVPP, client, endpoint}
			mu.Unlock()
		}
	}
	_ = direct.Wait() // they have no errors of their own
	return all, snapshot, err
}

// counted finds the counters of an end's interface in VPP.
func (s Status) counted(snapshot *stats.Snapshot, end string) (stats.Counters, bool) {
	if snapshot == nil {
		return stats.Counters{}, false
	}
	for _, o := range s.Objects {
		if o.HasIndex && o.Key == vppapi.Interface(end) && int(o.SwIfIndex) < len(snapshot.Interfaces) {
			return snapshot.Interfaces[o.SwIfIndex].Counters, true
		}
	}
	return stats.Counters{}, false
}
