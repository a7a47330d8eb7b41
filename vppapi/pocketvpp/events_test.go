package pocketvpp

import (
	"slices"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/tapv2"
)

func TestContractEvents(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		sh(t, "ip -n %s link add name a type veth peer name b", ns(vpp.netns))
		watch, err := conn.WatchEvent(timeout(t), &interfaces.SwInterfaceEvent{})
		must(t, err)
		defer watch.Close()
		ifs := interfaces.NewServiceClient(conn)
		must(t, second(ifs.WantInterfaceEvents(timeout(t), &interfaces.WantInterfaceEvents{EnableDisable: 1, PID: 4711})))
		flags := func(f interface_types.IfStatusFlags) {
			must(t, second(ifs.SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: 1, Flags: f})))
		}
		event := func(f interface_types.IfStatusFlags, deleted bool) interfaces.SwInterfaceEvent {
			return interfaces.SwInterfaceEvent{PID: 4711, SwIfIndex: 1, Flags: f, Deleted: deleted}
		}
		for _, step := range []struct {
			name string
			do   func()
			want []interfaces.SwInterfaceEvent
		}{
			{"create", func() { createHost(t, conn, "a") }, []interfaces.SwInterfaceEvent{event(2, false)}},
			{"up", func() { flags(1) }, []interfaces.SwInterfaceEvent{event(1, false)}},
			{"up again", func() { flags(1) }, nil},
			{"down", func() { flags(0) }, []interfaces.SwInterfaceEvent{event(0, false)}},
			{"up from down", func() { flags(1) }, []interfaces.SwInterfaceEvent{event(3, false)}},
			{"delete", func() {
				must(t, second(af_packet.NewServiceClient(conn).AfPacketDelete(timeout(t), &af_packet.AfPacketDelete{HostIfName: "a"})))
			}, []interfaces.SwInterfaceEvent{event(0, true)}},
		} {
			step.do()
			if got := events(watch.Events(), len(step.want)); !slices.Equal(got, step.want) {
				t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
			}
		}
	})
}

// events reads n events and whatever else comes at once.
func events(from <-chan api.Message, n int) (got []interfaces.SwInterfaceEvent) {
	wait := 5 * time.Second
	for {
		if len(got) >= n {
			wait = 50 * time.Millisecond
		}
		select {
		case m := <-from:
			got = append(got, *m.(*interfaces.SwInterfaceEvent))
		case <-time.After(wait):
			return got
		}
	}
}

// A kernel interface that goes down, and then away, changes nothing on the API; VPP's interface can still be deleted.
func TestContractLinkGone(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		sh(t, "ip -n %s link add name a type veth peer name b", ns(vpp.netns))
		watch, err := conn.WatchEvent(timeout(t), &interfaces.SwInterfaceEvent{})
		must(t, err)
		defer watch.Close()
		ifs, i := interfaces.NewServiceClient(conn), createHost(t, conn, "a")
		up(t, conn, i)
		must(t, second(ifs.WantInterfaceEvents(timeout(t), &interfaces.WantInterfaceEvents{EnableDisable: 1})))
		events(watch.Events(), 0) // of what came before, where they come late
		for _, step := range []string{"set dev a down", "set dev a up", "set dev a down", "del dev a"} {
			sh(t, "ip -n %s link %s", ns(vpp.netns), step)
			equal(t, step, events(watch.Events(), 0), nil)
			equal(t, step, dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: i})["host-a"].Flags, 3)
		}
		for _, f := range []interface_types.IfStatusFlags{0, 1} {
			must(t, second(ifs.SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: i, Flags: f})))
		}
		must(t, second(af_packet.NewServiceClient(conn).AfPacketDelete(timeout(t), &af_packet.AfPacketDelete{HostIfName: "a"})))
	})
}

// So does a tap.
func TestTapGone(t *testing.T) {
	s := startServer(t, Config{Netns: newNetns(t)})
	conn := dial(t, s.cfg.Socket)
	tapped := tapEnd(t, conn, 1, 0)
	sh(t, "ip -n %s link del dev eth0", ns(tapped.netns))
	must(t, second(tapv2.NewServiceClient(conn).TapDeleteV2(timeout(t), &tapv2.TapDeleteV2{SwIfIndex: tapped.index})))
	equal(t, "interfaces", len(dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex})), 1)
}
