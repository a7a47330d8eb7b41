package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes where the figures come from, without naming the host.
func machine(dataplane string) string {
	release := "unknown"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	return fmt.Sprintf("%d cores%s, Linux %s, %s, load %s at the start", runtime.NumCPU(), model(), release, dataplane, load())
}

// model is the processor's name with a leading blank, or nothing.
func model() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	_, name, _ := strings.Cut(line, ":")
	if name = strings.TrimSpace(name); name == "" {
		return ""
	}
	return " " + name
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
