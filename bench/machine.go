package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what figures were measured on, without the host's name.
type Machine struct {
	Cores     int    `json:"cores"`
	Model     string `json:"model"`
	Kernel    string `json:"kernel"`
	Dataplane string `json:"dataplane"`
	// Governor of the first core's clock; "none" where the kernel does not set it, as in most virtual machines.
	Governor string `json:"governor"`
	// Load is the average of the minute before the start.
	Load string `json:"load"`
	// Steal is the part of all cores' time that the hypervisor gave to others while the run ran, in percent.
	Steal float64 `json:"steal"`
}

func newMachine(dataplane string) Machine {
	m := Machine{Cores: runtime.NumCPU(), Model: model(), Kernel: "unknown", Dataplane: dataplane, Governor: "none", Load: load()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	if b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); err == nil {
		m.Governor = strings.TrimSpace(string(b))
	}
	return m
}

// String is one line, of what is known before a run.
func (m Machine) String() string {
	model := m.Model
	if model != "" {
		model = " " + model
	}
	return fmt.Sprintf("%d cores%s, Linux %s, %s, load %s at the start", m.Cores, model, m.Kernel, m.Dataplane, m.Load)
}

// cpuTime is how much time all cores had since the start of the machine and how much of it the hypervisor took (proc(5), stat).
type cpuTime struct{ all, stolen float64 }

func readCPUTime() (t cpuTime) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t
	}
	line, _, _ := strings.Cut(string(b), "\n")
	// user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
	for i, field := range strings.Fields(line) {
		var ticks float64
		if _, err := fmt.Sscan(field, &ticks); err != nil || i > 8 {
			continue
		}
		t.all += ticks
		if i == 8 {
			t.stolen = ticks
		}
	}
	return t
}

// stealSince is in percent.
func (t cpuTime) stealSince(before cpuTime) float64 {
	if t.all <= before.all {
		return 0
	}
	return 100 * (t.stolen - before.stolen) / (t.all - before.all)
}

// machine describes where the figures come from.
func machine(dataplane string) string { return newMachine(dataplane).String() }

// model is the processor's name, or nothing.
func model() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	_, name, _ := strings.Cut(line, ":")
	return strings.TrimSpace(name)
}

// load is the average of the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
