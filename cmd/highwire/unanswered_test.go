package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
)

// Where the far node does not answer, or only tunnels to it do not pass, a client is told so before its time is over, and
// nothing is left on either node. Other vWires are made meanwhile.
func TestRemoteUnanswered(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newTwoNodes(t, exe, 0, "--vpp", vpp)
		for _, payload := range []string{"ETHERNET", "IP"} {
			n.far.join("endpoint", "--name", "nse-"+payload, "--service", "web-"+payload, "--payload", payload, "--cidr", "172.16.1.0/24",
				"--netns", space(t).Path()).await("registered ")
		}
		n.near.join("endpoint", "--name", "nse-here", "--service", "here", "--cidr", "172.16.2.0/24", "--netns", space(t).Path()).await("registered ")
		for _, c := range []struct {
			fault, payload string
			link           lab.Condition
			says           string
		}{
			{"black hole", "ETHERNET", lab.Condition{Cut: true}, "198.18.0.2:5001"},
			{"only TCP passes", "IP", lab.Condition{NoUDP: true}, "has not answered the WireGuard handshake"},
		} {
			t.Run(c.fault+", "+c.payload, func(t *testing.T) {
				n.during(t)
				n.link.Set(c.link)
				defer n.link.Set(lab.Condition{})
				begun := time.Now()
				nsc := n.near.join("client", "--name", "nsc-"+c.payload, "--netns", space(t).Path(), "kernel://web-"+c.payload+"/nsm-1")
				other := n.near.join("client", "--name", "nsc-here", "--netns", space(t).Path(), "kernel://here/nsm-1")
				other.await("connected ")
				t.Logf("%s: a vWire on this node is made in %s meanwhile", c.fault, time.Since(begun).Round(time.Millisecond))
				nsc.await("no vWire yet")
				told := time.Since(begun)
				said, _ := nsc.text()
				_, line, _ := strings.Cut(said, "no vWire yet")
				line, _, _ = strings.Cut(line, "\n")
				t.Logf("%s, %s: told after %s: %s", c.fault, c.payload, told.Round(time.Millisecond), line)
				if !strings.Contains(line, c.says) {
					t.Errorf("%s: told %q; want %q", c.fault, line, c.says)
				}
				nsc.end(syscall.SIGTERM)
				other.end(syscall.SIGTERM)
				n.nothingLeft(t)

				n.link.Set(lab.Condition{})
				open := time.Now()
				nsc = n.near.join("client", "--name", "nsc-"+c.payload, "--netns", space(t).Path(), "kernel://web-"+c.payload+"/nsm-1")
				nsc.await("connected ")
				t.Logf("%s, %s: made in %s once the way is open", c.fault, c.payload, time.Since(open).Round(time.Millisecond))
				nsc.end(syscall.SIGTERM)
				n.nothingLeft(t)
			})
		}
		n.during(t)
	})
}
