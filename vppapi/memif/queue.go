package memif

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEmpty: no packet waits.
var ErrEmpty = errors.New("memif: no packet waits")

// ErrFull: the other side has left no room.
var ErrFull = errors.New("memif: no room in the ring")

// ErrTooLong: the packet is longer than the buffer to read it into. It is gone.
var ErrTooLong = errors.New("memif: packet longer than the buffer")

// Rx is a queue of packets from the other side. It is for one goroutine.
type Rx struct {
	ring
	slave  bool
	buffer uint32 // size of a buffer of ours, as slave
	event  *os.File
	next   uint16 // slot to read
	ready  uint16 // slots from next known to be filled; looking anew costs a cache line of the sender
	given  uint16 // slots before are back with the sender
}

// offer lends every buffer to the master at first.
func (q *Rx) offer() {
	if q.slave {
		q.setHead(q.size)
	}
}

func (q *Rx) waiting() uint16 {
	if q.slave {
		return q.tail() - q.next
	}
	return q.head() - q.next
}

// Read copies the next packet to p. Any error but ErrEmpty and ErrTooLong means that the other side breaks the protocol and
// the connection is of no use any more.
func (q *Rx) Read(p []byte) (int, error) {
	n, fits := 0, true
	for slot := q.next; ; slot++ {
		if used := slot - q.next; used >= q.ready {
			q.ready = q.waiting()
			switch {
			case q.ready > q.size:
				return 0, broken("a ring whose ends do not meet")
			case q.ready == 0:
				return 0, ErrEmpty
			case used >= q.ready:
				return 0, broken("a packet without its end")
			}
		}
		d := *q.at(slot)
		src := q.bytes(d.region, d.offset, d.length)
		if src == nil {
			return 0, broken("a packet outside of the shared memory")
		}
		if fits = fits && n+len(src) <= len(p); fits {
			n += copy(p[n:], src)
		}
		if d.flags&chained == 0 {
			q.ready -= slot + 1 - q.next
			q.next = slot + 1
			break
		}
	}
	if !fits {
		return 0, ErrTooLong
	}
	return n, nil
}

// Release gives the buffers of packets read so far back to the sender.
func (q *Rx) Release() {
	if q.given == q.next {
		return
	}
	if !q.slave {
		q.given = q.next
		q.setTail(q.next)
		return
	}
	for ; q.given != q.next; q.given++ {
		q.at(q.given).length = q.buffer
	}
	q.setHead(q.next + q.size)
}

// Wait blocks until a packet waits, or the connection has ended, which is an error.
func (q *Rx) Wait() error {
	var count [8]byte
	// The sender rings for every burst: an old ring only makes us look once more.
	for q.waiting() == 0 {
		if _, err := q.event.Read(count[:]); err != nil {
			return err
		}
	}
	return nil
}

// Tx is a queue of packets to the other side. It is for one goroutine at a time.
type Tx struct {
	ring
	slave  bool
	buffer uint32 // size of a buffer of ours, as slave
	base   uint32 // offset of the first one
	event  *os.File
	raw    syscall.RawConn
	next   uint16 // slot to write
	room   uint16 // slots from next known to be free
	sent   uint16 // slots before are visible to the other side
}

func (q *Tx) free() uint16 {
	if q.slave {
		return q.size - (q.next - q.tail())
	}
	return q.head() - q.next
}

// Write puts a packet into the ring, where the other side sees it after Flush. It is ErrFull where there is no room; any
// other error means that the other side breaks the protocol.
func (q *Tx) Write(p []byte) error {
	for slot := q.next; ; slot++ {
		if used := slot - q.next; used >= q.room {
			q.room = q.free()
			switch {
			case q.room > q.size:
				return broken("a ring whose ends do not meet")
			case used >= q.room:
				return ErrFull
			}
		}
		d := *q.at(slot)
		if q.slave {
			d.region, d.offset, d.length = 0, q.base+uint32(slot&(q.size-1))*q.buffer, q.buffer
		}
		dst := q.bytes(d.region, d.offset, d.length)
		if dst == nil {
			return broken("a buffer outside of the shared memory")
		}
		n := copy(dst, p)
		p = p[n:]
		d.flags, d.length = 0, uint32(n)
		if len(p) > 0 {
			d.flags = chained
		}
		*q.at(slot) = d
		if len(p) == 0 {
			q.room -= slot + 1 - q.next
			q.next = slot + 1
			return nil
		}
	}
}

// Flush shows the other side what was written and wakes it where it sleeps.
func (q *Tx) Flush() {
	if q.sent == q.next {
		return
	}
	q.sent = q.next
	if q.slave {
		q.setHead(q.next)
	} else {
		q.setTail(q.next)
	}
	if q.wantsInterrupt() {
		// An eventfd that is full has been rung.
		_ = q.raw.Write(ring1)
	}
}

var one = [8]byte{1}

func ring1(fd uintptr) bool {
	_, _ = unix.Write(int(fd), one[:])
	return true
}
