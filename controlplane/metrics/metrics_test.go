package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// node is one with two vWires, of which VPP counts one.
func node(events *forwarder.Events) Config {
	return Config{
		Version: "v1", Events: events,
		VWires: func() []forwarder.Status {
			return []forwarder.Status{
				{VWire: forwarder.VWire{ID: "a"}, State: forwarder.Up, Objects: []forwarder.ObjectStatus{{Realized: true}}},
				{VWire: forwarder.VWire{ID: "b"}, State: forwarder.Failed, Objects: []forwarder.ObjectStatus{{}, {}}},
			}
		},
		Connections: func() []manager.Connection {
			return []manager.Connection{
				{Connection: &connection.Connection{Id: "a", NetworkService: "web"}, Expires: time.Unix(2000, 0)},
				{Connection: &connection.Connection{Id: "b"}, Expires: time.Unix(1000, 500_000_000)},
			}
		},
		Counters: func(context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) {
			return map[string]forwarder.Counters{"a": {
					By: forwarder.ByVPP, Client: stats.Counters{RxPackets: 1, RxBytes: 2, TxPackets: 3, TxBytes: 4, Drops: 5}, Endpoint: stats.Counters{RxNoBuffers: 6},
				}}, &stats.Snapshot{
					Pools: []stats.Pool{{Name: "default-numa-0", Available: 7, Cached: 8, Used: 9}}, VectorRate: 10,
					Errors: []stats.Error{{Node: "host-x-tx", Name: "no space", Count: 1}, {Node: "host-y-tx", Name: "no space", Count: 2}, {Node: "l2-input", Name: "z", Count: 4}},
				}, nil
		},
		Messages: func() (uint64, uint64, bool) { return 11, 12, true },
		Expiry:   func() time.Time { return time.Unix(3000, 0) },
	}
}

