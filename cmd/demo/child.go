package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"highwire/cmd/lab"
)

// Bounds on a child process.
const (
	readyWithin = 30 * time.Second
	stopWithin  = 15 * time.Second
)

// child is a process of the demo: the highwire binary with some command.
type child struct {
	cmd    *exec.Cmd
	log    string
	ready  *net.UnixConn // its NOTIFY_SOCKET
	exited chan struct{} // closed once err is set
	err    error
}

// launch starts "highwire args...", in the network namespace if one is given. Its output goes to a file.
func (d *demo) launch(ctx context.Context, in *lab.Namespace, args []string) (*child, error) {
	name := args[0]
	socket := d.path(name + ".ready")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.path(name+".log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer log.Close()
	// Not CommandContext: a child is only ever stopped in its turn, by stop.
	c := &child{cmd: exec.Command(d.Exe, args...), log: log.Name(), ready: ready, exited: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "TMPDIR="+d.dir)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	// An own process group keeps a terminal's Ctrl-C to the demo, which then stops its children in order. Should the demo be
	// killed, the kernel tells them.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	start := c.cmd.Start
	if in != nil {
		start = func() error { return in.Do(c.cmd.Start) }
	}
	if err := errors.Join(ctx.Err(), start()); err != nil {
		ready.Close()
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
		ready.Close()
	}()
	return c, nil
}

// name is its command.
func (c *child) name() string { return c.cmd.Args[1] }

// awaitReady returns once the child has said that it is ready; it is an error when it ends before.
func (c *child) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.ready.SetReadDeadline(time.Now()) })()
	message := make([]byte, 512)
	for {
		n, err := c.ready.Read(message)
		switch {
		case err == nil && bytes.Contains(message[:n], []byte("READY=1")):
			return nil
		case err == nil:
			continue
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("the %s is not ready after %s", c.name(), readyWithin)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		<-c.exited
		if c.err == nil {
			return fmt.Errorf("the %s ended early", c.name())
		}
		return fmt.Errorf("the %s ended early: %w", c.name(), c.err)
	}
}

// stop ends the child as an init system does, and by force if it does not heed that. Ending other than with 0 is an error.
func (c *child) stop(ctx context.Context) error {
	select {
	case <-c.exited:
		if c.err != nil {
			return fmt.Errorf("the %s had ended: %w", c.name(), c.err)
		}
		return nil
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	select {
	case <-c.exited:
		if c.err != nil {
			return fmt.Errorf("the %s did not end cleanly: %w", c.name(), c.err)
		}
		return nil
	case <-ctx.Done():
		err := c.cmd.Process.Kill()
		<-c.exited
		return errors.Join(fmt.Errorf("the %s did not end within %s and was killed", c.name(), stopWithin), err)
	}
}

// said are the lines of its output that begin so.
func (c *child) said(prefix string) (lines []string) {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// lastWords are the last lines of its log.
func (c *child) lastWords() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-12):], "\n  ")
}
