package main

import (
	"syscall"
	"testing"
)

// A chain of two hops in the middle, each hop a vWire of its own: echoes of the last endpoint come back through all of them, and
// when the client goes all vWires do.
func TestPassthrough(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		for name, direct := range map[string]string{"through VPP": "never", "direct": "auto"} {
			t.Run(name, func(t *testing.T) {
				n := newNode(t, exe, "--vpp", vpp, "--memif-direct", direct)
				n.join("endpoint", "--name", "last", "--service", "web", "--payload", "ETHERNET", "--mechanism", "memif", "--cidr", "10.1.0.0/24", "--own-netns").await("registered")
				n.join("endpoint", "--name", "inspector", "--service", "inspected", "--payload", "ETHERNET", "--passthrough", "web", "--own-netns").await("registered")
				n.join("endpoint", "--name", "firewall", "--service", "guarded", "--payload", "ETHERNET", "--passthrough", "inspected", "--own-netns").await("registered")
				client := n.join("client", "--name", "nsc", "--ping", "5", "memif://guarded")
				client.await("connected memif://guarded")
				client.await("ping 10.1.0.2: 5 sent, 5 received")
				if list := n.vwires(); len(list) != 3 {
					t.Errorf("%d vWires, want one for each hop", len(list))
				}
				client.end(syscall.SIGTERM)
				if list := n.vwires(); len(list) != 0 {
					t.Errorf("%d vWires are left", len(list))
				}
			})
		}
	})
}
