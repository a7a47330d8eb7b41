package stats

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// version is the format described in doc.go (STAT_SEGMENT_VERSION).
const version = 2

// Offsets in the header.
const (
	atVersion    = 0
	atBase       = 8
	atEpoch      = 16
	atInProgress = 24
	atDirectory  = 32
	headerBytes  = 40
)

// Offsets in an entry of the directory.
const (
	inType     = 0
	inValue    = 8
	inName     = 16
	entryBytes = 144
)

// kind is what an entry holds (stat_directory_type_t).
type kind uint32

const (
	scalar   kind = 1
	simple   kind = 2
	combined kind = 3
	names    kind = 4
	symlink  kind = 6
)

// vectorHeader lies before the elements of a vector; its first 32 bits are their number.
const vectorHeader = 8

// order is VPP's byte order: that of the machine.
var order = binary.NativeEndian

// word is the 64-bit word at an offset of mapped memory, to be read and written while the other side does.
func word(mem []byte, at int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&mem[at]))
}

// counted are the counters of interfaces that are read: entry, and where its values belong.
var counted = []struct {
	entry   string
	packets func(*Counters) *uint64
	bytes   func(*Counters) *uint64 // nil for simple counters
}{
	{"/if/rx", func(c *Counters) *uint64 { return &c.RxPackets }, func(c *Counters) *uint64 { return &c.RxBytes }},
	{"/if/tx", func(c *Counters) *uint64 { return &c.TxPackets }, func(c *Counters) *uint64 { return &c.TxBytes }},
	{"/if/drops", func(c *Counters) *uint64 { return &c.Drops }, nil},
	{"/if/punt", func(c *Counters) *uint64 { return &c.Punts }, nil},
	{"/if/rx-error", func(c *Counters) *uint64 { return &c.RxErrors }, nil},
	{"/if/rx-miss", func(c *Counters) *uint64 { return &c.RxMisses }, nil},
	{"/if/rx-no-buf", func(c *Counters) *uint64 { return &c.RxNoBuffers }, nil},
	{"/if/tx-error", func(c *Counters) *uint64 { return &c.TxErrors }, nil},
}
