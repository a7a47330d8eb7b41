package pocketvpp

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
)

// pcapDir is where VPP puts captures; it takes names and no paths.
const pcapDir = "/tmp"

// pcapTrace is VPP's one capture: what enters as a frame, and what leaves. It is kept in memory and written when it ends.
type pcapTrace struct {
	on atomic.Bool

	mu     sync.Mutex
	rx, tx bool
	index  uint32 // of the interface, 0 for any
	max    uint32
	bytes  uint32 // of each packet
	file   string
	count  uint32
	data   []byte
}

func (s *Server) pcapMessages(t *table) {
	request(t, func(_ *call, q *interfaces.PcapTraceOn) (p interfaces.PcapTraceOnReply) {
		p.Retval = int32(s.pcapOn(q))
		return p
	})
	request(t, func(_ *call, _ *interfaces.PcapTraceOff) (p interfaces.PcapTraceOffReply) {
		p.Retval = int32(s.pcapOff())
		return p
	})
}

func (s *Server) pcapOn(q *interfaces.PcapTraceOn) api.VPPApiError {
	if q.Filename == "" || strings.Contains(q.Filename, "..") || strings.Contains(q.Filename, "/") {
		return api.ILLEGAL_NAME
	}
	if i, _ := s.find(q.SwIfIndex); i == nil {
		return api.INVALID_SW_IF_INDEX
	}
	switch {
	case !q.CaptureRx && !q.CaptureTx:
		return s.pcapOff()
	case s.pcap.on.Load():
		return api.INVALID_VALUE
	case q.MaxBytesPerPacket < 32 || q.MaxBytesPerPacket > 9000:
		return api.INVALID_MEMORY_SIZE
	}
	c := &s.pcap
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rx, c.tx, c.index, c.max, c.bytes = q.CaptureRx, q.CaptureTx, uint32(q.SwIfIndex), q.MaxPackets, q.MaxBytesPerPacket
	c.file, c.count, c.data = filepath.Join(pcapDir, q.Filename), 0, nil
	c.on.Store(true)
	return 0
}

func (s *Server) pcapOff() api.VPPApiError {
	c := &s.pcap
	if !c.on.Swap(false) {
		return api.VALUE_EXIST
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		return api.NO_SUCH_ENTRY
	}
	// The header of a pcap file: magic, version 2.4, time zone, accuracy, longest packet, Ethernet.
	header := binary.NativeEndian.AppendUint32(nil, 0xa1b2c3d4)
	header = binary.NativeEndian.AppendUint16(header, 2)
	header = binary.NativeEndian.AppendUint16(header, 4)
	for _, v := range []uint32{0, 0, 1 << 16, 1} {
		header = binary.NativeEndian.AppendUint32(header, v)
	}
	if err := os.WriteFile(c.file, append(header, c.data...), 0o664); err != nil {
		s.log.Warn("pcap", "file", c.file, "error", err)
		return api.SYSCALL_ERROR_1
	}
	c.data = nil
	return 0
}

// received keeps a frame that entered; as in VPP that is ethernet-input's work, which packets without a frame do not come by.
func (c *pcapTrace) received(in *iface, p *packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rx && in.eth {
		c.keep(in, p)
	}
}

func (c *pcapTrace) sent(out *iface, p *packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tx {
		c.keep(out, p)
	}
}

func (c *pcapTrace) keep(i *iface, p *packet) {
	if c.index != 0 && c.index != i.index || c.count >= c.max || !c.on.Load() {
		return
	}
	now, b := time.Now(), p.bytes()
	kept := b[:min(len(b), int(c.bytes))]
	for _, v := range []uint32{uint32(now.Unix()), uint32(now.Nanosecond() / 1000), uint32(len(kept)), uint32(len(b))} {
		c.data = binary.NativeEndian.AppendUint32(c.data, v)
	}
	c.data = append(c.data, kept...)
	c.count++
}
