package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/mechanisms/sriov"
)

// Virtual functions of a real card, lent by an agent: the agent may be killed and started again without losing
// or mixing up any, bad wishes are told so, and at the end every VF is back.
func TestVirtualFunctions(t *testing.T) {
	needNamespaces(t)
	pfs, err := sriov.Host{}.Scan()
	if err != nil || len(pfs) == 0 || os.Getuid() != 0 {
		t.Skip("there is no network card with SR-IOV here, or no right to use it; make test-vm brings one")
	}
	exe := binary(t)
	config := filepath.Join(t.TempDir(), "sriov.yaml")
	text := fmt.Sprintf("physicalFunctions:\n  %s: {vfKernelDriver: igbvf, capabilities: [1G], serviceDomains: [lab], vfs: 4}\n", pfs[0].Address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, exe, "--vpp", pocket, "--sriov-config", config)
	free := n.devices()
	tokens := n.tokens(t, config)
	from, to := pod(t), pod(t)
	nse := n.join("endpoint", "--name", "nse", "--service", "fast", "--cidr", "172.16.1.0/24", "--netns", to.Path(), "--sriov-token", tokens[0])
	nse.await("registered ")
	t.Setenv("NSM_SRIOV_TOKENS_lab/1G", tokens[1])
	nsc := n.join("client", "--name", "nsc", "--netns", from.Path(), "kernel://fast/nsm-1?sriovToken=lab/1G")
	nsc.await("connected ")
	hasAddress(t, from, "nsm-1", "172.16.1.3/32")
	lent := n.devices()
	if len(lent) != 2 || lent[0] == lent[1] {
		t.Fatalf("lent: %v", lent)
	}
	if list := n.vwires(); len(list) != 1 || list[0].State != "up" || list[0].Datapath != "direct" {
		t.Errorf("vWires %+v", list)
	}

	// The token is in use, and no other client gets it; nor an end without a VF.
	other := n.join("client", "--name", "other", "--netns", space(t).Path(), "kernel://fast/nsm-1?sriovToken=lab/1G")
	other.await("is in use by")
	other.end(syscall.SIGTERM)

	// The agent dies and comes back: the peer keeps its interface, and the owners are the same.
	n.agent.end(syscall.SIGKILL)
	hasAddress(t, from, "nsm-1", "172.16.1.3/32")
	n.restart()
	t.Cleanup(func() {
		if said, _ := n.agent.text(); t.Failed() {
			t.Log(said)
		}
	})
	if again := n.devices(); strings.Join(again, "\n") != strings.Join(lent, "\n") {
		t.Errorf("owners were\n%s\nare\n%s", strings.Join(lent, "\n"), strings.Join(again, "\n"))
	}
	hasAddress(t, from, "nsm-1", "172.16.1.3/32")

	nsc.end(syscall.SIGTERM)
	nse.end(syscall.SIGTERM)
	if back := n.devices(); len(back) != len(free) {
		t.Errorf("still lent: %v", back)
	}
	n.agent.end(syscall.SIGTERM)
}

// pod is a namespace with a process in it, by which an agent finds it again.
func pod(t *testing.T) *lab.Namespace {
	t.Helper()
	ns := space(t)
	pause := exec.Command("sleep", "600")
	if err := ns.Do(pause.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pause.Process.Kill()
		_ = pause.Wait()
	})
	return ns
}

// hasAddress: the namespace has the interface with that address. Whether packets pass is for package sriov's own tests.
func hasAddress(t *testing.T, ns *lab.Namespace, name, address string) {
	t.Helper()
	err := ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err == nil && (len(list) != 1 || list[0].IPNet.String() != address) {
			err = fmt.Errorf("%s has %v, want %s", name, list, address)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// devices lists the VFs in use with their owners.
func (n *node) devices() (lent []string) {
	n.t.Helper()
	out, err := exec.Command(n.exe, "get", "devices", "-o", "json", "--admin", n.path("admin.sock")).CombinedOutput()
	var list []struct{ Address, Owner, Use string }
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil {
		n.t.Fatalf("get devices: %v\n%s", err, out)
	}
	if len(list) != 4 {
		n.t.Errorf("%d devices, want 4:\n%s", len(list), out)
	}
	for _, d := range list {
		if d.Owner != "" {
			lent = append(lent, d.Address+" "+d.Owner+" as "+d.Use)
		}
	}
	return lent
}

// tokens are the ids that the agent's device plugin would hand out.
func (n *node) tokens(t *testing.T, config string) []string {
	t.Helper()
	c, err := sriov.ReadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(n.path("data/sriov.secret"))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := sriov.NewPool(sriov.PoolConfig{Config: c, Secret: secret, NUMA: -1})
	if err != nil {
		t.Fatal(err)
	}
	return pool.Tokens()["lab/1G"]
}
