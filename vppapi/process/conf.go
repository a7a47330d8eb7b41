package process

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// conf renders startup.conf. It works on two cores and with no hugepage reserved.
func (c Config) conf() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by highwire at every start; changes are lost.")
	line("unix {\n  nodaemon\n  log %s\n  cli-listen %s\n  runtime-dir %s\n}", c.path("vpp.log"), c.CLISocket(), c.Dir)
	line("api-segment { prefix %s }", c.segments())
	line("socksvr { socket-name %s }", c.Socket())
	line("statseg { socket-name %s size 128M update-interval 1 }", c.StatsSocket())
	if c.Workers > 0 {
		line("cpu { main-core %d corelist-workers %s }", c.MainCore, coreList(c.MainCore+1, c.Workers))
	} else {
		line("cpu { main-core %d }", c.MainCore)
	}
	pages := "default"
	if c.hugepages() {
		pages = "default-hugepage"
	}
	line("memory { main-heap-size %dM main-heap-page-size default }", c.heapMB())
	line("buffers { buffers-per-numa %d page-size %s }", c.buffers(), pages)
	line("plugins {")
	if c.PluginPath != "" {
		line("  path %s", c.PluginPath)
	}
	// dpdk takes over devices it finds; nothing here needs it.
	line("  plugin dpdk_plugin.so { disable }")
	line("}")
	return b.String()
}

func coreList(first, n int) string {
	cores := make([]string, n)
	for i := range cores {
		cores[i] = strconv.Itoa(first + i)
	}
	return strings.Join(cores, ",")
}

func (c Config) heapMB() int {
	if c.HeapMB > 0 {
		return c.HeapMB
	}
	return 512
}

func (c Config) buffers() int {
	if c.Buffers > 0 {
		return c.Buffers
	}
	return DefaultBuffers
}

// DefaultBuffers are enough for interfaces whose rings hold none of VPP's buffers; see vppapi.RingBuffers.
const DefaultBuffers = 32768

// bufferBytes is what one buffer of the default size takes with its header.
const bufferBytes = 2496

// hugepages tells whether enough 2 MiB pages are free for the buffer pool.
func (c Config) hugepages() bool {
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	if err != nil {
		return false
	}
	free, err := strconv.Atoi(strings.TrimSpace(string(b)))
	pages := c.buffers() * bufferBytes / (2 << 20)
	if err != nil || free <= pages {
		return false
	}
	// A container may be allowed less than what is free; where it is not, VPP would be killed at the first packet.
	for _, file := range []string{"/sys/fs/cgroup/hugetlb.2MB.max", "/sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes"} {
		if limit, err := os.ReadFile(file); err == nil && !allows(string(limit), pages) {
			return false
		}
	}
	return true
}

// allows tells whether a control group's limit of 2 MiB pages, in bytes or "max", leaves room for more than so many.
func allows(limit string, pages int) bool {
	n, err := strconv.ParseUint(strings.TrimSpace(limit), 10, 64)
	return err != nil || n > uint64(pages)*(2<<20)
}

func (c Config) path(name string) string { return filepath.Join(c.Dir, name) }

func (c Config) confPath() string { return c.path("startup.conf") }

// segments is what the names of VPP's API segments begin with. VPPs on one host must not share them, and the same VPP finds
// and replaces those of its predecessor.
func (c Config) segments() string {
	sum := sha256.Sum256([]byte(c.Dir))
	return fmt.Sprintf("hw%x", sum[:6])
}

// removeSegments removes what a VPP that was killed leaves in memory.
func (c Config) removeSegments() {
	list, _ := filepath.Glob("/dev/shm/" + c.segments() + "-*")
	for _, file := range list {
		_ = os.Remove(file) // the next VPP replaces what stays
	}
}

// Socket is VPP's binary API.
func (c Config) Socket() string { return c.path("api.sock") }

// CLISocket is where vppctl connects.
func (c Config) CLISocket() string { return c.path("cli.sock") }

// StatsSocket is where the stats segment is handed out.
func (c Config) StatsSocket() string { return c.path("stats.sock") }
