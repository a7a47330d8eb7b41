package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"highwire/cmd/lab"
)

// ask runs a command that asks the node's agent, which has to succeed.
func (n *node) ask(args ...string) string {
	n.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(n.exe, append(args, "--admin", n.path("admin.sock"))...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("highwire %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// refused runs one that has to fail, and returns what it says.
func (n *node) refused(args ...string) string {
	n.t.Helper()
	out, err := exec.Command(n.exe, append(args, "--admin", n.path("admin.sock"))...).CombinedOutput()
	if err == nil {
		n.t.Fatalf("highwire %s: no error\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// wire is a vWire between two namespaces by kernel interfaces or memifs; the client pings the endpoint until the test ends.
type wire struct {
	from, to *lab.Namespace
	nse, nsc *program
}

// newWire makes one, named after its service.
func (n *node) newWire(service, client, endpoint, payload string) wire {
	n.t.Helper()
	w := wire{from: space(n.t), to: space(n.t)}
	w.nse = n.join("endpoint", "--name", "nse-"+service, "--service", service, "--cidr", "172.16.1.0/24", "--payload", payload,
		"--mechanism", endpoint, "--netns", w.to.Path())
	w.nse.await("registered ")
	args := []string{"client", "--name", service, "--netns", w.from.Path(), client + "://" + service + "/nsm-1"}
	if client == "memif" {
		args = append(args, "--generate", "10m", "--rate", "50", "--size", "200")
	}
	w.nsc = n.join(args...)
	w.nsc.await("connected " + client)
	if client == "kernel" {
		reaches(n.t, w.from, "172.16.1.2")
		w.ping(n.t)
	}
	return w
}

// ping keeps the kernel client pinging at 20 packets a second.
func (w wire) ping(t *testing.T) {
	t.Helper()
	cmd := exec.Command("ping", "-q", "-i", "0.05", "172.16.1.2")
	if err := w.from.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// end closes both programs.
func (w wire) end() {
	w.nsc.end(syscall.SIGTERM)
	w.nse.end(syscall.SIGTERM)
}

// id is that of the node's only vWire.
func (n *node) id() string {
	n.t.Helper()
	var list []struct{ ID string }
	if err := json.Unmarshal([]byte(n.ask("get", "vwires", "-o", "json")), &list); err != nil || len(list) != 1 {
		n.t.Fatalf("vWires %v, %v", list, err)
	}
	return list[0].ID
}

// A trace shows the packets of the vWire that it was asked for, in both directions, through every pair of ends.
func TestTrace(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--memif-direct", never)
		for _, c := range []struct{ client, endpoint, payload string }{
			{"kernel", "kernel", "ETHERNET"}, {"kernel", "kernel", "IP"}, {"memif", "kernel", "ETHERNET"}, {"memif", "memif", "IP"},
		} {
			name := strings.ToLower(c.client + "-" + c.endpoint + "-" + c.payload)
			t.Run(name, func(t *testing.T) {
				n.t = t
				w := n.newWire(name, c.client, c.endpoint, c.payload)
				id := n.id()
				var packets []struct {
					From, To, Dropped string
					Hops              []struct{ Node, Interface, End, After, Detail string }
				}
				text := n.ask("trace", "vwire", id[:8], "--count", "8", "--timeout", within.String(), "-o", "json")
				if err := json.Unmarshal([]byte(text), &packets); err != nil || len(packets) != 8 {
					t.Fatalf("%d packets, %v", len(packets), err)
				}
				forth := 0
				for _, p := range packets {
					last := p.Hops[len(p.Hops)-1]
					switch {
					case p.From == "client" && p.To == "endpoint":
						forth++
					case p.From == "endpoint" && p.To == "client":
					default:
						t.Errorf("from %q to %q, dropped %q", p.From, p.To, p.Dropped)
					}
					if in := p.Hops[0]; !strings.HasSuffix(in.Node, "-input") || in.End != p.From || last.End != p.To || in.Detail == "" {
						t.Errorf("hops %+v", p.Hops)
					}
				}
				if forth == 0 || forth == len(packets) && c.client == "kernel" {
					t.Errorf("%d of %d packets from the client", forth, len(packets))
				}
				table := n.ask("trace", "vwire", id, "--count", "1", "--timeout", within.String())
				if !strings.Contains(table, "packet 1  ") || !strings.Contains(table, "(client)") || !strings.Contains(table, "(endpoint)") {
					t.Errorf("table:\n%s", table)
				}
				t.Log("\n" + table)
				w.end()
			})
		}
		n.t = t
		if said := n.refused("trace", "vwire", "none"); !strings.Contains(said, "none at all") {
			t.Error(said)
		}
		n.agent.end(syscall.SIGTERM)
	})
}

func TestPacketsUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		says string
	}{
		{"trace", "want one of vwire"},
		{"trace vwire", "accepts 1 arg"},
		{"trace vwire x -o xml", "want table, json, yaml"},
		{"trace vwire x --count 0", "more than 0"},
		{"pcap vwire x", "-w is needed"},
		{"pcap vwire x -w f --end middle", "client, endpoint or both"},
		{"pcap vwire x -w f --duration -1s", "must not be negative"},
		{"ping vwire x --interval 0s", "more than 0"},
		{"ping vwire x -o wide", "want table, json, yaml"},
	} {
		code, stdout, stderr := execute(t, strings.Fields(c.args)...)
		if code != exitUsage || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire %s: exit %d, want %d saying %q:\n%s%s", c.args, code, exitUsage, c.says, stdout, stderr)
		}
	}
}
