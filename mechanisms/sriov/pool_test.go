package sriov

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"highwire/vppapi/fault"
)

func TestScan(t *testing.T) {
	tr := newTree(t)
	tr.pf(1, 0, 2, own(20))
	tr.pf(2, -1, 0, none)
	got, err := tr.host().Scan()
	if err != nil {
		t.Fatal(err)
	}
	want := "[{0000:01:00.0 igb pf1 true 0 7 [{0000:01:10.0 0 igbvf vf1_0 20} {0000:01:10.1 1 igbvf vf1_1 21}]} {0000:02:00.0 igb pf2 true -1 7 []}]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	if got, err := (Host{Sys: t.TempDir()}).Scan(); err != nil || got != nil {
		t.Errorf("a host without PCI: %v, %v", got, err)
	}
}

// The ids are hard to guess, and the same in every life of the agent.
func TestTokens(t *testing.T) {
	tr := newTree(t)
	pf := tr.pf(1, 0, 2, none)
	ids := tr.pool(-1, pf).Tokens()
	if len(ids) != 2 || len(ids[blue]) != 2 || !strings.HasPrefix(ids[blue][0], "sriov-") || len(ids[blue][0]) != len("sriov-")+36 {
		t.Errorf("tokens %v", ids)
	}
	if again := tr.pool(-1, pf).Tokens(); fmt.Sprint(again) != fmt.Sprint(ids) {
		t.Errorf("another life has other tokens: %v, %v", again, ids)
	}
	other, err := NewPool(PoolConfig{Host: tr.host(), Config: config(pf), Secret: []byte("another node's"), NUMA: -1})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(other.Tokens()) == fmt.Sprint(ids) {
		t.Error("the secret makes no difference")
	}
}

func TestReserve(t *testing.T) {
	tr := newTree(t)
	// Two VFs share group 30; those of the second PF have groups of their own, on another NUMA node.
	near, far := tr.pf(1, 0, 2, func(int) int { return 30 }), tr.pf(2, 1, 2, own(40))
	p := tr.pool(0, near, far)
	tokens := p.Tokens()[blue]
	for _, row := range []struct {
		end   string
		token string
		use   Use
		want  string // an address, or part of the error
		kind  fault.Kind
	}{
		{"a:client", tokens[0], Kernel, "0000:01:10.0", 0}, // near
		{"a:client", tokens[0], Kernel, "0000:01:10.0", 0}, // the same again
		{"b:client", tokens[0], Kernel, "is in use by a:client", fault.Conflict},
		{"b:client", "sriov-1", Kernel, "not known here", fault.NotFound},
		{"b:client", tokens[1], VFIO, "0000:02:10.0", 0},   // the near one's group is the kernel's
		{"c:client", tokens[2], Kernel, "0000:01:10.1", 0}, // fits into the near group
		{"d:client", tokens[3], Kernel, "0000:02:10.1", 0},
		{"e:client", p.Tokens()["blue/intel"][0], Kernel, "no VF is free for blue/intel as kernel: 4 serve it, 4 in use", fault.Exhausted},
	} {
		vf, err := p.Reserve(row.end, row.token, row.use)
		switch {
		case err == nil && vf.Address != row.want:
			t.Errorf("%s %s: got %s, want %s", row.end, row.use, vf.Address, row.want)
		case err != nil && (!strings.Contains(err.Error(), row.want) || fault.KindOf(err) != row.kind):
			t.Errorf("%s %s: %s error %v, want %q", row.end, row.use, fault.KindOf(err), err, row.want)
		}
	}
}

