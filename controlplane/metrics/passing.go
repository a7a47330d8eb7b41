package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// passing are figures of what passes by.
type passing struct {
	requests   *prometheus.HistogramVec
	closed     *prometheus.CounterVec
	reconciles prometheus.Histogram
	resyncs    prometheus.Histogram
	drift      *prometheus.CounterVec
	drifted    prometheus.Counter
	lifetimes  prometheus.Counter
}

// fast are buckets from 0.5 ms to 30 s.
var fast = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}

func newPassing() *passing {
	p := &passing{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "highwire_request_duration_seconds", Buckets: fast,
			Help: "How long Requests took, endpoint and dataplane included, by the client's mechanism and by result: ok or the kind of error.",
		}, []string{"mechanism", "result"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "highwire_closed_connections_total", Help: "Connections that ended, by why: closed by the client, or expired.",
		}, []string{"why"}),
		reconciles: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "highwire_reconcile_duration_seconds", Help: "How long it took to realize a batch of requests in the dataplane.", Buckets: fast,
		}),
		resyncs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "highwire_resync_duration_seconds", Help: "How long it took to compare everything with VPP and to mend what differed.", Buckets: fast,
		}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "highwire_drift_objects_total", Help: "Objects that a resync had to create or remove, after a restart of VPP all of them.",
		}, []string{"action"}),
		drifted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "highwire_drifts_total", Help: "How often others had changed a vWire in VPP or in the kernel, and it was put right.",
		}),
		lifetimes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "highwire_vpp_connections_total", Help: "How often a VPP was found, at first or anew.",
		}),
	}
	// Alerts on a rate need a series before the first event.
	p.requests.WithLabelValues("KERNEL", "ok")
	for _, action := range []string{"create", "remove"} {
		p.drift.WithLabelValues(action)
	}
	for _, why := range []string{"closed", "expired"} {
		p.closed.WithLabelValues(why)
	}
	return p
}

func (p *passing) all() []prometheus.Collector {
	return []prometheus.Collector{p.requests, p.closed, p.reconciles, p.resyncs, p.drift, p.drifted, p.lifetimes}
}

// took takes an event.
func (p *passing) took(e forwarder.Event) {
	switch e.Kind {
	case forwarder.Requested:
		p.requests.WithLabelValues(mechanism(e.Mechanism), result(e.Err)).Observe(e.Took.Seconds())
	case forwarder.Closed, forwarder.Expired:
		p.closed.WithLabelValues(string(e.Kind)).Inc()
	case forwarder.Converged:
		p.reconciles.Observe(e.Took.Seconds())
	case forwarder.Resynced:
		p.resyncs.Observe(e.Took.Seconds())
		p.drift.WithLabelValues("create").Add(float64(e.Created))
		p.drift.WithLabelValues("remove").Add(float64(e.Removed))
	case forwarder.Drifted:
		p.drifted.Inc()
	case forwarder.Connected:
		p.lifetimes.Inc()
	}
}

// mechanism is one of those there are: clients may send anything.
func mechanism(name string) string {
	switch name {
	case mechanisms.Kernel, mechanisms.Memif, mechanisms.VXLAN, mechanisms.WireGuard, mechanisms.VFIO:
		return name
	case "":
		return "none"
	}
	return "other"
}

// result is the kind of error in one word.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	return strings.ReplaceAll(fault.KindOf(err).String(), " ", "_")
}
