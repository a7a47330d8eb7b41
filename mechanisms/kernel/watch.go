package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
)

// watches are the namespaces in which the agent listens to what the kernel tells of interfaces, addresses and routes. There is
// one socket for each namespace that has an end of a vWire, and a goroutine that reads it.
type watches struct {
	changed   chan struct{}
	listeners sync.WaitGroup

	mu      sync.Mutex
	running bool
	places  map[mechanisms.Inode]*watch
	touched map[mechanisms.Inode]bool
}

// watch is one namespace; uses counts the ends in it.
type watch struct {
	news *os.File // nil while nobody listens
	uses int
}

func newWatches() *watches {
	return &watches{changed: make(chan struct{}, 1), places: make(map[mechanisms.Inode]*watch), touched: make(map[mechanisms.Inode]bool)}
}

// Watch listens to the kernel, in the namespaces of kernel interfaces, until ctx ends.
func (n *Namespaces) Watch(ctx context.Context) error {
	w := n.watches
	w.mu.Lock()
	w.running = true
	for id, p := range w.places {
		n.listen(id, p)
	}
	w.mu.Unlock()
	<-ctx.Done()
	w.mu.Lock()
	w.running = false
	for _, p := range w.places {
		p.close()
	}
	w.mu.Unlock()
	w.listeners.Wait()
	return nil
}

// Changed signals that something has happened to interfaces, addresses or routes of a namespace; Touched tells which.
func (n *Namespaces) Changed() <-chan struct{} { return n.watches.changed }

// Touched are the namespaces in which something has happened since the last call. What we change ourselves counts too.
func (n *Namespaces) Touched() map[mechanisms.Inode]bool {
	w := n.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	touched := w.touched
	w.touched = make(map[mechanisms.Inode]bool)
	return touched
}

// watch adds an end in a namespace that is held.
func (n *Namespaces) watch(id mechanisms.Inode) {
	w := n.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.places[id]
	if p == nil {
		p = &watch{}
		w.places[id] = p
	}
	p.uses++
	if w.running && p.news == nil {
		n.listen(id, p)
	}
}

// unwatch undoes watch.
func (n *Namespaces) unwatch(id mechanisms.Inode) {
	w := n.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.places[id]
	if p == nil {
		return
	}
	if p.uses--; p.uses == 0 {
		p.close()
		delete(w.places, id)
	}
}

// listen opens the socket, under the lock. Without it the slow look at everything finds what has changed.
func (n *Namespaces) listen(id mechanisms.Inode, p *watch) {
	if err := n.Do(context.Background(), id, func() (err error) {
		p.news, err = subscribe()
		return err
	}); err != nil {
		return
	}
	news := p.news
	n.watches.listeners.Go(func() { n.watches.read(id, news) })
}

func (p *watch) close() {
	if p.news != nil {
		_ = p.news.Close() // and its reader ends
		p.news = nil
	}
}

// subscribe opens a socket for rtnetlink's news in the thread's namespace.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to rtnetlink: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// read notes each message until the socket is closed. The kernel drops what is not read in time and says so (ENOBUFS), which
// is news as well.
func (w *watches) read(id mechanisms.Inode, news *os.File) {
	head := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg) // the rest is cut off
	for {
		n, err := news.Read(head)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err == nil && foreign(head[:n]) {
			continue
		}
		w.mu.Lock()
		if w.places[id] != nil {
			w.touched[id] = true
		}
		w.mu.Unlock()
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// foreign tells of a message that it is about a route which is not ours: others, a routing daemon say, may have many.
func foreign(message []byte) bool {
	const kind, protocol = 4, unix.SizeofNlMsghdr + 5 // nlmsg_type, rtm_protocol
	if len(message) <= protocol {
		return true
	}
	switch binary.NativeEndian.Uint16(message[kind:]) {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return message[protocol] != routeProtocol
	}
	return false
}