func TestReserveRefuses(t *testing.T) {
	tr := newTree(t)
	shared, bare := tr.pf(1, 0, 2, func(int) int { return 30 }), tr.pf(2, 0, 1, none)
	t.Run("group conflict", func(t *testing.T) {
		p := tr.pool(-1, shared)
		ids := p.Tokens()[blue]
		if _, err := p.Reserve("a:client", ids[0], Kernel); err != nil {
			t.Fatal(err)
		}
		_, err := p.Reserve("b:client", ids[1], VFIO)
		if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "1 in an IOMMU group that is not used as vfio") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no IOMMU", func(t *testing.T) {
		p := tr.pool(-1, bare)
		_, err := p.Reserve("a:client", p.Tokens()[blue][0], VFIO)
		if !fault.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "has no IOMMU") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("held by another vWire", func(t *testing.T) {
		p := tr.pool(-1, bare)
		if err := p.Claim("a:client", "0000:02:10.0", "", Kernel); err != nil {
			t.Fatal(err)
		}
		if err := p.Claim("b:client", "0000:02:10.0", "", Kernel); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "belongs to a:client") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no such VF", func(t *testing.T) {
		p := tr.pool(-1, bare)
		for address, kind := range map[string]fault.Kind{
			"0000:09:10.0": fault.NotFound, "../../etc": fault.Invalid, "0000:02:10.0/..": fault.Invalid, "": fault.Invalid, "0000:01:10.0": fault.NotFound,
		} {
			if err := p.Claim("a:client", address, "", Kernel); !fault.Is(err, kind) {
				t.Errorf("%q: error %v, want %s", address, err, kind)
			}
		}
	})
}

// What was reserved and never made lapses; what is held stays through refreshes until the last version of its vWire goes.
func TestLapse(t *testing.T) {
	tr := newTree(t)
	pf := tr.pf(1, 0, 1, none)
	synctest.Test(t, func(t *testing.T) {
		p := tr.pool(-1, pf)
		id := p.Tokens()[blue][0]
		if _, err := p.Reserve("a:client", id, Kernel); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lapse + time.Second)
		vf, err := p.Reserve("b:client", id, Kernel)
		if err != nil {
			t.Fatal("a reservation did not lapse:", err)
		}
		for range 2 { // the vWire, and a new version of it
			if err := p.Claim("b:client", vf.Address, id, Kernel); err != nil {
				t.Fatal(err)
			}
		}
		p.Free("b:client", vf.Address) // the former version
		time.Sleep(lapse + time.Second)
		if _, err := p.Reserve("c:client", id, Kernel); !fault.Is(err, fault.Conflict) {
			t.Error("a VF that is held was given away:", err)
		}
		p.Free("b:client", vf.Address)
		if _, err := p.Reserve("c:client", id, Kernel); err != nil {
			t.Error("a VF did not come back:", err)
		}
	})
}

