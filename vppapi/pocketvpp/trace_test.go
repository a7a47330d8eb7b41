package pocketvpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/tracedump"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/core"
)

func nodeIndex(t *testing.T, conn *core.Connection, name string) (uint32, int32) {
	t.Helper()
	reply, err := vlib.NewServiceClient(conn).GetNodeIndex(timeout(t), &vlib.GetNodeIndex{NodeName: name})
	if err != nil {
		return 0, retval(err)
	}
	return reply.NodeIndex, 0
}

// traces reads what is recorded; afresh forgets an earlier copy first.
func traces(t *testing.T, conn *core.Connection, from, count uint32, afresh bool) (all []string) {
	t.Helper()
	stream, err := tracedump.NewServiceClient(conn).TraceV2Dump(timeout(t), &tracedump.TraceV2Dump{ThreadID: ^uint32(0), Position: from, Max: count, ClearCache: afresh})
	must(t, err)
	for _, d := range collect(t, stream.Recv) {
		all = append(all, d.TraceData)
	}
	return all
}

// A packet's trace names the nodes it went by with the interfaces' numbers, and there are as many as were asked for.
func TestContractTrace(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		a, b := hostEnd(t, conn, vpp, 1, 0), hostEnd(t, conn, vpp, 2, 0)
		connectL2(t, conn, a, b)
		ping(t, a, b, ip4) // neighbours are known
		tracing := tracedump.NewServiceClient(conn)
		input, rv := nodeIndex(t, conn, "af-packet-input")
		equal(t, "node", rv, 0)
		_, rv = nodeIndex(t, conn, "no-such-node")
		equal(t, "no node", rv, int32(api.NO_SUCH_NODE))
		middle, _ := nodeIndex(t, conn, "ethernet-input")
		equal(t, "not an input", retval(second(tracing.TraceCapturePackets(timeout(t), &tracedump.TraceCapturePackets{NodeIndex: middle, MaxPackets: 5}))), int32(api.NO_SUCH_NODE))

		must(t, second(tracing.TraceCapturePackets(timeout(t), &tracedump.TraceCapturePackets{NodeIndex: input, MaxPackets: 5, PreCaptureClear: true})))
		for range 2 {
			ping(t, a, b, ip4)
		}
		all := traces(t, conn, 0, 50, true)
		equal(t, "traces", len(all), 5)
		for _, want := range []string{": af-packet-input\n  af_packet: hw_if_index 1 ", ": ethernet-input\n  IP4: " + a.mac() + " -> " + b.mac(),
			": l2-input\n  l2-input: sw_if_index 1 dst " + b.mac(), ": l2-output\n  l2-output: sw_if_index 2 dst ", ": host-v2-output\n  host-v2 flags ", ": host-v2-tx\n"} {
			if !contains(strings.Join(all, "\n"), want) {
				t.Errorf("no %q in\n%s", want, all[0])
			}
		}
		equal(t, "the rest", len(traces(t, conn, 3, 50, false)), 2)
		equal(t, "at most", len(traces(t, conn, 0, 2, false)), 2)

		// A cleared buffer shows to those who have no copy.
		must(t, second(tracing.TraceClearCapture(timeout(t), &tracedump.TraceClearCapture{})))
		must(t, second(tracing.TraceClearCache(timeout(t), &tracedump.TraceClearCache{})))
		ping(t, a, b, ip4)
		equal(t, "after the end", len(traces(t, conn, 0, 50, true)), 0)

		// Where VPP drops a packet it says why.
		must(t, second(tracing.TraceCapturePackets(timeout(t), &tracedump.TraceCapturePackets{NodeIndex: input, MaxPackets: 5, PreCaptureClear: true})))
		must(t, second(interfaces.NewServiceClient(conn).SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: b.index})))
		noPing(t, a, b)
		if all := strings.Join(traces(t, conn, 0, 50, true), "\n"); !contains(all, ": error-drop\n  rx:host-v1") || !contains(all, ": drop\n  ") {
			t.Errorf("no drop in\n%s", all)
		}
	})
}

// A capture holds what enters and what leaves one interface, as many packets and bytes as asked for.
func TestContractPcap(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		a, b := hostEnd(t, conn, vpp, 1, 0), hostEnd(t, conn, vpp, 2, 0)
		connectL2(t, conn, a, b)
		ping(t, a, b, ip4)
		api2 := interfaces.NewServiceClient(conn)
		name := filepath.Base(t.TempDir()) + time.Now().Format("150405.000000000")
		file := filepath.Join(pcapDir, name)
		t.Cleanup(func() { _ = os.Remove(file) })
		on := func(change func(*interfaces.PcapTraceOn)) int32 {
			q := &interfaces.PcapTraceOn{CaptureRx: true, CaptureTx: true, MaxPackets: 7, MaxBytesPerPacket: 60, SwIfIndex: a.index, Filename: name}
			change(q)
			return retval(second(api2.PcapTraceOn(timeout(t), q)))
		}
		off := func() int32 { return retval(second(api2.PcapTraceOff(timeout(t), &interfaces.PcapTraceOff{}))) }
		as := func(*interfaces.PcapTraceOn) {}
		equal(t, "off at first", off(), int32(api.VALUE_EXIST))
		equal(t, "path", on(func(q *interfaces.PcapTraceOn) { q.Filename = "../x" }), int32(api.ILLEGAL_NAME))
		equal(t, "no interface", on(func(q *interfaces.PcapTraceOn) { q.SwIfIndex = nowhere }), int32(api.INVALID_SW_IF_INDEX))
		equal(t, "too few bytes", on(func(q *interfaces.PcapTraceOn) { q.MaxBytesPerPacket = 31 }), int32(api.INVALID_MEMORY_SIZE))
		equal(t, "too many bytes", on(func(q *interfaces.PcapTraceOn) { q.MaxBytesPerPacket = 9001 }), int32(api.INVALID_MEMORY_SIZE))
		equal(t, "on", on(as), 0)
		equal(t, "on again", on(as), int32(api.INVALID_VALUE))
		ping(t, a, b, ip4)
		ping(t, a, b, ip4)
		equal(t, "off", off(), 0)
		data, err := os.ReadFile(file)
		must(t, err)
		equal(t, "bytes of seven packets", len(data), 24+7*(16+60))
		equal(t, "magic", string(data[:4]), "\xd4\xc3\xb2\xa1")

		// What the ends' kernels say by themselves must not come in between.
		for _, i := range []end{a, b} {
			must(t, second(api2.SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: i.index})))
		}
		equal(t, "on", on(func(q *interfaces.PcapTraceOn) { q.SwIfIndex = b.index }), 0)
		equal(t, "off without a packet", off(), int32(api.NO_SUCH_ENTRY))
	})
}
