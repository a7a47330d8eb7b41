package main

import (
	"syscall"
	"testing"
)

// A manager and a forwarder in processes of their own: the client asks the manager, the forwarder makes the vWire, and a packet
// passes.
func TestRoles(t *testing.T) {
	needNamespaces(t)
	exe := binary(t)
	n := newNode(t, exe, "--role", roleManager)
	forwarder := n.join("agent", "--role", roleForwarder, "--data", n.path("fw"), "--admin", n.path("fw.admin.sock"), "--vpp", pocket)
	forwarder.await("msg=registered")
	from, to := space(t), space(t)
	nse := n.join("endpoint", "--service", "web", "--cidr", "172.16.1.0/24", "--netns", to.Path())
	nse.await("registered ")
	nsc := n.join("client", "--netns", from.Path(), "kernel://web/nsm-1")
	nsc.await("connected kernel")
	reaches(t, from, "172.16.1.2")
	nsc.end(syscall.SIGTERM)
	nse.end(syscall.SIGTERM)
	forwarder.end(syscall.SIGTERM)
}

func TestRoleUsage(t *testing.T) {
	for _, args := range [][]string{
		{"agent", "--role", "boss"}, {"agent", "--role", roleForwarder, "--connect-to", "nowhere"},
		{"agent", "--role", roleForwarder, "--listen", "tcp://127.0.0.1:0"},
	} {
		if code, _, stderr := execute(t, args...); code != exitUsage {
			t.Errorf("%v: exit %d: %s", args, code, stderr)
		}
	}
}
