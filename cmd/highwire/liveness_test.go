package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// An endpoint that answers nothing any more, though everybody thinks it is there, is left for another one. A client that was
// killed goes on with the same vWire.
func TestClientHeals(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", pocket)
	first, second, home := space(t), space(t), space(t)
	n.join("endpoint", "--name", "nse-1", "--service", "web", "--cidr", "10.1.0.0/24", "--netns", first.Path()).await("registered")
	n.join("endpoint", "--name", "nse-2", "--service", "web", "--cidr", "10.2.0.0/24", "--netns", second.Path()).await("registered")
	args := []string{"client", "--name", "nsc", "--netns", home.Path(), "--liveness-interval", "100ms", "--liveness-timeout", "2s", "kernel://web/nsm-1"}
	client := n.join(args...)
	client.await("connected")
	at, other, from := first, "10.2.0.2", "10.1.0.2"
	if text, _ := client.text(); strings.Contains(text, "peer 10.2.") {
		at, other, from = second, "10.1.0.2", "10.2.0.2"
	}
	reaches(t, home, from)
	if err := at.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" && err == nil {
				err = netlink.LinkSetDown(l)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	client.await("does not answer")
	client.await("peer " + other)
	reaches(t, home, other)

	client.end(syscall.SIGKILL)
	client = n.join(args...)
	client.await("peer " + other)
	client.await("former life")
	reaches(t, home, other)
	if list := n.vwires(); len(list) != 1 || list[0].State != "up" {
		t.Errorf("vWires %v, want one", list)
	}
}
