package vppapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"

	"highwire/vppapi/fault"
)

// MinPcapBytes is how much of a packet VPP records at least.
const MinPcapBytes = 32

// MaxPcapBytes is how much of a packet VPP can record.
const MaxPcapBytes = 9000

// pcapDir is where VPP writes its captures; it takes names of files and no paths.
const pcapDir = "/tmp"

// Packet is one recorded packet.
type Packet struct {
	Time time.Time
	// Length is that on the wire; Data may be shorter.
	Length int
	Data   []byte
}

// Pcap is VPP's capture at work. There is one in each VPP, of one interface.
type Pcap struct {
	c    *Conn
	file string
}

// StartPcap lets VPP record what the interface receives and sends (pcap_trace_on): count packets at most, which stay in VPP's
// memory until Stop, and of each bytes at most, MinPcapBytes to MaxPcapBytes. An interface of bare IP packets shows only what it
// sends: VPP records receipts in a node for Ethernet. fault.Conflict if VPP is recording already.
func (c *Conn) StartPcap(ctx context.Context, index, count, bytes uint32) (*Pcap, error) {
	p := &Pcap{c: c, file: filepath.Join(pcapDir, "highwire-"+rand.Text()+".pcap")}
	// Made here, so that nobody else may read what VPP writes to it.
	f, err := os.OpenFile(p.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("file for VPP's capture: %w", err)
	}
	_ = f.Close()
	err = c.all(ctx, call{
		req: &interfaces.PcapTraceOn{
			CaptureRx: true, CaptureTx: true, MaxPackets: count, MaxBytesPerPacket: bytes,
			SwIfIndex: interface_types.InterfaceIndex(index), Filename: filepath.Base(p.file),
		},
		means: map[api.VPPApiError]error{
			api.INVALID_VALUE: fault.New(fault.Conflict, "VPP records packets already, and does so for one at a time; end it with 'pcap trace off'"),
		},
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(p.file))
	}
	return p, nil
}

// Stop ends the recording and returns the packets in order (pcap_trace_off). Nothing of it is left, in VPP or on disk.
func (p *Pcap) Stop(ctx context.Context) ([]Packet, error) {
	err := p.c.all(ctx, call{req: &interfaces.PcapTraceOff{}, also: []api.VPPApiError{api.NO_SUCH_ENTRY}}) // no packet came
	data, err2 := os.ReadFile(p.file)
	if err := errors.Join(err, err2, os.Remove(p.file)); err != nil {
		return nil, fmt.Errorf("VPP's capture: %w", err)
	}
	return readPcap(data)
}

// readPcap reads a file as VPP writes it; an empty one has no packets.
func readPcap(data []byte) ([]Packet, error) {
	if len(data) == 0 {
		return nil, nil
	}
	r, err := pcapgo.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read VPP's capture: %w", err)
	}
	var packets []Packet
	for {
		b, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read VPP's capture: packet %d: %w", len(packets)+1, err)
		}
		packets = append(packets, Packet{info.Timestamp, info.Length, b})
	}
}
