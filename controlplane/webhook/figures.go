package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// figures are what Prometheus is told.
type figures struct {
	decisions *prometheus.CounterVec
	seconds   prometheus.Histogram
}

// newFigures makes them, and the registry that has them.
func newFigures(expiry func() time.Time) (*figures, *prometheus.Registry) {
	f := &figures{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "highwire_webhook_decisions_total", Help: "Objects admitted (patched, unchanged), refused, or failed to be decided about.",
		}, []string{"kind", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "highwire_webhook_decision_seconds", Help: "Time to decide about an object.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(f.decisions, f.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "highwire_webhook_certificate_expiry_seconds", Help: "When our certificate ends, in seconds since 1970; it is renewed long before.",
	}, func() float64 {
		if t := expiry(); !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	}))
	return f, r
}

func (f *figures) decided(kind, result string, took time.Duration) {
	if kind != "Pod" && kind != "Namespace" && templates[kind] == "" {
		kind = "other" // no more series than there are kinds
	}
	f.decisions.WithLabelValues(kind, result).Inc()
	f.seconds.Observe(took.Seconds())
}
