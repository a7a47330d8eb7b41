package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
)

// An endpoint that dies without a word is replaced by another one. When clients die and do not come back, and their namespace with
// them, their vWires go with their tokens, and nothing is left in VPP, at the endpoint or of the namespace.
func TestPeersDie(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp, "--memif-direct", never, "--kernel-pool", "0")
		home, places := space(t), [2]*lab.Namespace{space(t), space(t)}
		var endpoints [2]*program
		for i := range endpoints {
			endpoints[i] = n.join("endpoint", "--name", fmt.Sprint("nse-", i), "--service", "web", "--cidr", fmt.Sprintf("10.%d.0.0/24", i),
				"--mechanism", "kernel,memif", "--netns", places[i].Path())
			endpoints[i].await("registered")
		}
		client := func(args ...string) *program {
			return n.join(append([]string{"client", "--netns", home.Path(), "--max-token-lifetime", "10s"}, args...)...)
		}
		kernel := client("--name", "kernel", "kernel://web/nsm-1")
		kernel.await("connected ")
		memif := client("--name", "memif", "--ping", "3", "memif://web/fast")
		memif.await("3 sent")
		dies, stays := 0, 1
		if text, _ := kernel.text(); strings.Contains(text, "peer 10.1.") {
			dies, stays = 1, 0
		}
		reaches(t, home, fmt.Sprintf("10.%d.0.2", dies))
		endpoints[dies].end(syscall.SIGKILL)
		kernel.await(fmt.Sprintf("peer 10.%d.0.", stays))
		n.until(`(?m)^\S+ +web +up +kernel .* nse-`+fmt.Sprint(stays), "get", "vwires")

		kernel.end(syscall.SIGKILL)
		memif.end(syscall.SIGKILL)
		if err := home.Close(); err != nil {
			t.Fatal(err)
		}
		n.until(`^\[\]\n$`, "get", "vwires", "-o", "json")
		n.empty(t, places[stays])
	})
}

// empty waits until VPP has no interface of ours, the peer's namespace none at all, and no namespace has a name.
func (n *node) empty(t *testing.T, peer *lab.Namespace) {
	t.Helper()
	late := time.After(within)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		var left []string
		var interfaces []struct{ Name string }
		if err := json.Unmarshal([]byte(n.ask("get", "interfaces", "-o", "json")), &interfaces); err != nil {
			t.Fatal(err)
		}
		for _, i := range interfaces {
			if i.Name != "local0" {
				left = append(left, "VPP has "+i.Name)
			}
		}
		if err := peer.Do(func() error {
			links, err := netlink.LinkList()
			for _, l := range links {
				if l.Attrs().Name != "lo" {
					left = append(left, "the endpoint has "+l.Attrs().Name)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		pins, err := filepath.Glob(n.path("data/netns/*"))
		if err != nil {
			t.Fatal(err)
		}
		if left = append(left, pins...); len(left) == 0 {
			return
		}
		select {
		case <-look.C: // nothing tells that something is gone
		case <-late:
			t.Fatalf("left: %s", strings.Join(left, ", "))
		}
	}
}

// What somebody changes in a client's namespace is put right before the slow look at everything, and events and metrics tell of it.
func TestDriftShows(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", pocket, "--metrics", "127.0.0.1:0")
	w := n.newWire("web", "kernel", "kernel", "ETHERNET")
	if err := w.from.Do(func() error {
		link, err := netlink.LinkByName("nsm-1")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}); err != nil {
		t.Fatal(err)
	}
	id := n.id()
	n.until(`drifted.*others have changed carrier `+id, "describe", "vwire", id)
	n.has("history "+id, `drifted.*others have changed carrier `+id)
	reaches(t, w.from, "172.16.1.2")
	text, _ := n.agent.text()
	address := regexp.MustCompile(`metrics and probes" address=(\S+)`).FindStringSubmatch(text)
	if address == nil {
		t.Fatalf("no address of the metrics in\n%s", text)
	}
	answer, err := http.Get("http://" + address[1] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	figures, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(figures), "\nhighwire_drifts_total 1\n") {
		t.Errorf("%v in\n%s", err, figures)
	}
	w.end()
}
