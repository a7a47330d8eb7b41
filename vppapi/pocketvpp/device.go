package pocketvpp

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// device moves packets over a file descriptor that puts a struct virtio_net_hdr before each: a tap, a tun, a packet
// socket. Its one goroutine reads; it ends when the device is closed, and close waits for it.
type device struct {
	file *os.File
	raw  syscall.RawConn
	// checksum and gso tell whether the kernel side takes packets whose checksum or segmentation is left to do.
	checksum, gso bool
	// read fills p, not waiting; packet sockets do more than read(2).
	read func(fd int, p *packet) error
	done chan struct{}

	tx sync.Mutex
	// Of the transmission under way, kept here because a closure a packet would be garbage a packet.
	txBytes []byte
	txErr   error
	txFunc  func(fd uintptr) bool
}

// newDevice takes over fd, which must be in non-blocking mode, so that the runtime's poller waits for it.
func newDevice(fd int, name string) (*device, error) {
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	d := &device{file: file, raw: raw, done: make(chan struct{}), read: readPlain}
	d.txFunc = func(fd uintptr) bool {
		_, d.txErr = unix.Write(int(fd), d.txBytes)
		return true // a full queue loses the packet: whoever waits here would hold up its own interface
	}
	return d, nil
}

func readPlain(fd int, p *packet) error {
	n, err := unix.Read(fd, p.receiveBuffer())
	if err != nil {
		return err
	}
	return p.received(n)
}

// start begins to receive: input gets every packet, and failed hears of an error of the descriptor. VPP logs that the
// kernel's interface is down or gone, and says nothing about it on the API.
func (d *device) start(input func(*packet), failed func(error)) {
	go func() {
		defer close(d.done)
		d.receive(input, failed)
	}()
}

func (d *device) receive(input func(*packet), failed func(error)) {
	p := newPacket()
	var err error
	next := func(fd uintptr) bool {
		err = d.read(int(fd), p)
		return err != unix.EAGAIN && err != unix.EINTR
	}
	for d.raw.Read(next) == nil {
		switch {
		case err == nil:
			input(p)
		case errors.Is(err, errLength): // lost
		case err == unix.ENETDOWN: // told once; it may come back
			failed(err)
		default: // EBADFD: gone for good
			failed(err)
			return
		}
	}
}

func (d *device) transmit(p *packet) error {
	if err := p.settle(d.checksum, d.gso); err != nil {
		return err
	}
	d.tx.Lock()
	defer d.tx.Unlock()
	d.txBytes = p.wire()
	if err := d.raw.Write(d.txFunc); err != nil {
		return err
	}
	return d.txErr
}

// close ends the device; it must have been started.
func (d *device) close() {
	_ = d.file.Close()
	<-d.done
}
