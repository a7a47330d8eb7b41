package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// insideVar marks the process that runs in the namespace.
const insideVar = "HIGHWIRE_BENCH_INSIDE"

// Inside makes sure that the calling command runs in a network namespace of its own, where it harms nobody and every leftover
// goes with it: it runs the command again in one and returns that one's exit code and false; within, it returns true.
// Who is not root becomes it in a user namespace.
func Inside() (code int, inside bool, err error) {
	if os.Getenv(insideVar) != "" {
		return 0, true, nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return 1, false, fmt.Errorf("making a network namespace: %w; run as root, or allow user namespaces", err)
	}
	// The inner process ends in order on a signal; this one only waits for it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exit.ExitCode(), false, nil
			}
			return 0, false, err
		}
	}
}
