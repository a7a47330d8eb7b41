package vppapi

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/tracedump"
	"go.fd.io/govpp/binapi/vlib"

	"highwire/vppapi/fault"
)

// inputNodes are the nodes at which packets enter VPP's graph, of all device drivers that a vWire or its uplink can have.
// VPP traces only packets that begin at such a node.
var inputNodes = []string{"af-packet-input", "memif-input", "virtio-input", "af_xdp-input", "avf-input", "rdma-input", "dpdk-input"}

// traceAtOnce is how many packets a thread records for each input node before it stops and has to be read.
const traceAtOnce = 256

// Trace is the way of one packet through VPP's graph, in order.
type Trace []TraceHop

// TraceHop is one node that handled a packet.
type TraceHop struct {
	Node string
	// At is the time since VPP's start.
	At time.Duration
	// Interface is the VPP interface that the node is or speaks of, empty for none.
	Interface string
	// Detail is what the node says of the packet, lines without indentation.
	Detail string
}

// Tracer is VPP's packet tracer at work. There is one in each VPP: whoever starts it clears what others have recorded.
type Tracer struct {
	c     *Conn
	nodes []uint32
	names interfaceNames
}

// StartTrace lets VPP record the packets that enter by any interface (get_node_index, trace_capture_packets). fault.Invalid if VPP
// runs without its tracedump plugin.
func (c *Conn) StartTrace(ctx context.Context) (*Tracer, error) {
	t := &Tracer{c: c}
	var err error
	if t.names, err = c.interfaceNames(ctx); err != nil {
		return nil, err
	}
	calls := make([]call, len(inputNodes))
	for i, name := range inputNodes {
		calls[i] = call{req: &vlib.GetNodeIndex{NodeName: name}, also: []api.VPPApiError{api.NO_SUCH_NODE}}
	}
	answers, err := c.flush(ctx, calls)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		if a.err != nil {
			return nil, a.err
		}
		if r := a.reply.(*vlib.GetNodeIndexReply); r.Retval == 0 {
			t.nodes = append(t.nodes, r.NodeIndex)
		}
	}
	return t, t.record(ctx)
}

// Interface is the name of the interface with that sw_if_index, empty if there is none.
func (t *Tracer) Interface(index uint32) string { return t.names.software[int(index)] }

// record empties VPP's buffer and lets it record anew.
func (t *Tracer) record(ctx context.Context) error {
	calls := make([]call, len(t.nodes))
	for i, n := range t.nodes {
		// A driver's node that cannot be traced belongs to a plugin that nobody uses here.
		calls[i] = call{req: &tracedump.TraceCapturePackets{NodeIndex: n, MaxPackets: traceAtOnce, PreCaptureClear: i == 0}, also: []api.VPPApiError{api.NO_SUCH_NODE}}
	}
	return t.c.all(ctx, calls...)
}

// Read returns what was recorded since the last call, and lets VPP go on if that was anything (trace_v2_dump). Packets that come
// while the buffer is full or being read are not seen.
func (t *Tracer) Read(ctx context.Context) ([]Trace, error) {
	var traces []Trace
	err := t.c.dump(ctx, func(m api.Message) {
		if d, ok := m.(*tracedump.TraceV2Details); ok {
			if trace := t.names.parse(d.TraceData); len(trace) > 0 {
				traces = append(traces, trace)
			}
		}
	}, &tracedump.TraceV2Dump{ThreadID: ^uint32(0), Max: uint32(traceAtOnce * len(t.nodes)), ClearCache: true})
	if err != nil || len(traces) == 0 {
		return nil, err
	}
	return traces, t.record(ctx)
}

// Stop ends recording and gives VPP its memory back (trace_clear_capture, trace_clear_cache).
func (t *Tracer) Stop(ctx context.Context) error {
	return t.c.all(ctx, call{req: &tracedump.TraceClearCapture{}}, call{req: &tracedump.TraceClearCache{}})
}

// all is flush for calls of which each must succeed.
func (c *Conn) all(ctx context.Context, calls ...call) error {
	answers, err := c.flush(ctx, calls)
	for _, a := range answers {
		if err == nil {
			err = a.err
		}
	}
	return err
}

// interfaceNames are the names of all interfaces by both of VPP's numbers; trace texts use either.
type interfaceNames struct{ software, hardware map[int]string }

