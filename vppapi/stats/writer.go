package stats

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// maxInterfaces bounds those that a Writer shows. Memory is taken only where something is written.
	maxInterfaces = 16384
	nameBytes     = 64
	writerBytes   = 4 << 20
	// writerBase stands for the address at which VPP would have the memory.
	writerBase = 1 << 32
	align      = 64
)

// Writer makes a stats segment as VPP does, with one thread. Its methods are safe for concurrent use.
type Writer struct {
	fd  int
	mem []byte

	mu       sync.Mutex
	free     int // where the next vector goes
	entries  int
	names    int            // offset of the vector of names
	counters map[string]int // offsets of the vectors of counters
	errors   map[string]*atomic.Uint64
	pool     [3]*atomic.Uint64
}

// Live are counters of one interface in the segment.
type Live struct {
	RxPackets, RxBytes, TxPackets, TxBytes, Drops, TxErrors *atomic.Uint64
}

// NewWriter makes a segment with no interfaces, one buffer pool of that name, and a counter for each error ("NODE/NAME").
// The segment lives as long as the Writer or a client's mapping.
func NewWriter(pool string, errors []string) (*Writer, error) {
	fd, err := unix.MemfdCreate("stat segment", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("stats segment: %w", err)
	}
	if err := unix.Ftruncate(fd, writerBytes); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("stats segment: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, writerBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("stats segment: %w", err)
	}
	w := &Writer{fd: fd, mem: mem, free: align, counters: make(map[string]int), errors: make(map[string]*atomic.Uint64)}
	// Counters are written by whoever still holds them, so the memory goes with the last of them.
	runtime.AddCleanup(w, func(fd int) { _, _ = unix.Munmap(mem), unix.Close(fd) }, fd)
	w.layOut(pool, errors)
	return w, nil
}

// layOut writes header and directory.
func (w *Writer) layOut(pool string, errors []string) {
	word(w.mem, atVersion).Store(version)
	word(w.mem, atBase).Store(writerBase)
	word(w.mem, atEpoch).Store(1)
	directory := w.vector(0, entryBytes*(16+len(errors)))
	word(w.mem, atDirectory).Store(writerBase + uint64(directory))
	add := func(k kind, name string, value uint64) *atomic.Uint64 {
		e := directory + w.entries*entryBytes
		w.entries++
		order.PutUint32(w.mem[directory-vectorHeader:], uint32(w.entries))
		order.PutUint32(w.mem[e+inType:], uint32(k))
		copy(w.mem[e+inName:e+entryBytes-1], name)
		v := word(w.mem, e+inValue)
		v.Store(value)
		return v
	}
	w.names = w.vector(0, 8*maxInterfaces)
	add(names, "/if/names", writerBase+uint64(w.names))
	for _, c := range counted {
		k, size := simple, 8
		if c.bytes != nil {
			k, size = combined, 16
		}
		w.counters[c.entry] = w.vector(0, size*maxInterfaces)
		add(k, c.entry, w.oneThread(w.counters[c.entry]))
	}
	for i, what := range []string{"available", "cached", "used"} {
		w.pool[i] = add(scalar, poolPrefix+pool+"/"+what, 0)
	}
	counts := w.vector(len(errors), 8*len(errors))
	target := w.entries
	add(simple, "/node/errors", w.oneThread(counts))
	for i, name := range errors {
		add(symlink, errorPrefix+name, uint64(target)|uint64(i)<<32)
		w.errors[name] = word(w.mem, counts+8*i)
	}
}

// vector takes room for a vector of at most that many bytes and returns the offset of its first element.
func (w *Writer) vector(length, room int) int {
	at := w.free + align
	w.free = (at + room + align - 1) &^ (align - 1)
	order.PutUint32(w.mem[at-vectorHeader:], uint32(length))
	return at
}

// oneThread is a pointer to a vector by thread that holds one.
func (w *Writer) oneThread(vector int) uint64 {
	outer := w.vector(1, 8)
	word(w.mem, outer).Store(writerBase + uint64(vector))
	return writerBase + uint64(outer)
}

// change runs fn as VPP moves things.
func (w *Writer) change(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	word(w.mem, atInProgress).Store(1)
	fn()
	word(w.mem, atEpoch).Add(1)
	word(w.mem, atInProgress).Store(0)
}

// Add shows an interface under its sw_if_index, and returns its counters, set to zero. What finds no room is counted, and
// not shown.
func (w *Writer) Add(index uint32, name string) Live {
	if index >= maxInterfaces {
		return Live{new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64)}
	}
	w.change(func() {
		for _, c := range counted {
			w.grow(w.counters[c.entry], index+1)
			w.counter(c.entry, index, 0).Store(0)
			if c.bytes != nil {
				w.counter(c.entry, index, 8).Store(0)
			}
		}
		w.grow(w.names, index+1)
		w.setName(index, name)
	})
	return Live{
		RxPackets: w.counter("/if/rx", index, 0), RxBytes: w.counter("/if/rx", index, 8),
		TxPackets: w.counter("/if/tx", index, 0), TxBytes: w.counter("/if/tx", index, 8),
		Drops: w.counter("/if/drops", index, 0), TxErrors: w.counter("/if/tx-error", index, 0),
	}
}

// Remove shows no interface under the index any more.
func (w *Writer) Remove(index uint32) {
	if index < maxInterfaces {
		w.change(func() { w.setName(index, deleted) })
	}
}

func (w *Writer) setName(index uint32, name string) {
	slot := word(w.mem, w.names+8*int(index))
	if slot.Load() == 0 {
		slot.Store(writerBase + uint64(w.vector(0, nameBytes)))
	}
	at := int(slot.Load() - writerBase)
	name = name[:min(len(name), nameBytes-1)]
	copy(w.mem[at:], name+"\x00")
	order.PutUint32(w.mem[at-vectorHeader:], uint32(len(name)+1))
}

func (w *Writer) grow(vector int, length uint32) {
	if header := w.mem[vector-vectorHeader:]; order.Uint32(header) < length {
		order.PutUint32(header, length)
	}
}

// counter is a word of the counter of an interface; part is 8 for the bytes of a combined one.
func (w *Writer) counter(entry string, index uint32, part int) *atomic.Uint64 {
	size := 8
	if entry == "/if/rx" || entry == "/if/tx" {
		size = 16
	}
	return word(w.mem, w.counters[entry]+size*int(index)+part)
}

// Error is the counter of an error given to NewWriter.
func (w *Writer) Error(name string) *atomic.Uint64 { return w.errors[name] }

// SetPool tells the state of the buffer pool.
func (w *Writer) SetPool(available, cached, used uint64) {
	for i, v := range []uint64{available, cached, used} {
		w.pool[i].Store(v)
	}
}

// Serve gives the segment to whoever connects to the listener (SEQPACKET) until ctx ends; it closes the listener.
func (w *Writer) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer runtime.KeepAlive(w)
	for {
		conn, err := l.Accept()
		if err != nil {
			_ = l.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("stats socket: %w", err)
		}
		// A client that is gone again has not wanted it.
		_, _, _ = conn.(*net.UnixConn).WriteMsgUnix(nil, unix.UnixRights(w.fd), nil)
		_ = conn.Close()
	}
}
