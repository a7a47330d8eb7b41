package sriov

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long events gather before one look at the hardware answers them all: a reset makes dozens.
const settle = 200 * time.Millisecond

// Watch rescans whenever the kernel says that a PCI device came, went or changed its driver, and calls changed after each
// scan, until ctx ends.
func (p *Pool) Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("watch devices: %w", err)
	}
	events := os.NewFile(uintptr(fd), "uevents") // non-blocking: reads end with Close
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return errors.Join(fmt.Errorf("watch devices: %w", err), events.Close())
	}
	defer context.AfterFunc(ctx, func() { events.Close() })()
	seen := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- listen(events, seen) }()
	defer events.Close()
	soon := time.NewTimer(settle)
	defer soon.Stop()
	for {
		select {
		case <-seen:
			soon.Reset(settle)
		case <-soon.C:
			if err := p.Rescan(); err != nil {
				p.cfg.Log.Warn("cannot look at the network cards", "reason", err)
				continue
			}
			changed()
		case err := <-ended:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch devices: %w", err)
		}
	}
}

// listen tells of every event about PCI devices until the socket is closed.
func listen(events *os.File, seen chan<- struct{}) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := events.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) {
			n, err = 0, nil // some were lost: look
		}
		if err != nil {
			return err
		}
		if n > 0 && !bytes.Contains(buffer[:n], []byte("\x00SUBSYSTEM=pci\x00")) {
			continue
		}
		select {
		case seen <- struct{}{}:
		default:
		}
	}
}
