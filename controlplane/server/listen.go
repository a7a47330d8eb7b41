package server

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"highwire/vppapi/fault"
)

// listen opens the socket of an address: unix:///path, made with mode, or tcp://host:port.
func listen(address string, mode os.FileMode) (net.Listener, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "listen address: %w", err)
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		return listenUnix(u.Path, mode)
	case u.Scheme == "tcp" && u.Host != "" && u.Path == "":
		l, err := net.Listen("tcp", u.Host)
		return l, inUse(err, address)
	}
	return nil, fault.New(fault.Invalid, "listen address %q: want unix:///path or tcp://host:port", address)
}

func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket gets its mode before anybody can find it under its name.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, inUse(err, "unix://"+path)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, mode), os.Rename(hidden, path)); err != nil {
		_ = l.Close()
		_ = os.Remove(hidden)
		return nil, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path, info: info}, nil
}

// unixListener removes its socket when it closes, unless somebody else's is there by now.
type unixListener struct {
	*net.UnixListener
	path string
	info os.FileInfo
}

// Addr is where clients find the socket.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening.
func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// removeStale removes a socket that a dead process left; one that answers is in use.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fault.New(fault.Conflict, "%s exists and is no socket; remove it or listen elsewhere", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fault.New(fault.Conflict, "socket %s is in use: another process listens there; stop it or listen elsewhere", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s is neither free nor stale: %w", path, err)
	}
	return os.Remove(path)
}

func inUse(err error, address string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fault.New(fault.Conflict, "address %s is in use: %w; stop the other process or listen elsewhere", address, err)
	}
	return err
}
