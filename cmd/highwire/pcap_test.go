package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
)

// A capture holds the packets of the end it was asked for and no others, and other programs can read it.
func TestPcap(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		for _, c := range []struct {
			name, client, endpoint, payload string
			args                            []string
			direct                          bool
			links                           string
			refused                         string
		}{
			{name: "kernel", client: "kernel", endpoint: "kernel", payload: "ETHERNET", links: "Ethernet"},
			{name: "both", client: "kernel", endpoint: "kernel", payload: "IP", args: []string{"--end", "both"}, links: "Ethernet Ethernet"},
			{name: "direct", client: "kernel", endpoint: "kernel", payload: "ETHERNET", args: []string{"--end", "endpoint"}, direct: true, links: "Ethernet"},
			{name: "memif", client: "memif", endpoint: "kernel", payload: "ETHERNET", args: []string{"--end", "both"}, links: "Ethernet Ethernet"},
			{name: "memif-ip", client: "memif", endpoint: "memif", payload: "IP", args: []string{"--end", "endpoint"}, links: "Raw"},
			{name: "memif-direct", client: "memif", endpoint: "memif", payload: "ETHERNET", direct: true, refused: "is direct: its packets pass in memory"},
		} {
			t.Run(c.name, func(t *testing.T) {
				direct := never
				if c.direct {
					direct = auto
				}
				n := newNode(t, exe, "--vpp", vpp, "--memif-direct", direct, "--kernel-direct", direct)
				w := n.newWire(c.name, c.client, c.endpoint, c.payload)
				file := n.path("out.pcapng")
				protocol := "udp"
				if c.client == "kernel" {
					protocol = "icmp"
				}
				command := append([]string{"pcap", "vwire", n.id(), "-w", file, "--count", "10", "--snaplen", "40", "--filter", protocol + " and host 172.16.1.2"}, c.args...)
				if c.refused != "" {
					if said := n.refused(command...); !strings.Contains(said, c.refused) {
						t.Error(said)
					}
					return
				}
				n.ask(command...)
				if links := readCapture(t, file, 10, 40); links != c.links {
					t.Errorf("link types %s, want %s", links, c.links)
				}
				info, err := os.Stat(file)
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("mode %v, %v", info.Mode(), err)
				}
				byTshark(t, file, protocol)
				w.end()
			})
		}
	})
}

// readCapture checks the packets of a file and returns the link types of its interfaces.
func readCapture(t *testing.T, file string, packets, longest int) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > longest || info.Length < len(data) || time.Since(info.Timestamp).Abs() > 10*time.Minute {
			t.Errorf("%d of %d bytes at %v", len(data), info.Length, info.Timestamp)
		}
	}
	if n != packets {
		t.Errorf("%d packets, want %d", n, packets)
	}
	var links []string
	received := uint64(0)
	for i := range r.NInterfaces() {
		point, err := r.Interface(i)
		if err != nil || !strings.HasPrefix(point.Name, "client ") && !strings.HasPrefix(point.Name, "endpoint ") {
			t.Errorf("interface %d: %+v, %v", i, point, err)
		}
		links = append(links, point.LinkType.String())
		received += point.Statistics.PacketsReceived
	}
	if received < uint64(packets) {
		t.Errorf("statistics count %d packets", received)
	}
	return strings.Join(links, " ")
}

// byTshark lets Wireshark's own program read the file.
func byTshark(t *testing.T, file, protocol string) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Log("no tshark here: the file was not opened by Wireshark's reader")
		return
	}
	out, err := exec.Command("tshark", "-n", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.protocols").CombinedOutput()
	if err != nil || strings.Count(string(out), protocol) < 10 || strings.Contains(string(out), "malformed") {
		t.Errorf("tshark: %v\n%s", err, out)
	}
}

