package forwarder_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests again in a network namespace of their own, where the agent's half of kernel interfaces harms
// nobody and every leftover is ours. Who is not root becomes it in a user namespace.
func TestMain(m *testing.M) {
	if os.Getenv(peerSettings) != "" {
		runPeer()
		return
	}
	if os.Getenv(nodeSettings) != "" {
		runNode()
		return
	}
	const inside = "HIGHWIRE_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Println("these tests need network namespaces, which this machine does not allow:", err)
		os.Exit(1)
	}
}