func TestMetrics(t *testing.T) {
	events := forwarder.NewEvents()
	registry := New(node(events))
	for _, e := range []forwarder.Event{
		{Kind: forwarder.Requested, Mechanism: "KERNEL", Took: 3 * time.Millisecond},
		{Kind: forwarder.Requested, Mechanism: "MEMIF", Took: 40 * time.Second, Err: fault.New(fault.NotFound, "x")},
		{Kind: forwarder.Requested, Mechanism: "whatever a client likes", Err: errors.New("x")},
		{Kind: forwarder.Requested, Err: fault.New(fault.Invalid, "x")},
		{Kind: forwarder.Closed}, {Kind: forwarder.Expired}, {Kind: forwarder.Expired},
		{Kind: forwarder.Converged, Took: time.Millisecond}, {Kind: forwarder.Resynced, Took: time.Second, Created: 3, Removed: 1},
		{Kind: forwarder.Connected}, {Kind: forwarder.StateChanged}, {Kind: forwarder.Drifted},
	} {
		events.Add(e)
	}
	want := `highwire_build_info{version="v1"} 1
highwire_closed_connections_total{why="closed"} 1
highwire_closed_connections_total{why="expired"} 2
highwire_connection_expiry_timestamp_seconds 1000.5
highwire_drift_objects_total{action="create"} 3
highwire_drift_objects_total{action="remove"} 1
highwire_drifts_total 1
highwire_objects_missing 2
highwire_scrape_error 0
highwire_svid_expiry_timestamp_seconds 3000
highwire_vpp_api_messages_total 11
highwire_vpp_api_refusals_total 12
highwire_vpp_buffers{pool="default-numa-0",state="available"} 7
highwire_vpp_buffers{pool="default-numa-0",state="cached"} 8
highwire_vpp_buffers{pool="default-numa-0",state="used"} 9
highwire_vpp_connections_total 1
highwire_vpp_node_errors_total{error="no space",node="interface-tx"} 3
highwire_vpp_node_errors_total{error="z",node="l2-input"} 4
highwire_vpp_up 1
highwire_vpp_vector_rate 10
highwire_vwire_bytes_total{direction="rx",service="web",side="client",vwire="a"} 2
highwire_vwire_bytes_total{direction="rx",service="web",side="endpoint",vwire="a"} 0
highwire_vwire_bytes_total{direction="tx",service="web",side="client",vwire="a"} 4
highwire_vwire_bytes_total{direction="tx",service="web",side="endpoint",vwire="a"} 0
highwire_vwire_dropped_packets_total{reason="drop",service="web",side="client",vwire="a"} 5
highwire_vwire_dropped_packets_total{reason="rx_no_buffer",service="web",side="endpoint",vwire="a"} 6
highwire_vwire_packets_total{direction="rx",service="web",side="client",vwire="a"} 1
highwire_vwire_packets_total{direction="rx",service="web",side="endpoint",vwire="a"} 0
highwire_vwire_packets_total{direction="tx",service="web",side="client",vwire="a"} 3
highwire_vwire_packets_total{direction="tx",service="web",side="endpoint",vwire="a"} 0
highwire_vwires{state="failed"} 1
highwire_vwires{state="pending"} 0
highwire_vwires{state="up"} 1
`
	text := scrape(t, registry)
	for line := range strings.Lines(want) {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no %s", line)
		}
	}
	for line, count := range map[string]string{
		`highwire_request_duration_seconds_count{mechanism="KERNEL",result="ok"}`:             "1",
		`highwire_request_duration_seconds_count{mechanism="MEMIF",result="not_found"}`:       "1",
		`highwire_request_duration_seconds_count{mechanism="other",result="internal"}`:        "1",
		`highwire_request_duration_seconds_count{mechanism="none",result="invalid"}`:          "1",
		`highwire_request_duration_seconds_bucket{mechanism="KERNEL",result="ok",le="0.005"}`: "1",
		`highwire_reconcile_duration_seconds_count`:                                           "1",
		`highwire_resync_duration_seconds_count`:                                              "1",
	} {
		if !strings.Contains(text, line+" "+count+"\n") {
			t.Errorf("no %s %s", line, count)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// Without VPP what is known otherwise is still told.
func TestMetricsWithoutVPP(t *testing.T) {
	c := node(forwarder.NewEvents())
	c.Counters = func(context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) {
		return nil, nil, fault.New(fault.Unavailable, "no VPP")
	}
	c.Messages = func() (uint64, uint64, bool) { return 0, 0, false }
	c.Expiry = func() time.Time { return time.Time{} }
	text := scrape(t, New(c))
	for _, want := range []string{"highwire_vpp_up 0\n", "highwire_vwires{state=\"up\"} 1\n", "highwire_scrape_error 0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, no := range []string{"vwire_packets", "vpp_buffers", "svid_expiry", "api_messages"} {
		if strings.Contains(text, no) {
			t.Errorf("%s without VPP", no)
		}
	}
}

func scrape(t testing.TB, registry *prometheus.Registry) string {
	t.Helper()
	w := newRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, &http.Request{Method: http.MethodGet, Header: http.Header{}})
	return w.body.String()
}

type recorder struct {
	header http.Header
	body   strings.Builder
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (*recorder) WriteHeader(int)               {}

func TestProbes(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(s.Addr().String()); err == nil || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("an address in use: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	check := func(path string, code int, says string) {
		t.Helper()
		r, err := client.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != code || !strings.Contains(string(body), says) {
			t.Errorf("%s: %d %s, want %d with %q", path, r.StatusCode, body, code, says)
		}
	}
	check("/healthz", http.StatusOK, "ok")
	for _, path := range []string{"/readyz", "/startupz", "/metrics"} {
		check(path, http.StatusServiceUnavailable, "starting")
	}
	var mu sync.Mutex
	reason := errors.New("no VPP")
	s.Started(New(node(forwarder.NewEvents())), func() error { mu.Lock(); defer mu.Unlock(); return reason })
	check("/readyz", http.StatusServiceUnavailable, "no VPP")
	check("/startupz", http.StatusOK, "ok")
	check("/metrics", http.StatusOK, "highwire_vwires{")
	mu.Lock()
	reason = nil
	mu.Unlock()
	check("/readyz", http.StatusOK, "ok")
	check("/debug/pprof/", http.StatusNotFound, "")
	stop()
	wg.Wait()
}

// BenchmarkScrape is a scrape with 1,000 vWires through VPP: 2,000 interfaces in the stats segment.
func BenchmarkScrape(b *testing.B) {
	w, err := stats.NewWriter("default-numa-0", nil)
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(b.TempDir(), "stats.sock")
	l, err := net.Listen("unixpacket", socket)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Serve(ctx, l) })
	defer wg.Wait()
	defer stop()
	seg, err := stats.Open(ctx, socket)
	if err != nil {
		b.Fatal(err)
	}
	defer seg.Close()
	c := node(forwarder.NewEvents())
	var wires []forwarder.Status
	var connections []manager.Connection
	for i := range 1000 {
		id := fmt.Sprintf("0c45a4b7-7c5c-4a3e-8ae8-%012d", i)
		wires = append(wires, forwarder.Status{VWire: forwarder.VWire{ID: id}, State: forwarder.Up})
		connections = append(connections, manager.Connection{Connection: &connection.Connection{Id: id, NetworkService: "service"}})
		w.Add(uint32(2*i), "host-a").RxPackets.Add(uint64(i))
		w.Add(uint32(2*i+1), "host-b").Drops.Add(uint64(i))
	}
	c.VWires, c.Connections = func() []forwarder.Status { return wires }, func() []manager.Connection { return connections }
	c.Counters = func(ctx context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) {
		snapshot, err := seg.Read(ctx)
		if err != nil {
			return nil, nil, err
		}
		all := make(map[string]forwarder.Counters, len(wires))
		for i, s := range wires {
			all[s.VWire.ID] = forwarder.Counters{By: forwarder.ByVPP, Client: snapshot.Interfaces[2*i].Counters, Endpoint: snapshot.Interfaces[2*i+1].Counters}
		}
		return all, snapshot, nil
	}
	registry := New(c)
	for b.Loop() {
		if text := scrape(b, registry); len(text) < 100_000 {
			b.Fatal("too little")
		}
	}
}
