package pocketvpp

import (
	"slices"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
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

// The kernel's link going away shows as a link that is down, and the interface can still be deleted.
func TestLinkGone(t *testing.T) {
	netns := newNetns(t)
	s := startServer(t, Config{Netns: netns})
	conn := dial(t, s.cfg.Socket)
	sh(t, "ip -n %s link add name a type veth peer name b", ns(netns))
	watch, err := conn.WatchEvent(timeout(t), &interfaces.SwInterfaceEvent{})
	must(t, err)
	defer watch.Close()
	host, tapped := createHost(t, conn, "a"), tapEnd(t, conn, 1, 0)
	up(t, conn, host)
	must(t, second(interfaces.NewServiceClient(conn).WantInterfaceEvents(timeout(t), &interfaces.WantInterfaceEvents{EnableDisable: 1})))
	sh(t, "ip -n %s link del dev a", ns(netns))
	equal(t, "host", events(watch.Events(), 1), []interfaces.SwInterfaceEvent{{SwIfIndex: host}})
	sh(t, "ip -n %s link del dev eth0", ns(tapped.netns))
	equal(t, "tap", events(watch.Events(), 1), []interfaces.SwInterfaceEvent{{SwIfIndex: tapped.index}})
	for _, d := range dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex}) {
		if d.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0 {
			t.Errorf("link of %s is up", d.InterfaceName)
		}
	}
	must(t, second(af_packet.NewServiceClient(conn).AfPacketDelete(timeout(t), &af_packet.AfPacketDelete{HostIfName: "a"})))
}
