package vppapi

import (
	"os"
	"testing"
	"time"

	"highwire/vppapi/fault"
)

var someNames = interfaceNames{
	software: map[int]string{1: "host-a", 2: "memif1/0", 3: "vxlan_tunnel0"},
	hardware: map[int]string{4: "host-a", 5: "memif1/0"},
}

// Texts as VPP 25.10 prints them.
const (
	passed = `
00:01:02:000003: af-packet-input
  af_packet: hw_if_index 4 rx-queue 0 next-index 4
    tpacket3_hdr:
      status 0x1 len 98
00:01:02:000013: ethernet-input
  frame: flags 0x1, hw-if-index 4, sw-if-index 1
  IP4: 02:00:00:00:00:01 -> 02:00:00:00:00:02
01:01:02:000003: memif1/0-output
  memif1/0 flags 0x00180005
00:01:02:000023: no-such-interface-output
`
	dropped = `
00:00:00:000001: memif-input
  memif: hw_if_index 5 next-index 4
    slot: ring 0
00:00:00:000002: error-drop
  rx:memif1/0
00:00:00:000003: drop
  ethernet-input: l3 mac mismatch
`
)

func TestParseTrace(t *testing.T) {
	t.Parallel()
	got := someNames.parse(passed)
	if s := got.String(); s != "af-packet-input(host-a) > ethernet-input(host-a) > memif1/0-output(memif1/0) > no-such-interface-output" {
		t.Error(s)
	}
	if got[1].At != 62*time.Second+13*time.Microsecond || got[2].At-got[0].At != time.Hour {
		t.Errorf("times %v, %v", got[1].At, got[2].At)
	}
	if got[0].Detail != "af_packet: hw_if_index 4 rx-queue 0 next-index 4\ntpacket3_hdr:\nstatus 0x1 len 98" || got.Dropped() != "" {
		t.Errorf("%q, dropped %q", got[0].Detail, got.Dropped())
	}
	got = someNames.parse(dropped)
	if s := got.String(); s != "memif-input(memif1/0) > error-drop(memif1/0) > drop" || got.Dropped() != "ethernet-input: l3 mac mismatch" {
		t.Errorf("%s, dropped %q", s, got.Dropped())
	}
	for _, text := range []string{"", "\n", "nonsense", "00:00:00:000001:", "  indented only"} {
		if got := someNames.parse(text); len(got) != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add(passed)
	f.Add(dropped)
	f.Fuzz(func(t *testing.T, text string) {
		for _, h := range someNames.parse(text) {
			if h.Node == "" || h.At < 0 {
				t.Errorf("%+v", h)
			}
		}
	})
}

func FuzzReadPcap(f *testing.F) {
	header := "\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00"
	f.Add([]byte(header))
	f.Add([]byte(header + "\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x09\x00\x00\x00abc"))
	f.Fuzz(func(t *testing.T, file []byte) {
		packets, err := readPcap(file)
		for _, p := range packets {
			if err == nil && len(p.Data) > p.Length {
				t.Errorf("%d of %d bytes", len(p.Data), p.Length)
			}
		}
	})
}

// A VPP without a thing says so, and one that records already keeps what it has.
func TestTracerAndPcapErrors(t *testing.T) {
	t.Parallel()
	p := newPocket(t, 0, nil)
	c := p.dial(t)
	ctx := within(t, 30*time.Second)
	tracer, err := c.StartTrace(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if name := tracer.Interface(0); name != "local0" {
		t.Errorf("interface 0 is %q", name)
	}
	if got, err := tracer.Read(ctx); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if err := tracer.Stop(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.StartPcap(ctx, 0, 10, MinPcapBytes-1); err == nil {
		t.Error("too few bytes are accepted")
	}
	if _, err := c.StartPcap(ctx, 77, 10, 100); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such interface: %v", err)
	}
	first, err := c.StartPcap(ctx, 0, 10, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartPcap(ctx, 0, 10, 100); !fault.Is(err, fault.Conflict) {
		t.Errorf("second capture: %v", err)
	}
	if got, err := first.Stop(ctx); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if left, err := os.Stat(first.file); err == nil {
		t.Errorf("left behind: %s", left.Name())
	}
	if _, err := first.Stop(ctx); err == nil {
		t.Error("a capture stops twice")
	}
}