// A PF that goes takes its VFs along; owners stay what they were when it comes back.
func TestRescan(t *testing.T) {
	tr := newTree(t)
	pf := tr.pf(1, 0, 1, none)
	p := tr.pool(-1, pf)
	id := p.Tokens()[blue][0]
	if err := p.Claim("a:client", "0000:01:10.0", id, Kernel); err != nil {
		t.Fatal(err)
	}
	away := filepath.Join(tr.dir, "bus/pci/devices", pf)
	if err := os.Rename(away, tr.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if err := p.Rescan(); err != nil || len(p.Devices()) != 0 || len(p.Tokens()) != 0 {
		t.Errorf("after the PF went: %v, %v, %v", err, p.Devices(), p.Tokens())
	}
	if _, err := p.Reserve("a:client", id, Kernel); !fault.Is(err, fault.NotFound) {
		t.Error("a token of a PF that is gone:", err)
	}
	if err := os.Rename(tr.dir+"/away", away); err != nil {
		t.Fatal(err)
	}
	if err := p.Rescan(); err != nil {
		t.Fatal(err)
	}
	if d := p.Devices(); len(d) != 1 || d[0].Owner != "a:client" || d[0].Use != Kernel {
		t.Errorf("after it came back: %+v", d)
	}
}

func TestCreate(t *testing.T) {
	tr := newTree(t)
	pf := tr.pf(1, 0, 0, none)
	numvfs := "bus/pci/devices/" + pf + "/sriov_numvfs"
	c := config(pf)
	f := c.PhysicalFunctions[pf]
	f.VFs = 4
	c.PhysicalFunctions[pf] = f
	if _, err := NewPool(PoolConfig{Host: tr.host(), Config: c}); err != nil || !strings.HasPrefix(tr.read(numvfs), "4") {
		t.Errorf("error %v, sriov_numvfs %q", err, tr.read(numvfs))
	}
	f.VFs = 8
	c.PhysicalFunctions[pf] = f
	if _, err := NewPool(PoolConfig{Host: tr.host(), Config: c}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "can have 7 VFs, not 8") {
		t.Errorf("too many VFs: %v", err)
	}
	f.VFs, f.PFKernelDriver = 0, "ixgbe"
	c.PhysicalFunctions[pf] = f
	if _, err := NewPool(PoolConfig{Host: tr.host(), Config: c}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `has driver "igb"`) {
		t.Errorf("another driver: %v", err)
	}
	// VFs that are there stay, whatever number is asked for.
	full := tr.pf(2, 0, 2, none)
	c = config(full)
	f.VFs, f.PFKernelDriver = 4, ""
	c.PhysicalFunctions[full] = f
	if _, err := NewPool(PoolConfig{Host: tr.host(), Config: c}); err != nil || tr.read("bus/pci/devices/"+full+"/sriov_numvfs") != "2\n" {
		t.Errorf("error %v, sriov_numvfs %q", err, tr.read("bus/pci/devices/"+full+"/sriov_numvfs"))
	}
}

func TestBind(t *testing.T) {
	tr := newTree(t)
	tr.pf(1, 0, 1, own(5))
	const vf = "0000:01:10.0"
	if err := tr.host().Bind(vf, vfioDriver); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"bus/pci/devices/" + vf + "/driver_override": vfioDriver + "\n", "bus/pci/drivers/igbvf/unbind": vf, "bus/pci/drivers/vfio-pci/bind": vf,
	} {
		if got := tr.read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := tr.host().Bind(vf, "iavf"); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "modprobe iavf") {
		t.Error("a driver that is not loaded:", err)
	}
	if err := tr.host().Bind("../pwn", "igbvf"); !fault.Is(err, fault.Invalid) {
		t.Error("a path:", err)
	}
}

// Random reservations, claims and ends against a naive model: one owner a VF, one use a group, nothing lost.
func TestPoolProperty(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	tr := newTree(t)
	a, b := tr.pf(1, 0, 4, func(vf int) int { return 10 + vf/2 }), tr.pf(2, 1, 3, own(20))
	p := tr.pool(0, a, b)
	tokens := p.Tokens()[blue]
	type claim struct {
		address, token string
		use            Use
	}
	model := map[string]claim{}
	for range 5000 {
		end := fmt.Sprintf("v%d:client", random.IntN(8))
		token, use := tokens[random.IntN(len(tokens))], []Use{Kernel, VFIO}[random.IntN(2)]
		if c, held := model[end]; held {
			if random.IntN(2) == 0 {
				p.Free(end, c.address)
				delete(model, end)
			} else if vf, err := p.Reserve(end, c.token, c.use); err != nil || vf.Address != c.address {
				t.Fatalf("seed %d: %s had %v and got %v, %v", seed, end, c, vf, err)
			}
			continue
		}
		taken := false
		for _, c := range model {
			taken = taken || c.token == token
		}
		vf, err := p.Reserve(end, token, use)
		if err != nil {
			if !taken && !fault.Is(err, fault.Exhausted) || taken && !fault.Is(err, fault.Conflict) {
				t.Fatalf("seed %d: %s: %v", seed, end, err)
			}
			continue
		}
		for other, c := range model {
			o, _, _ := p.find(c.address)
			if c.address == vf.Address || o.Group == vf.Group && c.use != use {
				t.Fatalf("seed %d: %s got %v as %s, %s has %v", seed, end, vf, use, other, c)
			}
		}
		if err := p.Claim(end, vf.Address, token, use); err != nil {
			t.Fatal(err)
		}
		model[end] = claim{vf.Address, token, use}
	}
	owners := 0
	for _, d := range p.Devices() {
		if d.Owner != "" {
			owners++
		}
	}
	if owners != len(model) {
		t.Errorf("seed %d: %d owners, the model has %d", seed, owners, len(model))
	}
}
