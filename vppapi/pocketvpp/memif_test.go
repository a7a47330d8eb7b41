package pocketvpp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
	memifapi "go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/core"

	"highwire/vppapi/memif"
)

var memifSockets atomic.Int64

// memifAddress is an abstract socket of the test's own, in a namespace.
func memifAddress(netns string) memif.Address {
	return memif.Address{Name: fmt.Sprintf("@highwire-pocket-test/%d/%d", os.Getpid(), memifSockets.Add(1)), Netns: netns}
}

func addMemifSocket(t testing.TB, conn *core.Connection, id uint32, file string) int32 {
	t.Helper()
	_, err := memifapi.NewServiceClient(conn).MemifSocketFilenameAddDelV2(timeout(t), &memifapi.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: id, SocketFilename: file})
	return retval(err)
}

func removeMemifSocket(t testing.TB, conn *core.Connection, id uint32) int32 {
	t.Helper()
	_, err := memifapi.NewServiceClient(conn).MemifSocketFilenameAddDelV2(timeout(t), &memifapi.MemifSocketFilenameAddDelV2{SocketID: id})
	return retval(err)
}

func createMemif(t testing.TB, conn *core.Connection, q memifapi.MemifCreateV2) (interface_types.InterfaceIndex, int32) {
	t.Helper()
	q.NoZeroCopy = true
	reply, err := memifapi.NewServiceClient(conn).MemifCreateV2(timeout(t), &q)
	if reply == nil {
		return 0, retval(err)
	}
	return reply.SwIfIndex, retval(err)
}

const (
	memifMaster, memifSlave = memifapi.MEMIF_ROLE_API_MASTER, memifapi.MEMIF_ROLE_API_SLAVE
	memifIP                 = memifapi.MEMIF_MODE_API_IP
)