func (c *Conn) interfaceNames(ctx context.Context) (interfaceNames, error) {
	n := interfaceNames{make(map[int]string), make(map[int]string)}
	err := c.dump(ctx, func(m api.Message) {
		if d, ok := m.(*interfaces.SwInterfaceDetails); ok {
			n.software[int(d.SwIfIndex)] = text(d.InterfaceName)
		}
	}, &interfaces.SwInterfaceDump{SwIfIndex: every})
	if err != nil {
		return n, err
	}
	// No message tells the other numbers.
	table, err := c.CLI(ctx, "show hardware-interfaces brief")
	if err != nil {
		return n, fault.New(fault.KindOf(err), "numbers of interfaces: %w", err)
	}
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) >= 4 {
			if index, err := strconv.Atoi(f[1]); err == nil {
				n.hardware[index] = f[0]
			}
		}
	}
	return n, nil
}

// InterfaceName is VPP's name of the interface with that sw_if_index, fault.NotFound if there is none.
func (c *Conn) InterfaceName(ctx context.Context, index uint32) (string, error) {
	name := ""
	err := c.dump(ctx, func(m api.Message) {
		if d, ok := m.(*interfaces.SwInterfaceDetails); ok && uint32(d.SwIfIndex) == index {
			name = text(d.InterfaceName)
		}
	}, &interfaces.SwInterfaceDump{SwIfIndex: every})
	if err == nil && name == "" {
		err = fault.New(fault.NotFound, "VPP has no interface with sw_if_index %d", index)
	}
	return name, err
}

// Where trace texts name interfaces: at the head of a node, by number, or by name where a packet is dropped.
var (
	hopHead  = regexp.MustCompile(`^(\d+):(\d\d):(\d\d):(\d{6}): (\S+)$`)
	ifIndex  = regexp.MustCompile(`(hw|sw)[_-]if[_-]index:? (\d+)`)
	rxName   = regexp.MustCompile(`^rx:(\S+)$`)
	nodeName = regexp.MustCompile(`^(.+)-(output|tx)$`)
)

// parse reads the text of one packet: for each node a line with time and name, and indented ones about the packet.
func (n interfaceNames) parse(text string) Trace {
	var trace Trace
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n\x00 ")
		if m := hopHead.FindStringSubmatch(line); m != nil {
			trace = append(trace, TraceHop{Node: m[5], At: clock(m[1:5])})
			continue
		}
		if line = strings.TrimSpace(line); line == "" || len(trace) == 0 {
			continue
		}
		hop := &trace[len(trace)-1]
		if hop.Detail != "" {
			hop.Detail += "\n"
		}
		hop.Detail += line
	}
	for i := range trace {
		trace[i].Interface = n.of(trace[i])
	}
	return trace
}

// of is the interface that a hop is about.
func (n interfaceNames) of(h TraceHop) string {
	if m := nodeName.FindStringSubmatch(h.Node); m != nil {
		for _, name := range n.software {
			if name == m[1] {
				return name
			}
		}
	}
	if m := rxName.FindStringSubmatch(h.Detail); m != nil {
		return m[1]
	}
	name := ""
	for _, m := range ifIndex.FindAllStringSubmatch(h.Detail, -1) {
		index, err := strconv.Atoi(m[2])
		if err != nil {
			continue
		}
		// Where a node gives both numbers, the software one is what everything else goes by.
		if m[1] == "sw" && n.software[index] != "" {
			return n.software[index]
		}
		if m[1] == "hw" && name == "" {
			name = n.hardware[index]
		}
	}
	return name
}

// clock is hours, minutes, seconds and microseconds.
func clock(f []string) time.Duration {
	var d time.Duration
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second, time.Microsecond} {
		v, _ := strconv.Atoi(f[i]) // digits only, by the expression that found them
		d += time.Duration(v) * unit
	}
	return d
}

// String is the way on one line.
func (t Trace) String() string {
	names := make([]string, len(t))
	for i, h := range t {
		names[i] = h.Node
		if h.Interface != "" {
			names[i] = fmt.Sprintf("%s(%s)", h.Node, h.Interface)
		}
	}
	return strings.Join(names, " > ")
}

// Dropped is why VPP dropped the packet, in its words, and empty where it did not.
func (t Trace) Dropped() string {
	reason := ""
	for _, h := range t {
		switch h.Node {
		case "error-drop", "drop":
			if !rxName.MatchString(h.Detail) || reason == "" {
				reason, _, _ = strings.Cut(h.Detail, "\n")
			}
		}
	}
	return reason
}
