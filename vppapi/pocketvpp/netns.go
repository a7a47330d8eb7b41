package pocketvpp

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsPath is the file behind a namespace's name as VPP takes it: a path, "pid:N", or a name below /var/run/netns.
func netnsPath(name string) string {
	if pid, ok := strings.CutPrefix(name, "pid:"); ok {
		return "/proc/" + pid + "/ns/net"
	}
	if !strings.HasPrefix(name, "/") {
		return "/var/run/netns/" + name
	}
	return name
}

// inNetns runs fn on a thread in the namespace, with a netlink handle for it; an empty path is where we are. fn must not
// start goroutines that need the namespace.
func inNetns(path string, fn func(*netlink.Handle) error) error {
	result := make(chan error, 1)
	go func() { result <- enterNetns(path, fn) }()
	return <-result
}

func enterNetns(path string, fn func(*netlink.Handle) error) error {
	// Where a namespace was entered the thread stays locked and so ends with its goroutine: nothing else ever runs there.
	runtime.LockOSThread()
	if path == "" {
		defer runtime.UnlockOSThread()
	} else {
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		_ = ns.Close()
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}
