package pocketvpp

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	l3xcapi "go.fd.io/govpp/binapi/l3xc"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/codec"
)

// harmless is a server whose requests make nothing outside of it, with a client that has said hello.
func harmless(t testing.TB) (*Server, *client) {
	making := map[string]bool{
		"tap_create_v3": true, "af_packet_create_v3": true, "memif_create_v2": true, "memif_socket_filename_add_del_v2": true,
	}
	s, err := New(Config{Socket: "unused", Logger: slog.New(slog.DiscardHandler), Fault: func(name string) (int32, bool) {
		return map[bool]int32{true: -1}[making[name]], false
	}})
	must(t, err)
	local, remote := net.Pipe()
	t.Cleanup(func() { _, _ = local.Close(), remote.Close() })
	c := s.addClient(local)
	hello, err := codec.EncodeMsg(&memclnt.SockclntCreate{Name: "fuzz"}, sockclntCreateID)
	must(t, err)
	must(t, s.serve(c, hello))
	return s, c
}

// FuzzServe feeds a stream of frames: none may bring the server down, and it goes on to serve.
func FuzzServe(f *testing.F) {
	s, c := harmless(f)
	for _, m := range []api.Message{
		&memclnt.ControlPing{}, &interfaces.SwInterfaceDump{NameFilterValid: true, NameFilter: "x"}, &vlib.CliInband{Cmd: "show interface"},
		&interfaces.SwInterfaceSetFlags{Flags: 1}, &l3xcapi.L3xcUpdate{L3xc: l3xcapi.L3xc{NPaths: 1, Paths: make([]fib_types.FibPath, 1)}},
	} {
		data, err := codec.EncodeMsg(m, s.table.declare(m))
		must(f, err)
		binary.BigEndian.PutUint32(data[2:], c.handle())
		f.Add(appendFrame(appendFrame(nil, data), data[:len(data)-1]))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, stream []byte) {
		s, c := harmless(t)
		r, buf := bytes.NewReader(stream), []byte(nil)
		for {
			msg, err := readFrame(r, &buf)
			if err != nil || s.serve(c, msg) != nil {
				break
			}
		}
		if left, _ := io.ReadAll(r); len(left) > len(stream) {
			t.Fatal("read past the end")
		}
		if i, ok := s.ifaces.get(0); !ok || i.name != "local0" {
			t.Fatal("local0 is gone")
		}
	})
}

// sink is a port that keeps what it gets.
type sink struct{ got [][]byte }

func (s *sink) transmit(p *packet) error {
	if err := p.settle(false, false); err != nil {
		return err
	}
	s.got = append(s.got, bytes.Clone(p.wire()))
	return nil
}
func (*sink) setAdmin(up bool) (bool, error) { return up, nil }
func (*sink) close()                         {}

// FuzzForward feeds packets with their offload header to interfaces that are cross-connected in every way.
func FuzzForward(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), append(make([]byte, offloadHeader+12), 8, 0, 0x45))
	f.Add(uint8(2), append([]byte{1, 1, 54, 0, 0xff, 0xff, 34, 0, 16, 0}, make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		s, _ := harmless(t)
		in, out := &iface{name: "in", eth: kind&1 == 0, port: &sink{}}, &iface{name: "out", eth: kind&2 == 0, port: &sink{}, mtu: [4]uint32{1500}}
		s.addIface(in)
		s.addIface(out)
		in.admin, out.admin = true, true
		if kind&4 == 0 {
			in.xconnect = out
		} else {
			for _, proto := range []fib_types.FibPathNhProto{0, 1} {
				hop := fib_types.FibPath{SwIfIndex: out.index, Proto: proto}
				s.updateL3xc(in, ipVersion(proto), []fib_types.FibPath{hop})
				out.neighbors[pathAddr(hop)] = neighbor{}
			}
		}
		p := newPacket()
		if n := copy(p.receiveBuffer(), data); p.received(n) == nil {
			s.input(in, p)
		}
		for _, sent := range out.port.(*sink).got {
			if len(sent) > len(data)+ethernetHeader {
				t.Fatalf("%d bytes became %d", len(data), len(sent))
			}
		}
	})
}