// A capture without limits shows packets as they come, and ends in order when its command is told to.
func TestPcapUntilStopped(t *testing.T) {
	exe := binary(t)
	needNamespaces(t)
	n := newNode(t, exe, "--vpp", pocket)
	w := n.newWire("stop", "kernel", "kernel", "ETHERNET")
	file := n.path("out.pcapng")
	p := n.start("pcap", "vwire", n.id(), "-w", file, "--admin", n.path("admin.sock"))
	p.await("capturing at the client's nsm-1 (af_packet)")
	var size int64
	for late := time.After(within); size < 2000; {
		if info, err := os.Stat(file); err == nil {
			size = info.Size()
		}
		select {
		case <-late:
			t.Fatalf("%d bytes written", size)
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.end(syscall.SIGINT)
	if said, _ := p.text(); !strings.Contains(said, " packets at the client's nsm-1 (af_packet), 0 lost") || p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exit %d: %s", p.cmd.ProcessState.ExitCode(), said)
	}
	w.end()
}

// What VPP has only one of is given to one command, and is there again afterwards, also when that one was killed.
func TestPcapAlone(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--memif-direct", never)
		w := n.newWire("alone", "memif", "memif", "ETHERNET")
		first := n.start("pcap", "vwire", n.id(), "-w", n.path("first"), "--admin", n.path("admin.sock"))
		first.await("capturing at the client's memif")
		if said := n.refused("pcap", "vwire", n.id(), "-w", n.path("second")); !strings.Contains(said, "is in use by another command") {
			t.Error(said)
		}
		first.end(syscall.SIGKILL)
		late := time.After(within)
		for { // the agent notices when the connection ends
			out, err := exec.Command(n.exe, "pcap", "vwire", n.id(), "-w", n.path("second"), "--count", "1", "--admin", n.path("admin.sock")).CombinedOutput()
			if err == nil {
				break
			}
			select {
			case <-late:
				t.Fatalf("%v: %s", err, out)
			case <-time.After(20 * time.Millisecond):
			}
		}
		w.end()
		n.agent.end(syscall.SIGTERM)
	})
}

// Probes tell loss and round trips, from whichever end has an interface, and a path that is cut answers none.
func TestPing(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--memif-direct", never)
		for _, c := range []struct{ name, client, endpoint, from string }{
			{"kernel", "kernel", "kernel", "client"}, {"reverse", "memif", "kernel", "endpoint"}, {"none", "memif", "memif", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				n.t = t
				w := n.newWire(c.name, c.client, c.endpoint, "ETHERNET")
				defer w.end()
				ping := []string{"ping", "vwire", n.id(), "--count", "4", "--interval", "10ms", "--timeout", "30s"}
				if c.from == "" {
					if said := n.refused(ping...); !strings.Contains(said, "no kernel interface to ping from") {
						t.Error(said)
					}
					return
				}
				var targets []struct {
					From, Target   string
					Sent, Received int
					P50, Max       float64
				}
				text := n.ask(append(ping, "-o", "json")...)
				if err := json.Unmarshal([]byte(text), &targets); err != nil || len(targets) != 1 {
					t.Fatalf("%v: %s", err, text)
				}
				if p := targets[0]; p.From != c.from || p.Sent != 4 || p.Received != 4 || p.P50 <= 0 || p.Max < p.P50 {
					t.Errorf("%+v", p)
				}
				said := n.ask(ping...)
				if !strings.Contains(said, "4 sent, 4 received, 0 % lost, round trip min/p50/p95/p99/max") || strings.Count(said, ", answer in ") != 4 {
					t.Error(said)
				}
				if c.client == "kernel" {
					if err := w.to.Do(exec.Command("ip", "link", "set", "dev", n.endpointInterface(), "down").Run); err != nil {
						t.Fatal(err)
					}
					if said := n.refused("ping", "vwire", n.id(), "--count", "1", "--timeout", "100ms"); !strings.Contains(said, "100 % lost") || !strings.Contains(said, "no answer from 172.16.1.2") {
						t.Error(said)
					}
				}
			})
		}
		n.t = t
		n.agent.end(syscall.SIGTERM)
	})
}

// endpointInterface is the name of the interface at the endpoint's end of the only vWire.
func (n *node) endpointInterface() string {
	n.t.Helper()
	var list []struct{ Endpoint struct{ Interface string } }
	if err := json.Unmarshal([]byte(n.ask("get", "vwires", "-o", "json")), &list); err != nil || len(list) != 1 {
		n.t.Fatal(list, err)
	}
	return list[0].Endpoint.Interface
}
