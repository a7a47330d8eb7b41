package pocketvpp

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/tracedump"
	"go.fd.io/govpp/binapi/vlib"
)

// nodes are the nodes of VPP's graph that have an index here: those at which packets enter, and one that cannot be traced. An
// index is the place in the list.
var nodes = []string{"null-node", "af-packet-input", "memif-input", "virtio-input", "ethernet-input"}

// firstInput to lastInput are the nodes that begin traces.
const firstInput, lastInput = 1, 3

// defaultTrace is how many packets are recorded where a request says "any number".
const defaultTrace = 50

// tracer records the ways of packets as VPP's tracer tells them.
type tracer struct {
	on atomic.Bool // something may be recorded: all that the packet path looks at while nothing is

	mu     sync.Mutex
	limit  [lastInput + 1]uint32 // by node
	traces []string
}

func (s *Server) traceMessages(t *table) {
	request(t, func(_ *call, q *vlib.GetNodeIndex) (p vlib.GetNodeIndexReply) {
		i := slices.Index(nodes, q.NodeName)
		p.NodeIndex = uint32(i)
		if i < 0 {
			p.Retval = int32(api.NO_SUCH_NODE)
		}
		return p
	})
	request(t, func(_ *call, q *tracedump.TraceCapturePackets) (p tracedump.TraceCapturePacketsReply) {
		if q.NodeIndex < firstInput || q.NodeIndex > lastInput {
			p.Retval = int32(api.NO_SUCH_NODE)
			return p
		}
		if q.PreCaptureClear {
			s.tracer.clear()
		}
		s.tracer.add(q.NodeIndex, q.MaxPackets)
		return p
	})
	request(t, func(_ *call, _ *tracedump.TraceClearCapture) tracedump.TraceClearCaptureReply {
		s.tracer.clear()
		return tracedump.TraceClearCaptureReply{}
	})
	request(t, func(c *call, _ *tracedump.TraceClearCache) tracedump.TraceClearCacheReply {
		c.client.traces = nil
		return tracedump.TraceClearCacheReply{}
	})
	dump(t, func(c *call, q *tracedump.TraceV2Dump, emit func(tracedump.TraceV2Details)) {
		// A client reads from a copy of its own, made when it has none.
		if q.ClearCache {
			c.client.traces = nil
		}
		if len(c.client.traces) == 0 && q.Position != ^uint32(0) {
			c.client.traces = s.tracer.recorded()
		}
		first := min(uint64(q.Position), uint64(len(c.client.traces)))
		last := min(first+uint64(q.Max), uint64(len(c.client.traces)))
		for i, text := range c.client.traces[first:last] {
			position := uint32(first) + uint32(i)
			emit(tracedump.TraceV2Details{Position: position, More: uint64(position)+1 == last && last < uint64(len(c.client.traces)), TraceData: text})
		}
	})
}

func (t *tracer) add(node, packets uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch packets {
	case 0:
		t.limit[node] = 0
	case ^uint32(0):
		t.limit[node] += defaultTrace
	default:
		t.limit[node] += packets
	}
	t.on.Store(true)
}

func (t *tracer) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on.Store(false)
	t.limit, t.traces = [lastInput + 1]uint32{}, nil
}

func (t *tracer) recorded() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.traces)
}

// tracePacket begins to record the way of p, if there is room; finish tells where it went.
func (s *Server) tracePacket(in *iface, p *packet) (finish func(out *iface, err error)) {
	node := map[string]int{devAFPacket: 1, devMemif: 2, devTap: 3}[in.devType]
	t := &s.tracer
	t.mu.Lock()
	defer t.mu.Unlock()
	if node == 0 || t.limit[node] == 0 {
		return func(*iface, error) {}
	}
	t.limit[node]--
	at := time.Since(s.started)
	var text strings.Builder
	hop := func(node, format string, args ...any) {
		fmt.Fprintf(&text, "\n%02d:%02d:%02d:%06d: %s\n  %s", int(at.Hours()), int(at.Minutes())%60, int(at.Seconds())%60,
			at.Microseconds()%1e6, node, fmt.Sprintf(format, args...))
	}
	hop(nodes[node], "%s: hw_if_index %d next-index 4", strings.NewReplacer("-input", "", "-", "_").Replace(nodes[node]), in.index)
	header := slices.Clone(p.bytes()[:min(ethernetHeader, p.end-p.off)])
	ethernet := in.eth && len(header) == ethernetHeader
	if ethernet {
		hop("ethernet-input", "%s: %s -> %s", etherName(binary.BigEndian.Uint16(header[12:])), macString([6]byte(header[6:])), macString([6]byte(header)))
	}
	return func(out *iface, err error) {
		if ethernet && in.xconnect != nil {
			hop("l2-input", "l2-input: sw_if_index %d dst %s src %s [l2-output ]", in.index, macString([6]byte(header)), macString([6]byte(header[6:])))
			hop("l2-output", "l2-output: sw_if_index %d dst %s src %s data % x", in.xconnect.index, macString([6]byte(header)), macString([6]byte(header[6:])), header[12:])
		}
		if err != nil {
			hop("error-drop", "rx:%s", in.name)
			hop("drop", "%s: %v", nodes[node], err)
		} else if out == nil {
			hop("ip-local", "for VPP itself")
		} else {
			hop(out.name+"-output", "%s flags 0x%08x", out.name, 0)
			hop(out.name+"-tx", "buffer of %d bytes", p.end-p.off)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.on.Load() {
			t.traces = append(t.traces, text.String())
		}
	}
}

// etherName is an ethernet type as VPP prints it.
func etherName(t uint16) string {
	switch t {
	case etherIPv4:
		return "IP4"
	case etherIPv6:
		return "IP6"
	case 0x0806:
		return "ARP"
	}
	return fmt.Sprintf("0x%04x", t)
}
