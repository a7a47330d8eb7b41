package packets

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/cmd/lab"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wire(id, client, endpoint string, addresses ...string) forwarder.Status {
	s := forwarder.Status{VWire: forwarder.VWire{ID: id}}
	s.VWire.Client = mechanisms.End{VWire: id, Side: mechanisms.Client, Type: client}
	s.VWire.Endpoint = mechanisms.End{VWire: id, Side: mechanisms.Endpoint, Type: endpoint}
	for i, a := range addresses {
		end := []*mechanisms.End{&s.VWire.Client, &s.VWire.Endpoint}[i%2]
		end.Addresses = append(end.Addresses, netip.MustParsePrefix(a))
	}
	return s
}

func TestFind(t *testing.T) {
	t.Parallel()
	s := New(Config{VWires: func() []forwarder.Status {
		return []forwarder.Status{wire("ab", "", ""), wire("abc", "", ""), wire("abd", "", ""), wire("x-1", "", "")}
	}})
	for id, want := range map[string]string{"ab": "ab", "abc": "abc", "x": "x-1"} {
		if got, err := s.find(id); err != nil || got.VWire.ID != want {
			t.Errorf("%s: %s, %v", id, got.VWire.ID, err)
		}
	}
	if _, err := s.find("y"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if _, err := s.find("a"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "ab and abc") {
		t.Error(err)
	}
}

// A trace is told by the ends it goes by; one that goes by neither is somebody else's.
func TestTraced(t *testing.T) {
	t.Parallel()
	ends := map[string]mechanisms.Side{"host-a": mechanisms.Client, "vxlan_tunnel0": mechanisms.Endpoint}
	hop := func(node, iface, detail string) vppapi.TraceHop {
		return vppapi.TraceHop{Node: node, Interface: iface, Detail: detail}
	}
	for name, c := range map[string]struct {
		trace             vppapi.Trace
		from, to, dropped string
		others            bool
	}{
		"out by a tunnel": {trace: vppapi.Trace{hop("af-packet-input", "host-a", "x"), hop("ethernet-input", "", ""), hop("l2-output", "vxlan_tunnel0", ""),
			hop("vxlan4-encap", "", ""), hop("host-uplink-output", "host-uplink", "")}, from: "client", to: "endpoint"},
		"in by a tunnel": {trace: vppapi.Trace{hop("af-packet-input", "host-uplink", "x"), hop("l2-input", "vxlan_tunnel0", ""), hop("host-a-output", "host-a", "")},
			from: "endpoint", to: "client"},
		"dropped": {trace: vppapi.Trace{hop("af-packet-input", "host-a", "x"), hop("l2-output", "vxlan_tunnel0", ""), hop("error-drop", "host-a", "rx:host-a"),
			hop("drop", "", "l2-output: interface is down")}, from: "client", dropped: "l2-output: interface is down"},
		"somebody else's": {trace: vppapi.Trace{hop("af-packet-input", "host-b", "x"), hop("host-c-output", "host-c", "")}, others: true},
	} {
		got := traced(c.trace, ends)
		if c.others {
			if got != nil {
				t.Errorf("%s: %v", name, got)
			}
			continue
		}
		if got.GetFrom() != c.from || got.GetTo() != c.to || got.GetDropped() != c.dropped || len(got.GetHops()) != len(c.trace) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestProber(t *testing.T) {
	t.Parallel()
	const kernel, memif = mechanisms.Kernel, mechanisms.Memif
	for name, c := range map[string]struct {
		wire  forwarder.Status
		from  mechanisms.Side
		fails string
	}{
		"kernels":             {wire("w", kernel, kernel, "10.0.0.1/32", "10.0.0.2/32"), mechanisms.Client, ""},
		"client is a memif":   {wire("w", memif, kernel, "10.0.0.1/32", "10.0.0.2/32"), mechanisms.Endpoint, ""},
		"endpoint is a memif": {wire("w", kernel, memif, "fd00::1/128", "fd00::2/128"), mechanisms.Client, ""},
		"memifs":              {wire("w", memif, memif, "10.0.0.1/32", "10.0.0.2/32"), "", "no kernel interface"},
		"two families":        {wire("w", kernel, kernel, "10.0.0.1/32", "fd00::2/128"), "", "no pair of addresses"},
		"no addresses":        {wire("w", kernel, kernel), "", "no pair of addresses"},
	} {
		from, to, err := prober(c.wire)
		switch {
		case c.fails != "":
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || from.Side != c.from || to.Side != c.from.Other():
			t.Errorf("%s: %s to %s, %v", name, from.Side, to.Side, err)
		}
	}
}

func TestAlone(t *testing.T) {
	t.Parallel()
	held := make(chan struct{}, 1)
	release, err := alone(held, "it")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone(held, "it"); !fault.Is(err, fault.Conflict) {
		t.Error(err)
	}
	release()
	if release, err = alone(held, "it"); err != nil {
		t.Fatal(err)
	}
	release()
}

// What an agent tells out of order is no file, and no panic.
func TestFile(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	f := File{W: &b, Application: "test", VWire: "w", Filter: "tcp"}
	packet := &highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Packet{Packet: &highwirev1.CapturedPacket{
		Time: timestamppb.New(time.Unix(1, 5)), Length: 100, Data: make([]byte, 60),
	}}}
	statistics := &highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Statistics{Statistics: &highwirev1.CaptureStatistics{Captured: 1, Lost: 2}}}
	for _, e := range []*highwirev1.CaptureEvent{packet, statistics} {
		if err := f.Add(e); err == nil {
			t.Error("an event of no point is taken")
		}
	}
	if f.Point(0) != nil {
		t.Error("a point from nowhere")
	}
	point := &highwirev1.CaptureEvent{Event: &highwirev1.CaptureEvent_Point{Point: &highwirev1.CapturePoint{End: "client", Interface: "nsm-1", Source: "vpp", LinkType: 101, Limits: "few"}}}
	for _, e := range []*highwirev1.CaptureEvent{point, packet, statistics, {}} {
		if err := f.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	data, info, err := r.ReadPacketData()
	if err != nil || len(data) != 60 || info.Length != 100 || !info.Timestamp.Equal(time.Unix(1, 5)) {
		t.Errorf("%d bytes, %+v, %v", len(data), info, err)
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	i, err := r.Interface(0)
	if err != nil || i.Name != "client nsm-1" || i.Filter != "tcp" || i.Comment != "few" || i.Statistics.PacketsDropped != 2 || i.Statistics.PacketsReceived != 3 {
		t.Errorf("%+v, %v", i, err)
	}
}

// A socket gives the VLAN tag back that the kernel takes out, times packets, and ends with what came before its end.
func TestSocket(t *testing.T) {
	t.Parallel()
	n, err := lab.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var k *socket
	var sender net.PacketConn
	err = n.Do(func() (err error) {
		if _, err := newSocket("none"); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
		if k, err = newSocket("lo"); err == nil {
			sender, err = net.ListenPacket("udp", "127.0.0.1:0")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	defer sender.Close()
	if _, err := sender.WriteTo([]byte("hello"), sender.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	var got []vppapi.Packet
	lost, err := k.run(t.Context(), func(p vppapi.Packet) error {
		got = append(got, p)
		return io.EOF
	})
	if err != nil || lost != 0 || len(got) != 1 || !bytes.HasSuffix(got[0].Data, []byte("hello")) || got[0].Length != len(got[0].Data) || time.Since(got[0].Time).Abs() > 10*time.Minute {
		t.Errorf("%+v, %d lost, %v", got, lost, err)
	}
	tagged := vppapi.Packet{Length: 14, Data: []byte("dstdstsrcsrcXX")}
	insertTag(&tagged, unix.TpacketAuxdata{Vlan_tci: 7})
	if !slices.Equal(tagged.Data, []byte("dstdstsrcsrc\x81\x00\x00\x07XX")) || tagged.Length != 18 {
		t.Errorf("%q", tagged.Data)
	}
	short := vppapi.Packet{Data: []byte("short")}
	if insertTag(&short, unix.TpacketAuxdata{}); len(short.Data) != 5 {
		t.Errorf("%q", short.Data)
	}
}
