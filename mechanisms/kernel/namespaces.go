package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Namespaces are the network namespaces that the agent keeps open, by identity, so that it can come back to them as long
// as a vWire has an end there. Uses are counted. Safe for concurrent use.
type Namespaces struct {
	pins    string // directory of Pin's mounts, empty for none
	owner   string // in the aliases of interfaces
	watches *watches
	mu      sync.Mutex
	held    map[mechanisms.Inode]*namespace
}

type namespace struct {
	file *os.File
	uses int
}

// NewNamespaces is an empty table.
func NewNamespaces() *Namespaces {
	return &Namespaces{held: make(map[mechanisms.Inode]*namespace), watches: newWatches()}
}

// NewPinnedNamespaces is an empty table that gives namespaces lasting names in dir, see Path. What an earlier process has
// left there can be found again; Sweep removes what nobody holds. owner, one word, tells interfaces of ours from those of another
// agent in the same namespace.
func NewPinnedNamespaces(dir, owner string) (*Namespaces, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory for network namespaces: %w", err)
	}
	n := NewNamespaces()
	n.pins, n.owner = dir, owner
	return n, nil
}

// Hold adds a use of the namespace that f stands for. f may be opened with O_PATH and stays the caller's. A socket file is
// held likewise, for memif. Anything else is fault.Invalid: files come from peers.
func (n *Namespaces) Hold(f *os.File) (mechanisms.Inode, error) {
	if st, err := f.Stat(); err == nil && st.Mode()&os.ModeSocket != 0 {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return mechanisms.Inode{}, fmt.Errorf("hold socket file: %w", err)
		}
		return n.add(os.NewFile(uintptr(fd), f.Name()))
	}
	// Opening a device or a pipe can have effects, and can take for ever.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return mechanisms.Inode{}, fault.New(fault.Invalid, "the file handed over is not a network namespace")
	}
	file, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	runtime.KeepAlive(f)
	if err != nil {
		return mechanisms.Inode{}, fmt.Errorf("open namespace again: %w", err)
	}
	return n.take(file)
}

// Find adds a use of the namespace with that identity: one that is held already, or else one that some process or
// /run/netns shows. fault.NotFound if there is none.
func (n *Namespaces) Find(id mechanisms.Inode) error {
	n.mu.Lock()
	if h, ok := n.held[id]; ok {
		h.uses++
		n.mu.Unlock()
		return nil
	}
	n.mu.Unlock()
	for _, pattern := range []string{n.pin(id), "/run/netns/*", "/proc/[0-9]*/ns/net"} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			st, err := os.Stat(p)
			if err != nil || inodeOf(st) != id {
				continue
			}
			if st.Mode()&os.ModeSocket != 0 {
				fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
				if err != nil {
					return fmt.Errorf("open %s: %w", p, err)
				}
				_, err = n.add(os.NewFile(uintptr(fd), p))
				return err
			}
			file, err := os.Open(p)
			if err != nil {
				continue
			}
			switch found, err := n.take(file); {
			case err != nil:
				return err
			case found == id:
				return nil
			default:
				n.Release(found) // the process has just gone elsewhere
			}
		}
	}
	return fault.New(fault.NotFound, "network namespace %s is gone: no process and nothing in /run/netns has it", id)
}

// take owns file from here on.
func (n *Namespaces) take(file *os.File) (mechanisms.Inode, error) {
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = file.Close()
		return mechanisms.Inode{}, fault.New(fault.Invalid, "the file handed over is not a network namespace")
	}
	return n.add(file)
}

// add owns file from here on.
func (n *Namespaces) add(file *os.File) (mechanisms.Inode, error) {
	st, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return mechanisms.Inode{}, err
	}
	id := inodeOf(st)
	n.mu.Lock()
	defer n.mu.Unlock()
	if h, ok := n.held[id]; ok {
		h.uses++
		_ = file.Close()
		return id, nil
	}
	n.held[id] = &namespace{file, 1}
	return id, nil
}

// Release ends a use. The namespace is closed with its last one.
func (n *Namespaces) Release(id mechanisms.Inode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, ok := n.held[id]
	if !ok {
		return
	}
	if h.uses--; h.uses == 0 {
		_ = h.file.Close()
		delete(n.held, id)
		unpin(n.pin(id))
	}
}

// Len is how many namespaces are open.
func (n *Namespaces) Len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.held)
}

func inodeOf(st os.FileInfo) mechanisms.Inode {
	s := st.Sys().(*syscall.Stat_t)
	return mechanisms.Inode{Dev: s.Dev, Ino: s.Ino}
}

// with calls fn with an open descriptor of the namespace.
func (n *Namespaces) with(id mechanisms.Inode, fn func(fd int) error) error {
	if err := n.Find(id); err != nil {
		return err
	}
	defer n.Release(id)
	n.mu.Lock()
	file := n.held[id].file
	n.mu.Unlock()
	return fn(int(file.Fd()))
}

// Do calls fn on a thread that is inside the namespace: sockets that it opens belong there.
func (n *Namespaces) Do(ctx context.Context, id mechanisms.Inode, fn func() error) error {
	return n.enter(ctx, id, func(*netlink.Handle) error { return fn() })
}

// enter calls fn on a thread that is inside the namespace, with a netlink handle there.
func (n *Namespaces) enter(ctx context.Context, id mechanisms.Inode, fn func(h *netlink.Handle) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return n.with(id, func(fd int) error {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			return fmt.Errorf("own network namespace: %w", err)
		}
		defer home.Close()
		if err := netns.Set(netns.NsHandle(fd)); err != nil {
			runtime.UnlockOSThread()
			return fmt.Errorf("enter network namespace %s: %w", id, err)
		}
		defer func() {
			// A thread that cannot come back stays locked and ends with its goroutine.
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
}
