package memif

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Address says where a control socket is.
type Address struct {
	// Name is "@name" for an abstract socket, else the path of a socket file, at most 107 bytes.
	Name string
	// Netns is the file of the network namespace that an abstract name belongs to, empty for the process's own.
	Netns string
}

// maxName is what sun_path holds.
const maxName = 107

// ParseAddress reads a socket the way VPP writes it: "abstract:NAME[,netns_name=PATH|,netns_pid=PID]", or the path of a file.
// A PATH without a leading '/' is a name in /var/run/netns. What is neither is fault.Invalid.
func ParseAddress(s string) (Address, error) {
	rest, abstract := strings.CutPrefix(s, "abstract:")
	if !abstract {
		a := Address{Name: s}
		if !filepath.IsAbs(s) {
			return a, fault.New(fault.Invalid, "memif socket %.120q: want \"abstract:NAME\" or an absolute path", s)
		}
		return a, a.check()
	}
	name, option, _ := strings.Cut(rest, ",")
	a := Address{Name: "@" + name}
	key, value, _ := strings.Cut(option, "=")
	switch {
	case option == "":
	case key == "netns_name" && value != "":
		if !strings.HasPrefix(value, "/") {
			value = "/var/run/netns/" + value
		}
		a.Netns = value
	case key == "netns_pid" && value != "":
		a.Netns = "/proc/" + value + "/ns/net"
	default:
		return a, fault.New(fault.Invalid, "memif socket %.120q: unknown option %.40q", s, option)
	}
	return a, a.check()
}

// String is the form VPP uses.
func (a Address) String() string {
	name, abstract := strings.CutPrefix(a.Name, "@")
	switch {
	case !abstract:
		return a.Name
	case a.Netns == "":
		return "abstract:" + name
	}
	return "abstract:" + name + ",netns_name=" + a.Netns
}

func (a Address) check() error {
	switch {
	case a.Name == "" || a.Name == "@":
		return fault.New(fault.Invalid, "memif socket: no name")
	case len(a.Name) > maxName:
		return fault.New(fault.Invalid, "memif socket %.40q...: %d bytes, at most %d", a.Name, len(a.Name), maxName)
	case strings.ContainsRune(a.Name, 0):
		return fault.New(fault.Invalid, "memif socket %q: zero byte in its name", a.Name)
	}
	return nil
}

// network is SOCK_SEQPACKET in package net.
const network = "unixpacket"

func (a Address) dial(ctx context.Context) (*net.UnixConn, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var conn net.Conn
	err := a.within(func() (err error) {
		// A Unix address is dialled by this very goroutine, and so from this namespace.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, a.Name)
		return err
	})
	if err != nil {
		return nil, fault.New(fault.Unavailable, "memif socket %s: %w", a, err)
	}
	return conn.(*net.UnixConn), nil
}

func (a Address) listen() (*net.UnixListener, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var l *net.UnixListener
	err := a.within(func() (err error) {
		addr := &net.UnixAddr{Name: a.Name, Net: network}
		l, err = net.ListenUnix(network, addr)
		if errors.Is(err, syscall.EADDRINUSE) && a.Stale() {
			l, err = net.ListenUnix(network, addr)
		}
		return err
	})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fault.New(fault.Conflict, "memif socket %s: another process listens there", a)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.NotFound, "memif socket %s: %w", a, err)
	case err != nil:
		return nil, fmt.Errorf("memif socket %s: %w", a, err)
	}
	return l, nil
}

// Stale removes a socket file that nobody answers on any more, and tells whether there was one.
func (a Address) Stale() bool {
	st, err := os.Lstat(a.Name)
	if err != nil || st.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.Dial(network, a.Name)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(a.Name) == nil
}

// within runs fn on a thread inside the namespace and brings the thread back: it may be the parent of processes that are
// to end with it.
func (a Address) within(fn func() error) error {
	if a.Netns == "" || !strings.HasPrefix(a.Name, "@") {
		return fn()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = enter(a.Netns)
		if err == nil {
			err = fn()
		}
		// A thread that cannot come back stays locked and ends with its goroutine.
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func enter(netns string) error {
	ns, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	return nil
}