func TestContractMemifRetvals(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		long := "abstract:" + strings.Repeat("x", 120)
		for _, c := range []struct {
			id   uint32
			file string
			want api.VPPApiError
		}{
			{0, "abstract:zero", api.INVALID_ARGUMENT}, {5, "", api.INVALID_ARGUMENT},
			{5, "abstract:five", 0}, {5, "abstract:five", 0}, {5, "abstract:six", api.ENTRY_ALREADY_EXISTS},
			{6, "sub/six.sock", 0}, {7, "@seven", 0}, {8, long, 0},
		} {
			if rv := addMemifSocket(t, conn, c.id, c.file); rv != int32(c.want) {
				t.Errorf("socket %d %q: %d, want %d", c.id, c.file, rv, c.want)
			}
		}
		for id, want := range map[uint32]api.VPPApiError{0: api.INVALID_ARGUMENT, ^uint32(0): api.INVALID_ARGUMENT, 99: api.INVALID_ARGUMENT, 7: 0} {
			if rv := removeMemifSocket(t, conn, id); rv != int32(want) {
				t.Errorf("removing socket %d: %d, want %d", id, rv, want)
			}
		}
		stream, err := memifapi.NewServiceClient(conn).MemifSocketFilenameDump(timeout(t), &memifapi.MemifSocketFilenameDump{})
		must(t, err)
		files := map[uint32]string{}
		for _, d := range collect(t, stream.Recv) {
			files[d.SocketID] = d.SocketFilename
		}
		dir := filepath.Dir(vpp.socket)
		equal(t, "sockets", files, map[uint32]string{0: dir + "/memif.sock", 5: "abstract:five", 6: dir + "/sub/six.sock", 8: long[:107]})

		for _, c := range []struct {
			name string
			q    memifapi.MemifCreateV2
			want api.VPPApiError
			at   interface_types.InterfaceIndex
		}{
			{"unknown socket", memifapi.MemifCreateV2{SocketID: 99}, api.INVALID_ARGUMENT, 0},
			{"ring size", memifapi.MemifCreateV2{SocketID: 5, RingSize: 1000}, api.INVALID_ARGUMENT, 0},
			{"master", memifapi.MemifCreateV2{SocketID: 5, RingSize: 512, HwAddr: [6]byte{2, 0, 0, 0, 0, 7}}, 0, 1},
			{"again", memifapi.MemifCreateV2{SocketID: 5}, api.SUBIF_ALREADY_EXISTS, 0},
			{"other role", memifapi.MemifCreateV2{SocketID: 5, ID: 1, Role: memifSlave}, api.SUBIF_ALREADY_EXISTS, 0},
			{"second id", memifapi.MemifCreateV2{SocketID: 5, ID: 1, Mode: memifIP}, 0, 2},
			{"slave", memifapi.MemifCreateV2{SocketID: 6, ID: 2, Mode: memifIP, Role: memifSlave, RingSize: 256}, 0, 3},
		} {
			if i, rv := createMemif(t, conn, c.q); rv != int32(c.want) || i != c.at {
				t.Errorf("%s: %d with index %d, want %d with %d", c.name, rv, i, c.want, c.at)
			}
		}
		if rv := removeMemifSocket(t, conn, 5); rv != int32(api.UNEXPECTED_INTF_STATE) {
			t.Errorf("removing a socket in use: %d", rv)
		}
		equal(t, "memifs", dumpMemifs(t, conn), map[string]memifapi.MemifDetails{
			"memif5/0": {SwIfIndex: 1, HwAddr: [6]byte{2, 0, 0, 0, 0, 7}, SocketID: 5, RingSize: 1, IfName: "memif5/0"},
			"memif5/1": {SwIfIndex: 2, ID: 1, Mode: memifIP, SocketID: 5, RingSize: 1, IfName: "memif5/1"},
			"memif6/2": {SwIfIndex: 3, ID: 2, Mode: memifIP, Role: memifSlave, SocketID: 6, RingSize: 1, IfName: "memif6/2"},
		})
		all := dumpIfaces(t, conn, &interfaces.SwInterfaceDump{SwIfIndex: anyIndex})
		equal(t, "ethernet", *all["memif5/0"], interfaces.SwInterfaceDetails{
			SwIfIndex: 1, SupSwIfIndex: 1, L2Address: [6]byte{2, 0, 0, 0, 0, 7}, LinkMtu: 9000, Mtu: []uint32{9000, 0, 0, 0},
			InterfaceName: "memif5/0", InterfaceDevType: "memif",
		})
		equal(t, "ip", *all["memif5/1"], interfaces.SwInterfaceDetails{
			SwIfIndex: 2, SupSwIfIndex: 2, Mtu: []uint32{0, 0, 0, 0}, InterfaceName: "memif5/1", InterfaceDevType: "memif",
		})
		ifs := interfaces.NewServiceClient(conn)
		for name, c := range map[string]struct {
			q    interfaces.SwInterfaceSetRxMode
			want api.VPPApiError
		}{
			"without a queue":    {interfaces.SwInterfaceSetRxMode{SwIfIndex: 1, Mode: interface_types.RX_MODE_API_ADAPTIVE}, 0},
			"of queue 0 of none": {interfaces.SwInterfaceSetRxMode{SwIfIndex: 1, Mode: interface_types.RX_MODE_API_ADAPTIVE, QueueIDValid: true}, api.UNIMPLEMENTED},
		} {
			if _, err := ifs.SwInterfaceSetRxMode(timeout(t), &c.q); retval(err) != int32(c.want) {
				t.Errorf("rx mode %s: %v", name, err)
			}
		}
		must(t, second(ifs.SwInterfaceSetMacAddress(timeout(t), &interfaces.SwInterfaceSetMacAddress{SwIfIndex: 1, MacAddress: [6]byte{2, 1}})))
		deletes := memifapi.NewServiceClient(conn)
		for _, c := range []struct {
			i    interface_types.InterfaceIndex
			want api.VPPApiError
		}{{0, api.INVALID_SW_IF_INDEX}, {77, api.INVALID_SW_IF_INDEX}, {1, 0}, {1, api.INVALID_SW_IF_INDEX}, {2, 0}, {3, 0}} {
			if _, err := deletes.MemifDelete(timeout(t), &memifapi.MemifDelete{SwIfIndex: c.i}); retval(err) != int32(c.want) {
				t.Errorf("delete %d: %v, want %d", c.i, err, c.want)
			}
		}
		if rv := removeMemifSocket(t, conn, 5); rv != 0 {
			t.Errorf("removing a socket no longer in use: %d", rv)
		}

		taken := memifAddress(newNetns(t))
		l, err := memif.Listen(taken)
		must(t, err)
		defer l.Close()
		for id, file := range map[uint32]string{19: "abstract:a:b", 20: taken.String(), 21: "abstract:x,netns_name=/there/is/none", 22: "/there/is/none/x.sock"} {
			if rv := addMemifSocket(t, conn, id, file); rv != 0 {
				t.Errorf("socket %s: %d", file, rv)
			}
			if _, rv := createMemif(t, conn, memifapi.MemifCreateV2{SocketID: id}); rv != int32(api.SYSCALL_ERROR_4) {
				t.Errorf("listening on %s: %d", file, rv)
			}
			if rv := removeMemifSocket(t, conn, id); rv != 0 {
				t.Errorf("removing %s: %d", file, rv)
			}
		}
	})
}

