// Package metrics tells Prometheus how an agent fares, and an orchestrator whether it lives.
//
// What can be read is read when it is asked for: counters of vWires and of VPP come from one look into VPP's stats segment a
// scrape. What passes by, how long a Request took and what a resync had to mend, is taken from the forwarder's events.
package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// Config is where figures come from. All fields are needed.
type Config struct {
	// Version of the agent.
	Version     string
	VWires      func() []forwarder.Status
	Connections func() []manager.Connection
	// Counters of all vWires by id, and of VPP, nil while there is none; forwarder.Reconciler.Counters.
	Counters func(context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error)
	// Messages counts those sent to the VPP that runs now, and those it refused; ok is false while there is none.
	Messages func() (sent, refused uint64, ok bool)
	// Expiry of our X.509-SVID, the zero Time if there is none.
	Expiry func() time.Time
	Events *forwarder.Events
}

// scrapeTime bounds one look at everything.
const scrapeTime = 5 * time.Second

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("highwire_"+name, help, labels, nil)
}

var (
	packets = describe("vwire_packets_total", "Packets at an end of a vWire: rx is what the end sent, tx what was given to it.", "vwire", "service", "side", "direction")
	bytes   = describe("vwire_bytes_total", "Bytes at an end of a vWire.", "vwire", "service", "side", "direction")
	dropped = describe("vwire_dropped_packets_total", "Packets lost at an end of a vWire, by reason. Reasons that have not occurred are left out.", "vwire", "service", "side", "reason")
	vwires  = describe("vwires", "vWires of the node by state.", "state")
	missing = describe("objects_missing", "Objects in the dataplane that are wanted and not there.")
	buffers = describe("vpp_buffers", "Packet buffers of VPP by pool and state: available, cached, used.", "pool", "state")
	rate    = describe("vpp_vector_rate", "Packets that a worker of VPP takes at once, on average.")
	nodeErr = describe("vpp_node_errors_total", "What graph nodes of VPP count under /err. Nodes of single interfaces are added up.", "node", "error")
	sent    = describe("vpp_api_messages_total", "Messages sent to the VPP that runs now.")
	refused = describe("vpp_api_refusals_total", "Messages that it refused.")
	up      = describe("vpp_up", "1 while there is a VPP.")
	expiry  = describe("svid_expiry_timestamp_seconds", "When our X.509-SVID ends.")
	refresh = describe("connection_expiry_timestamp_seconds", "When the connection that is nearest to it expires, unless its client asks again.")
	broken  = describe("scrape_error", "1 if counters of VPP could not be read in this scrape.")
)

var states = []forwarder.State{forwarder.Pending, forwarder.Up, forwarder.Failed}

// collector reads figures when it is asked.
type collector struct{ Config }

// Describe lists the metrics that are read.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{packets, bytes, dropped, vwires, missing, buffers, rate, nodeErr, sent, refused, up, expiry, refresh, broken} {
		out <- d
	}
}

// Collect reads them.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	counters, snapshot, err := c.Counters(ctx)
	gauge(broken, truth(err != nil && !fault.Is(err, fault.Unavailable)))

	services := map[string]string{}
	var first time.Time
	for _, conn := range c.Connections() {
		services[conn.Connection.GetId()] = conn.Connection.GetNetworkService()
		if first.IsZero() || conn.Expires.Before(first) {
			first = conn.Expires
		}
	}
	if !first.IsZero() {
		gauge(refresh, seconds(first))
	}
	inState := map[forwarder.State]int{}
	absent := 0
	for _, s := range c.VWires() {
		inState[s.State]++
		for _, o := range s.Objects {
			if !o.Realized {
				absent++
			}
		}
		n, counted := counters[s.VWire.ID]
		if !counted {
			continue
		}
		for _, end := range []struct {
			side string
			stats.Counters
		}{{"client", n.Client}, {"endpoint", n.Endpoint}} {
			id, service := s.VWire.ID, services[s.VWire.ID]
			counter(packets, end.RxPackets, id, service, end.side, "rx")
			counter(packets, end.TxPackets, id, service, end.side, "tx")
			counter(bytes, end.RxBytes, id, service, end.side, "rx")
			counter(bytes, end.TxBytes, id, service, end.side, "tx")
			for _, l := range end.Losses() {
				if l.Count > 0 {
					counter(dropped, l.Count, id, service, end.side, l.Reason)
				}
			}
		}
	}
	for _, s := range states {
		gauge(vwires, float64(inState[s]), string(s))
	}
	gauge(missing, float64(absent))

	if snapshot != nil {
		for _, p := range snapshot.Pools {
			gauge(buffers, float64(p.Available), p.Name, "available")
			gauge(buffers, float64(p.Cached), p.Name, "cached")
			gauge(buffers, float64(p.Used), p.Name, "used")
		}
		gauge(rate, float64(snapshot.VectorRate))
		for key, n := range byNode(snapshot.Errors) {
			counter(nodeErr, n, key[0], key[1])
		}
	}
	n, r, ok := c.Messages()
	gauge(up, truth(ok))
	if ok {
		counter(sent, n)
		counter(refused, r)
	}
	if end := c.Expiry(); !end.IsZero() {
		gauge(expiry, seconds(end))
	}
}

// byNode adds errors up: each interface has nodes of its own, whose names are those of the interface with an ending.
func byNode(errors []stats.Error) map[[2]string]uint64 {
	sum := map[[2]string]uint64{}
	for _, e := range errors {
		node := e.Node
		for _, ending := range []string{"-tx", "-output"} {
			if strings.HasSuffix(node, ending) && node != "interface"+ending {
				node = "interface" + ending
			}
		}
		sum[[2]string{node, e.Name}] += e.Count
	}
	return sum
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// New makes a registry of all metrics of an agent, with those of the Go runtime and of the process.
func New(c Config) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	p := newPassing()
	c.Events.Listen(p.took)
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "highwire_build_info", Help: "1, with the version of the agent.", ConstLabels: prometheus.Labels{"version": c.Version},
	}, func() float64 { return 1 })
	registry.MustRegister(collector{c}, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(p.all()...)
	return registry
}
