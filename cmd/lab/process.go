package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds on a process.
const (
	readyWithin = 30 * time.Second
	stopWithin  = 15 * time.Second
)

// Process is the highwire binary running one of its commands.
type Process struct {
	cmd    *exec.Cmd
	log    string
	ready  *net.UnixConn // its NOTIFY_SOCKET
	exited chan struct{} // closed once err is set
	err    error
}

// Launch starts "exe args...", in the network namespace if one is given. Its output goes to a file in dir, where it also puts its
// temporary files; both are named after the command, args[0].
func Launch(ctx context.Context, exe, dir string, in *Namespace, args ...string) (*Process, error) {
	socket := filepath.Join(dir, args[0]+".ready")
	_ = os.Remove(socket) // a former process's
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, args[0]+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer log.Close()
	// Not CommandContext: a child is only ever stopped in its turn, by Stop.
	p := &Process{cmd: exec.Command(exe, args...), log: log.Name(), ready: ready, exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "TMPDIR="+dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// An own process group keeps a terminal's Ctrl-C to the caller, which then stops its children in order. Should the caller be
	// killed, the kernel tells them.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	start := p.cmd.Start
	if in != nil {
		start = func() error { return in.Do(p.cmd.Start) }
	}
	if err := errors.Join(ctx.Err(), start()); err != nil {
		ready.Close()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
		ready.Close()
	}()
	return p, nil
}

// Name is its command.
func (p *Process) Name() string { return p.cmd.Args[1] }

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// AwaitReady returns once the process has said that it is ready; it is an error when it ends before.
func (p *Process) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.ready.SetReadDeadline(time.Now()) })()
	message := make([]byte, 512)
	for {
		n, err := p.ready.Read(message)
		switch {
		case err == nil && bytes.Contains(message[:n], []byte("READY=1")):
			return nil
		case err == nil:
			continue
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("the %s is not ready after %s", p.Name(), readyWithin)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		<-p.exited
		if p.err == nil {
			return fmt.Errorf("the %s ended early", p.Name())
		}
		return fmt.Errorf("the %s ended early: %w", p.Name(), p.err)
	}
}

// Kill ends the process as a crash would and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it has ended already
	<-p.exited
}

// Stop ends the process as an init system does, and by force if it does not heed that. Ending other than with 0 is an error.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("the %s had ended: %w", p.Name(), p.err)
		}
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("the %s did not end cleanly: %w", p.Name(), p.err)
		}
		return nil
	case <-ctx.Done():
		err := p.cmd.Process.Kill()
		<-p.exited
		return errors.Join(fmt.Errorf("the %s did not end within %s and was killed", p.Name(), stopWithin), err)
	}
}

// Said are the lines of its output that begin so.
func (p *Process) Said(prefix string) (lines []string) {
	text, err := os.ReadFile(p.log)
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

// LastWords are the last lines of its log.
func (p *Process) LastWords() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-12):], "\n  ")
}
