package kernel

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Path names a held namespace for another process, VPP, which comes back to it whenever a socket there has to be dialled
// again. With a directory for pins it is a bind mount that outlives this process; without one, or where mounting is not
// allowed, it is this process's own descriptor.
func (n *Namespaces) Path(id mechanisms.Inode) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.held[id]
	if !ok {
		return "", fault.New(fault.Internal, "namespace %s is not held", id)
	}
	own := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.file.Fd())
	if n.pins == "" {
		return own, nil
	}
	pin := n.pin(id)
	if st, err := os.Stat(pin); err == nil && inodeOf(st) == id {
		return pin, nil
	}
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("name namespace %s: %w", id, err)
	}
	_ = f.Close()
	if err := unix.Mount(own, pin, "", unix.MS_BIND, ""); err != nil {
		_ = os.Remove(pin)
		return own, nil
	}
	return pin, nil
}

// pin is the file of a namespace's mount.
func (n *Namespaces) pin(id mechanisms.Inode) string {
	if n.pins == "" {
		return ""
	}
	return filepath.Join(n.pins, fmt.Sprintf("%d-%d", id.Dev, id.Ino))
}

func unpin(path string) {
	if path == "" {
		return
	}
	// Neither is there when Path was never asked for.
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

// Sweep removes pins that nobody holds: those of an earlier process, once all that is wanted has been found again.
func (n *Namespaces) Sweep() {
	if n.pins == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := make(map[string]bool)
	for id := range n.held {
		wanted[n.pin(id)] = true
	}
	paths, _ := filepath.Glob(filepath.Join(n.pins, "*"))
	for _, p := range paths {
		if !wanted[p] {
			unpin(p)
		}
	}
}
