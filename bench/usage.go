package bench

import (
	"fmt"
	"os"
	"strings"
	"time"

	"highwire/vppapi/fault"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on (proc(5)).
const clockTick = 10 * time.Millisecond

// usage is what a process has used.
type usage struct {
	// cpu since it was started, by user and system.
	cpu time.Duration
	// memory is what it has resident now, in bytes.
	memory int64
}

// usageOf reads both from /proc.
func usageOf(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var user, system int64
	if len(fields) < 22 {
		return u, fault.New(fault.Internal, "/proc/%d/stat has %d fields", pid, len(fields))
	}
	if _, err := fmt.Sscan(fields[11]+" "+fields[12]+" "+fields[21], &user, &system, &u.memory); err != nil {
		return u, fault.New(fault.Internal, "/proc/%d/stat: %w", pid, err)
	}
	u.cpu = time.Duration(user+system) * clockTick
	u.memory *= int64(os.Getpagesize())
	return u, nil
}