func dumpMemifs(t testing.TB, conn *core.Connection) map[string]memifapi.MemifDetails {
	t.Helper()
	stream, err := memifapi.NewServiceClient(conn).MemifDump(timeout(t), &memifapi.MemifDump{})
	must(t, err)
	found := map[string]memifapi.MemifDetails{}
	for _, d := range collect(t, stream.Recv) {
		found[d.IfName] = *d
	}
	return found
}

func rxModes(t testing.TB, conn *core.Connection) map[interface_types.InterfaceIndex]interface_types.RxMode {
	t.Helper()
	stream, err := interfaces.NewServiceClient(conn).SwInterfaceRxPlacementDump(timeout(t), &interfaces.SwInterfaceRxPlacementDump{SwIfIndex: anyIndex})
	must(t, err)
	modes := map[interface_types.InterfaceIndex]interface_types.RxMode{}
	for _, d := range collect(t, stream.Recv) {
		modes[d.SwIfIndex] = d.Mode
	}
	return modes
}

// serveMaster is an application that listens and hands out its connections; let gives one back.
func serveMaster(t testing.TB, a memif.Address) (conns <-chan *memif.Conn, let chan<- struct{}) {
	t.Helper()
	l, err := memif.Listen(a)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	out, in, ended := make(chan *memif.Conn), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- l.Run(ctx, func(uint32) (memif.Master, error) {
			return memif.Master{Mode: memif.Ethernet, Serve: func(ctx context.Context, c *memif.Conn) {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
				select {
				case <-in:
				case <-ctx.Done():
				}
			}}, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return out, in
}

// connectMemif dials what VPP listens on.
func connectMemif(t testing.TB, a memif.Address, mode memif.Mode) *memif.Conn {
	t.Helper()
	c, err := memif.Slave{Address: a, Mode: mode}.Connect(timeout(t))
	for ; err != nil && strings.Contains(err.Error(), "already"); time.Sleep(time.Millisecond) {
		c, err = memif.Slave{Address: a, Mode: mode}.Connect(timeout(t))
	}
	must(t, err)
	return c
}

// carry sends frames through VPP and checks that they arrive as they are.
func carry(t testing.TB, from, to *memif.Conn) {
	t.Helper()
	buf := make([]byte, 16<<10)
	for i, size := range []int{60, 1514, 2048, 9014, 64} {
		frame := bytes.Repeat([]byte{byte(i + 1)}, size)
		copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
		must(t, from.Tx[0].Write(frame))
		from.Tx[0].Flush()
		must(t, to.Rx[0].Wait())
		n, err := to.Rx[0].Read(buf)
		if err != nil || !bytes.Equal(buf[:n], frame) {
			t.Fatalf("frame of %d bytes: %d bytes, %v", size, n, err)
		}
		to.Rx[0].Release()
	}
}

// TestContractMemif: links follow connections, events tell it, queues come anew in polling mode, frames pass; VPP is master
// of one interface and slave of the other.
func TestContractMemif(t *testing.T) {
	againstVPP(t, func(t *testing.T, vpp target) {
		conn := dial(t, vpp.socket)
		ifs := interfaces.NewServiceClient(conn)
		watch, err := conn.WatchEvent(timeout(t), &interfaces.SwInterfaceEvent{})
		must(t, err)
		defer watch.Close()
		must(t, second(ifs.WantInterfaceEvents(timeout(t), &interfaces.WantInterfaceEvents{EnableDisable: 1, PID: 4711})))
		expect := func(what string, want ...interfaces.SwInterfaceEvent) {
			t.Helper()
			for i := range want {
				want[i].PID = 4711
			}
			equal(t, what, events(watch.Events(), len(want)), want)
		}
		flags := func(i interface_types.InterfaceIndex, f interface_types.IfStatusFlags) {
			t.Helper()
			must(t, second(ifs.SwInterfaceSetFlags(timeout(t), &interfaces.SwInterfaceSetFlags{SwIfIndex: i, Flags: f})))
		}
		const m, s, none = 1, 2, interface_types.IfStatusFlags(0)
		const admin, link = interface_types.IF_STATUS_API_FLAG_ADMIN_UP, interface_types.IF_STATUS_API_FLAG_LINK_UP

		toMaster, toSlave := memifAddress(newNetns(t)), memifAddress(newNetns(t))
		for id, a := range map[uint32]memif.Address{5: toMaster, 6: toSlave} {
			if rv := addMemifSocket(t, conn, id, a.String()); rv != 0 {
				t.Fatal(rv)
			}
		}
		createMemif(t, conn, memifapi.MemifCreateV2{SocketID: 5})
		createMemif(t, conn, memifapi.MemifCreateV2{SocketID: 6, Role: memifSlave, RingSize: 256})
		expect("create", interfaces.SwInterfaceEvent{SwIfIndex: m}, interfaces.SwInterfaceEvent{SwIfIndex: s})
		for _, x := range [][2]interface_types.InterfaceIndex{{m, s}, {s, m}} {
			must(t, second(l2.NewServiceClient(conn).SwInterfaceSetL2Xconnect(timeout(t), &l2.SwInterfaceSetL2Xconnect{RxSwIfIndex: x[0], TxSwIfIndex: x[1], Enable: true})))
		}
		flags(m, admin)
		flags(s, admin)
		expect("up", interfaces.SwInterfaceEvent{SwIfIndex: m, Flags: admin}, interfaces.SwInterfaceEvent{SwIfIndex: s, Flags: admin})
		if modes := rxModes(t, conn); len(modes) != 0 {
			t.Errorf("rx modes without a connection: %v", modes)
		}

		master, let := serveMaster(t, toSlave)
		near := connectMemif(t, toMaster, memif.Ethernet)
		expect("connected", interfaces.SwInterfaceEvent{SwIfIndex: m, Flags: link})
		far := <-master // VPP looks every 3 s
		expect("slave connected", interfaces.SwInterfaceEvent{SwIfIndex: s, Flags: link})
		carry(t, near, far)
		carry(t, far, near)
		text := cli(t, conn, "show memif")
		for _, line := range []string{
			"  5   yes (1)     " + toMaster.String(), "  6   no          " + toSlave.String(), "interface memif5/0", "interface memif6/0",
			"  socket-id 6 id 0 mode ethernet", "  flags admin-up connected", "  flags admin-up slave connected",
		} {
			if !contains(text, line+"\n") {
				t.Errorf("show memif has no line %q:\n%s", line, text)
			}
		}
		shown := dumpMemifs(t, conn)
		if d := shown["memif5/0"]; d.RingSize != 1 || d.Flags != admin|link {
			t.Errorf("master: %+v", d)
		}
		if d := shown["memif6/0"]; d.RingSize != 256 || d.BufferSize != 2048 || d.Flags != admin|link {
			t.Errorf("slave: %+v", d)
		}
		for i := range 2 {
			if modes := rxModes(t, conn); modes[m] != interface_types.RX_MODE_API_POLLING || modes[s] != interface_types.RX_MODE_API_POLLING {
				t.Errorf("rx modes after connection %d: %v", i+1, modes)
			}
			for _, index := range []interface_types.InterfaceIndex{m, s} {
				must(t, second(ifs.SwInterfaceSetRxMode(timeout(t), &interfaces.SwInterfaceSetRxMode{SwIfIndex: index, Mode: interface_types.RX_MODE_API_ADAPTIVE})))
			}
			if modes := rxModes(t, conn); modes[m] != interface_types.RX_MODE_API_ADAPTIVE {
				t.Errorf("rx modes after they were set: %v", modes)
			}
			if i == 1 {
				break
			}
			near.Close()
			expect("slave gone", interfaces.SwInterfaceEvent{SwIfIndex: m})
			near = connectMemif(t, toMaster, memif.Ethernet)
			expect("slave back", interfaces.SwInterfaceEvent{SwIfIndex: m, Flags: link})
			let <- struct{}{}
			expect("master gone", interfaces.SwInterfaceEvent{SwIfIndex: s})
			far = <-master
			expect("master back", interfaces.SwInterfaceEvent{SwIfIndex: s, Flags: link})
			carry(t, near, far)
			carry(t, far, near)
		}

		flags(m, none)
		expect("down", interfaces.SwInterfaceEvent{SwIfIndex: m})
		if near.Err() != nil {
			t.Errorf("admin down has ended the connection: %v", near.Err())
		}
		flags(m, admin)
		expect("up again", interfaces.SwInterfaceEvent{SwIfIndex: m, Flags: admin | link})
		carry(t, near, far)
		must(t, second(memifapi.NewServiceClient(conn).MemifDelete(timeout(t), &memifapi.MemifDelete{SwIfIndex: m})))
		expect("deleted", interfaces.SwInterfaceEvent{SwIfIndex: m, Deleted: true})
		<-near.Done()
		if _, err := (memif.Slave{Address: toMaster}).Connect(timeout(t)); err == nil {
			t.Error("VPP listens on though the interface is gone")
		}
		near.Close()
		must(t, second(memifapi.NewServiceClient(conn).MemifDelete(timeout(t), &memifapi.MemifDelete{SwIfIndex: s})))
		<-far.Done()
	})
}
