package bench

import (
	"strconv"
	"strings"
	"time"

	"highwire/vppapi/fault"
)

// nodes is what VPP's "show runtime" tells of its graph since it was cleared.
type nodes struct {
	took time.Duration
	list map[string]node
}

// node has handled that many packets at that many clocks each.
type node struct{ packets, clocks float64 }

// parseRuntime reads the output of "show runtime" of a VPP with one thread. Nodes without packets are left out.
func parseRuntime(text string) (nodes, error) {
	n := nodes{list: make(map[string]node)}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "Time" {
			seconds, err := strconv.ParseFloat(strings.TrimSuffix(f[1], ","), 64)
			if err != nil || n.took != 0 {
				return n, fault.New(fault.Invalid, "show runtime: %q: want one time, of a VPP without workers", line)
			}
			n.took = time.Duration(seconds * float64(time.Second))
		}
		// Name, state (of one or two words), calls, vectors, suspends, clocks, vectors by call.
		if len(f) < 7 {
			continue
		}
		packets, err := strconv.ParseFloat(f[len(f)-4], 64)
		clocks, err2 := strconv.ParseFloat(f[len(f)-2], 64)
		if err == nil && err2 == nil && packets > 0 {
			n.list[f[0]] = node{packets, clocks}
		}
	}
	if n.took == 0 {
		return n, fault.New(fault.Invalid, "show runtime: no time in %q", text)
	}
	return n, nil
}

// clocksPerPacket adds up all nodes and divides by the packets that went through the named one; 0 if none did.
func (n nodes) clocksPerPacket(through string) float64 {
	packets := n.list[through].packets
	if packets == 0 {
		return 0
	}
	var clocks float64
	for _, o := range n.list {
		clocks += o.packets * o.clocks
	}
	return clocks / packets
}

// rate is the packets a second that the node handled.
func (n nodes) rate(node string) float64 { return n.list[node].packets / n.took.Seconds() }
