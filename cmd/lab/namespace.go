// Package lab makes network namespaces for a demo, a test or a benchmark, runs highwire processes, and measures between
// namespaces: echo and a TCP stream.
//
// A namespace of the lab has no name and no mount: it lives while something holds it, so nothing of it can be left behind.
// Sockets belong to the namespace they were opened in, whichever thread uses them later; only opening them needs Do.
package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace held by an open file.
type Namespace struct {
	file *os.File
}

// New makes an empty network namespace with its loopback up. It needs CAP_SYS_ADMIN.
func New() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		var err error
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Path names the namespace for other processes of the same user while this process has it open.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// File is the open namespace; it stays n's.
func (n *Namespace) File() *os.File { return n.file }

// Do runs fn in the namespace: sockets that it opens and processes that it starts belong there. Goroutines that it starts
// do not.
func (n *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", n.Path(), err)
		}
		return fn()
	})
}

// Close lets go of the namespace; the kernel removes it with all its interfaces once no process uses it.
func (n *Namespace) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// onThread runs fn on a thread of its own and brings that thread back to the namespace it came from. The thread is not
// thrown away: it may be the parent of processes that are to die with their parent (Pdeathsig).
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			// Still locked, the thread ends with this goroutine: nobody else runs in the wrong namespace.
			done <- errors.Join(err, fmt.Errorf("returning to the own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}
