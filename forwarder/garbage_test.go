package forwarder_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif/peer"
)

// A memif message is 128 bytes and begins with its type.
const (
	memifHello     = 2
	memifInit      = 3
	memifAddRegion = 4
	memifAddRing   = 5
	memifConnect   = 6
)

func memifMessage(kind uint16, body ...any) []byte {
	b := bytes.NewBuffer(nil)
	for _, v := range append([]any{kind}, body...) {
		_ = binary.Write(b, binary.LittleEndian, v) // a buffer takes everything
	}
	return append(b.Bytes(), make([]byte, 128-b.Len())...)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// initMessage is a right INIT of version 2.0 for interface 0 in Ethernet mode.
func initMessage() []byte { return memifMessage(memifInit, uint16(0x200), uint32(0), uint8(0)) }

// rudeClients are what applications say that connect and do not mean it; then they hang up.
var rudeClients = map[string][][]byte{
	"garbage":             {randomBytes(128)},
	"garbage after INIT":  {initMessage(), randomBytes(128)},
	"another version":     {memifMessage(memifInit, uint16(0x999))},
	"a ring of no region": {initMessage(), memifMessage(memifAddRing, uint16(1), uint16(0), uint16(7), uint32(0), uint8(20), uint16(0)), memifMessage(memifConnect)},
	"a region of nothing": {initMessage(), memifMessage(memifAddRegion, uint16(0), uint64(1)<<40)},
	"CONNECT at once":     {initMessage(), memifMessage(memifConnect)},
	"two INITs":           {initMessage(), initMessage()},
	"nothing":             {},
	"two bytes":           {{1, 2}},
	"too many":            {randomBytes(1000)},
	"half a message":      {initMessage()[:64]},
	"nothing at last":     {initMessage()},
}

// rudeEndpoints are what masters say to who connects. VPP comes every three seconds.
var rudeEndpoints = map[string][][]byte{
	"garbage":             {randomBytes(128)},
	"two bytes":           {{1, 2}},
	"garbage after HELLO": {memifMessage(memifHello, [32]byte{}, uint16(0x200), uint16(0x200), uint16(3), uint16(3), uint16(3), uint8(14)), randomBytes(128)},
}

// speak sends the messages, takes what comes back, and hangs up.
func speak(c *net.UnixConn, messages [][]byte) {
	defer c.Close()
	answers := make([]byte, 256)
	for _, m := range messages {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // whether there is an answer does not matter
		_, _, _, _, _ = c.ReadMsgUnix(answers, make([]byte, unix.CmsgSpace(16)))
		if _, err := c.Write(m); err != nil {
			return
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _, _, _, _ = c.ReadMsgUnix(answers, make([]byte, unix.CmsgSpace(16)))
}

// TestMemifGarbage: applications that speak garbage at either end of a memif vWire, or hang up in the handshake, harm nobody else:
// the stream through another vWire stays whole, and who speaks properly afterwards is served.
func TestMemifGarbage(t *testing.T) {
	onDataplanes(t, func(t *testing.T, d *dataplane) {
		if d.backing != kernel.Veth {
			t.Skip("no kernel interfaces here")
		}
		for _, way := range []string{"through", "guarded", "direct"} {
			t.Run(way, func(t *testing.T) {
				d.memifDirect, d.memifGuard = way == "direct", ""
				if way == "guarded" {
					d.memifGuard = filepath.Dir(d.socket)
				}
				if d.name == "VPP" && way == "through" {
					t.Skip("VPP 25.10 dies of peers that hang up in the handshake, see package memif")
				}
				defer d.start(t)()
				a := d.agent(t, filepath.Join(t.TempDir(), "journal"), 0)
				defer a.stop()
				garbage(t, a)
			})
		}
	})
}

func garbage(t *testing.T, a *agent) {
	ctx := within(t, 2*time.Minute)
	p := newPair(t)
	good := memifVWire(t, "good", p, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
	far, _ := occupy(t, good.Endpoint, p.endpoint)
	near, probe := occupy(t, good.Client, p.client)
	a.setHeld(t, p, good)
	awaitLink(t, near, far)
	reachable(ctx, t, probe, families["ip4"][1])
	before := far.Counters().RxPackets
	streaming, stop := context.WithCancel(ctx)
	defer stop()
	sent := make(chan uint64, 1)
	go func() {
		n, _ := near.Generate(streaming, peer.Traffic{To: families["ip4"][1][0].Addr(), Size: 100, Rate: 1000}) // ends with its context
		sent <- n
	}()

	q := newPair(t)
	bad := memifVWire(t, "bad", q, memifKinds["memif-memif"], mechanisms.Ethernet, families["ip4"])
	listener := listenIn(t, q.endpoint, bad.Endpoint.Params[mechanisms.ParamSocket])
	a.setHeld(t, q, bad)
	for name, messages := range rudeEndpoints {
		connected := make(chan bool, 1)
		go func() { // whoever is in the middle dials, or dials only when a client comes
			c, err := listener.AcceptUnix()
			if err == nil {
				speak(c, messages)
			}
			connected <- err == nil
		}()
		for asked := false; !asked; {
			speak(dialIn(t, q.client, bad.Client.Params[mechanisms.ParamSocket]), [][]byte{memifMessage(memifInit, uint16(0x999))})
			select {
			case ok := <-connected:
				if asked = true; !ok {
					t.Fatalf("%s: nobody dialed the endpoint", name)
				}
			default:
			}
		}
	}
	_ = listener.Close()
	for name, messages := range rudeClients {
		speak(dialIn(t, q.client, bad.Client.Params[mechanisms.ParamSocket]), messages)
		if c, err := a.VPP(); err != nil || c.Err() != nil {
			t.Fatalf("%s: VPP is gone", name)
		}
	}

	// Now properly.
	app, _ := occupy(t, bad.Endpoint, q.endpoint)
	other, probeOther := occupy(t, bad.Client, q.client)
	awaitLink(t, app, other)
	reachable(ctx, t, probeOther, families["ip4"][1])
	stop()
	n := <-sent
	reachable(ctx, t, probe, families["ip4"][1]) // the last packets are through as well
	if got := far.Counters().RxPackets - before; n == 0 || got < n {
		t.Errorf("of %d packets through another vWire %d arrived", n, got)
	}
	a.explain(ctx, t)
	for _, id := range []string{"good", "bad"} {
		if err := a.Delete(ctx, id); err != nil {
			t.Error(err)
		}
	}
	a.nothingLeft(ctx, t)
}

func listenIn(t *testing.T, n *lab.Namespace, name string) (l *net.UnixListener) {
	t.Helper()
	if err := n.Do(func() (err error) {
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: name})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

func dialIn(t *testing.T, n *lab.Namespace, name string) (c *net.UnixConn) {
	t.Helper()
	if err := n.Do(func() (err error) {
		c, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: name})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return c
}
