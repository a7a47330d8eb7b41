package memif

import (
	"sync/atomic"
	"unsafe"
)

// A ring in shared memory, little-endian like every machine it runs on: cookie u32, flags u16, head u16; at 64 tail u16; at
// 128 the descriptors. The slave moves head, the master tail. From slave to master head is what was sent and tail what was
// taken; from master to slave head is buffers offered and tail what was sent in them.
const (
	ringCookie     = 0x3E31F20
	ringHead       = 4 // the word of flags and head
	ringTail       = 64
	ringHeader     = 128
	descriptorSize = 16
	// maskInterrupt in a ring's flags: its reader looks by itself.
	maskInterrupt = 1
	// chained marks a descriptor whose packet goes on in the next.
	chained = 1
)

func ringBytes(size int) int { return ringHeader + size*descriptorSize }

type descriptor struct {
	flags, region            uint16
	length, offset, metadata uint32
}

// ring is one ring and the memory that its descriptors point into. size is a power of two.
type ring struct {
	mem     []byte
	size    uint16
	regions [][]byte
}

func (r *ring) word(offset int) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[offset])) }

func (r *ring) cookie() uint32 { return atomic.LoadUint32(r.word(0)) }

func (r *ring) head() uint16 { return uint16(atomic.LoadUint32(r.word(ringHead)) >> 16) }

// setHead leaves the flags, which the reader may be changing, as they are.
func (r *ring) setHead(head uint16) {
	w := r.word(ringHead)
	for {
		old := atomic.LoadUint32(w)
		if atomic.CompareAndSwapUint32(w, old, uint32(head)<<16|old&0xffff) {
			return
		}
	}
}

func (r *ring) tail() uint16 { return uint16(atomic.LoadUint32(r.word(ringTail))) }

// setTail also writes the two unused bytes after it.
func (r *ring) setTail(tail uint16) { atomic.StoreUint32(r.word(ringTail), uint32(tail)) }

// wantsInterrupt tells whether the reader sleeps until its eventfd is written.
func (r *ring) wantsInterrupt() bool {
	return atomic.LoadUint32(r.word(ringHead))&maskInterrupt == 0
}

func (r *ring) at(slot uint16) *descriptor {
	return (*descriptor)(unsafe.Pointer(&r.mem[ringHeader+int(slot&(r.size-1))*descriptorSize]))
}

// bytes is the memory that a descriptor points to, or nil if that is not all in its region.
func (r *ring) bytes(region uint16, offset, length uint32) []byte {
	if int(region) >= len(r.regions) {
		return nil
	}
	mem := r.regions[region]
	end := uint64(offset) + uint64(length)
	if end > uint64(len(mem)) {
		return nil
	}
	return mem[offset:end:end]
}
