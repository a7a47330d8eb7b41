package pocketvpp

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.fd.io/govpp/binapi/af_packet"

	"highwire/vppapi"
	"highwire/vppapi/stats"
)

// until reads the segment until ok accepts what it says.
func until(t *testing.T, seg *stats.Segment, what string, ok func(*stats.Snapshot) bool) *stats.Snapshot {
	t.Helper()
	ctx := timeout(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := seg.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		select {
		case <-tick.C: // shared memory tells of no change
		case <-ctx.Done():
			t.Fatalf("%s: not in %+v", what, s)
		}
	}
}

func TestContractStats(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		seg, err := stats.Open(timeout(t), vppapi.StatsBeside(vpp.socket))
		must(t, err)
		t.Cleanup(func() { must(t, seg.Close()) })

		s := until(t, seg, "pool", func(s *stats.Snapshot) bool { return len(s.Pools) > 0 && s.Pools[0].Total() > 0 })
		if s.Pools[0].Name != poolName || s.Interfaces[0].Name != "local0" {
			t.Errorf("at first: %+v", s)
		}

		a, b, alone := hostEnd(t, conn, vpp, 1, 0), hostEnd(t, conn, vpp, 2, 0), hostEnd(t, conn, vpp, 3, 0)
		connectL2(t, conn, a, b)
		ping(t, a, b, ip4)
		noPing(t, alone, a)
		s = until(t, seg, "counters", func(s *stats.Snapshot) bool {
			if len(s.Interfaces) < 4 {
				return false
			}
			from, to := s.Interfaces[a.index], s.Interfaces[b.index]
			return from.RxPackets > 0 && to.TxPackets > 0 && from.RxBytes >= 64 && to.TxBytes >= 64 && s.Interfaces[alone.index].Drops > 0
		})
		for i, name := range map[int]string{int(a.index): "host-v1", int(b.index): "host-v2", int(alone.index): "host-v3"} {
			if s.Interfaces[i].Name != name {
				t.Errorf("interface %d is %q, want %q", i, s.Interfaces[i].Name, name)
			}
		}
		if from := s.Interfaces[a.index]; from.RxBytes/from.RxPackets < 42 || from.RxBytes/from.RxPackets > 1514 {
			t.Errorf("frames of %d bytes: %+v", from.RxBytes/from.RxPackets, from)
		}
		if !slices.ContainsFunc(s.Errors, func(e stats.Error) bool { return e.Node != "" && !strings.Contains(e.Node, "/") && e.Count > 0 }) {
			t.Errorf("a packet was dropped without a reason: %+v", s.Errors)
		}

		// An index that is given out again counts from zero.
		_, err = af_packet.NewServiceClient(conn).AfPacketDelete(timeout(t), &af_packet.AfPacketDelete{HostIfName: "v3"})
		must(t, err)
		until(t, seg, "removal", func(s *stats.Snapshot) bool { return s.Interfaces[alone.index].Name == "" })
		sh(t, "ip -n %s link set v3 down", ns(vpp.netns))
		again := createHost(t, conn, "v3")
		s = until(t, seg, "return", func(s *stats.Snapshot) bool { return s.Interfaces[again].Name == "host-v3" })
		if again != alone.index || s.Interfaces[again].Counters != (stats.Counters{}) {
			t.Errorf("interface %d, was %d, starts with %+v", again, alone.index, s.Interfaces[again])
		}
	})
}
