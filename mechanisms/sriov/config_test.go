package sriov

import (
	"strings"
	"testing"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

const good = `
physicalFunctions:
  0000:01:00.0:
    pfKernelDriver: igb
    vfKernelDriver: igbvf
    capabilities: [intel, 10G]
    serviceDomains: [blue]
    vfs: 4
`

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(good))
	if f := c.PhysicalFunctions["0000:01:00.0"]; err != nil || f.VFs != 4 || !f.has("blue/10G") || f.has("blue/100G") || f.has("red/10G") || f.has("blue") {
		t.Errorf("%+v, %v", c, err)
	}
	for name, row := range map[string]struct{ from, to, want string }{
		"no function":     {good, "physicalFunctions: {}", "physicalFunctions is empty"},
		"empty":           {good, " ", "it is empty"},
		"a slip":          {"vfs: 4", "vfz: 4", "vfz"},
		"an address":      {"0000:01:00.0", "../../etc", "PCI address"},
		"a short address": {"0000:01:00.0", "01:00.0", "PCI address"},
		"no driver":       {"vfKernelDriver: igbvf", "vfKernelDriver: ''", "vfKernelDriver is missing"},
		"a path":          {"vfKernelDriver: igbvf", "vfKernelDriver: ../vfio", `"../vfio"`},
		"no capability":   {"[intel, 10G]", "[]", "must not be empty"},
		"a slash":         {"[blue]", "[blue/red]", `"blue/red"`},
		"negative":        {"vfs: 4", "vfs: -1", "must not be negative"},
	} {
		text := strings.Replace(good, row.from, row.to, 1)
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), row.want) || !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: error %v, want %q", name, err, row.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		for a, pf := range c.PhysicalFunctions {
			if CheckAddress(a) != nil || strings.ContainsAny(pf.VFKernelDriver, "/\x00") || pf.VFKernelDriver == ".." {
				t.Errorf("accepted %q: %+v", a, pf)
			}
		}
	})
}

func TestEndParameters(t *testing.T) {
	tr := newTree(t)
	pf := tr.pf(1, 0, 2, own(5))
	p := tr.pool(-1, pf)
	id := p.Tokens()[blue][0]
	end := func(params map[string]string) mechanisms.End {
		return mechanisms.End{VWire: "a", Side: mechanisms.Client, Type: mechanisms.VFIO, Params: params}
	}
	m := NewVFIO(p)
	for name, row := range map[string]struct {
		params map[string]string
		want   string
		kind   fault.Kind
	}{
		"no cgroup":      {map[string]string{ParamToken: id}, "parameters[cgroupDir] is missing", fault.Invalid},
		"the root":       {map[string]string{ParamToken: id, ParamCgroup: "/"}, "below the root", fault.Invalid},
		"up":             {map[string]string{ParamToken: id, ParamCgroup: "/pods/../../etc"}, "clean absolute path", fault.Invalid},
		"relative":       {map[string]string{ParamToken: id, ParamCgroup: "pods"}, "clean absolute path", fault.Invalid},
		"no token":       {map[string]string{ParamCgroup: "/pods/a"}, "parameters[tokenID] is missing", fault.Invalid},
		"unknown token":  {map[string]string{ParamToken: "sriov-x", ParamCgroup: "/pods/a"}, "not known here", fault.NotFound},
		"VLAN 4095":      {map[string]string{ParamToken: id, ParamCgroup: "/pods/a", ParamVLAN: "4095"}, "0 to 4094", fault.Invalid},
		"VLAN no number": {map[string]string{ParamToken: id, ParamCgroup: "/pods/a", ParamVLAN: "-1"}, "0 to 4094", fault.Invalid},
		"another VF":     {map[string]string{ParamToken: id, ParamCgroup: "/pods/a", ParamPCI: "0000:01:10.1"}, "leave it to the agent", fault.Conflict},
		"a path":         {map[string]string{ParamToken: id, ParamCgroup: "/pods/a", ParamPCI: "../x"}, "PCI address", fault.Invalid},
	} {
		if got, err := m.Complete(end(row.params)); err == nil || !strings.Contains(err.Error(), row.want) || !fault.Is(err, row.kind) {
			t.Errorf("%s: %v, %s error %v, want %q", name, got, fault.KindOf(err), err, row.want)
		}
	}
	got, err := m.Complete(end(map[string]string{ParamToken: id, ParamCgroup: "/pods/a"}))
	want := map[string]string{
		ParamPCI: "0000:01:10.0", ParamGroup: "5", ParamVFIOMajor: "10", ParamVFIOMinor: "196", ParamDeviceMajor: "240", ParamDeviceMinor: "5",
	}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %v, %v", got, err)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
}

// Both ends need a VF, and their cards one service domain.
func TestJoinRefuses(t *testing.T) {
	tr := newTree(t)
	blues, reds := tr.pf(1, 0, 1, none), tr.pf(2, 0, 1, none)
	c := config(blues, reds)
	f := c.PhysicalFunctions[reds]
	f.ServiceDomains = []string{"red"}
	c.PhysicalFunctions[reds] = f
	p, err := NewPool(PoolConfig{Host: tr.host(), Config: c, NUMA: -1})
	if err != nil {
		t.Fatal(err)
	}
	end := func(side mechanisms.Side, vf string) mechanisms.End {
		e := mechanisms.End{VWire: "a", Side: side, Type: mechanisms.Kernel, Params: map[string]string{mechanisms.ParamInode: "inode://4/1", mechanisms.ParamName: "nsm-1"}}
		if vf != "" {
			e.Params[ParamPCI] = vf
		}
		return e
	}
	for endpoint, want := range map[string]string{"0000:02:10.0": "are not connected", "": "the client end has a virtual function and the other end has none"} {
		_, err := p.join(nil, end(mechanisms.Client, "0000:01:10.0"), end(mechanisms.Endpoint, endpoint))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", endpoint, err, want)
		}
	}
}
