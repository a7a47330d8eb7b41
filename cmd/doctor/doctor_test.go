package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// machine makes one of the given files.
func machine(t *testing.T, files map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	const good = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512f aes\n\nprocessor\t: 1\n"
	full := machine(t, map[string]string{
		"proc/cpuinfo": good, "proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n", "proc/sys/kernel/osrelease": "6.12.4-amd64\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "128\n", "dev/vhost-net": "", "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
	})
	poor := machine(t, map[string]string{
		"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu\n", "proc/meminfo": "MemAvailable:    102400 kB\n", "proc/sys/kernel/osrelease": "4.19.0\n",
		"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "0\n", "proc/self/status": "CapEff:\t0000000000002000\n",
	})
	for _, c := range []struct {
		machine Machine
		look    func(Machine, context.Context) Finding
		verdict Verdict
		found   string
	}{
		{full, Machine.cpu, OK, "2 cores with sse4_2, avx2, avx512f, aes"},
		{full, Machine.memory, OK, "4096 MiB available"},
		{full, Machine.hugepages, OK, "128 pages"},
		{full, Machine.vhostNet, OK, "taps"},
		{full, Machine.kernel, OK, "6.12.4"},
		{full, Machine.permissions, OK, "can be made"},
		{poor, Machine.cpu, Fail, "illegal instruction"},
		{poor, Machine.memory, Warn, "100 MiB"},
		{poor, Machine.hugepages, Warn, "0 pages"},
		{poor, Machine.vhostNet, Warn, "af_packet"},
		{poor, Machine.kernel, Warn, "4.19"},
		{poor, Machine.permissions, Fail, "CAP_NET_ADMIN, CAP_SYS_ADMIN"},
		{machine(t, map[string]string{"proc/cpuinfo": "processor : 0\nflags : sse4_2\n"}), Machine.cpu, Warn, "1 cores"},
		{machine(t, nil), Machine.cpu, Unknown, "cannot be found out"},
		{machine(t, nil), Machine.memory, Unknown, ""},
		{machine(t, map[string]string{"proc/meminfo": "x: 1 kB\n"}), Machine.memory, Unknown, "MemAvailable"},
		{machine(t, nil), Machine.hugepages, Unknown, ""},
		{machine(t, map[string]string{"proc/sys/kernel/osrelease": "six"}), Machine.kernel, Unknown, "six"},
		{machine(t, map[string]string{"proc/self/status": "CapEff: zz"}), Machine.permissions, Unknown, ""},
	} {
		f := c.look(c.machine, t.Context())
		if runtime.GOARCH != "amd64" && strings.Contains(c.found, "cores with") {
			continue
		}
		if f.Verdict != c.verdict || !strings.Contains(f.Found, c.found) {
			t.Errorf("got %+v, want %s with %q", f, c.verdict, c.found)
		}
		if (f.Verdict == Fail || f.Verdict == Warn) && f.Remedy == "" {
			t.Errorf("%q has no remedy", f.Found)
		}
	}
}

// On whatever machine, checks end and say something.
func TestExamine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	live, dead := filepath.Join(dir, "live"), filepath.Join(dir, "dead")
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	gone.SetUnlinkOnClose(false)
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	checks := append(Machine{}.Checks(), VPPBinary(filepath.Join(dir, "none")), VPPSocket(dead),
		Socket("live", live, "start it"), Socket("dead", dead, "start it"), Socket("none", filepath.Join(dir, "none"), "start it"))
	verdicts := map[string]Verdict{}
	for _, f := range Examine(t.Context(), checks) {
		verdicts[f.Check] = f.Verdict
		if f.Found == "" || f.Verdict == "" {
			t.Errorf("%s found nothing: %+v", f.Check, f)
		}
	}
	for name, want := range map[string]Verdict{"vpp executable": Warn, "vpp": Unknown, "live": OK, "dead": Fail, "none": Unknown} {
		if verdicts[name] != want {
			t.Errorf("%s: %s, want %s", name, verdicts[name], want)
		}
	}
	if Well([]Finding{{Verdict: Warn}, {Verdict: Fail}}) || !Well([]Finding{{Verdict: Warn}, {Verdict: Unknown}}) {
		t.Error("what is well")
	}
}
