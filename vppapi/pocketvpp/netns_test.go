package pocketvpp

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

var netnsCount atomic.Int32

// newNetns makes a network namespace for the time of the test and returns its path.
func newNetns(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	name := fmt.Sprintf("pocket-%d-%d", os.Getpid(), netnsCount.Add(1))
	sh(t, "ip netns add %s", name)
	t.Cleanup(func() { sh(t, "ip netns del %s", name) })
	sh(t, "ip -n %s link set lo up", name)
	return "/run/netns/" + name
}

// sh runs a command; its words are split at spaces.
func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	out, err := try(format, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(format string, args ...any) (string, error) {
	words := strings.Fields(fmt.Sprintf(format, args...))
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, out)
	}
	return string(out), nil
}

// ns is the name behind a path of newNetns.
func ns(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
