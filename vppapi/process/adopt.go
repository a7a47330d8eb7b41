package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endsWithin is how long a VPP may take to end by itself.
const endsWithin = 3 * time.Second

// left finds the process of a VPP that an earlier Run has launched with our configuration, 0 if there is none. An agent may die
// while its VPP has not begun to listen, so the socket alone does not tell; a second VPP would take it away from the first.
func (c Config) left() int {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "\x00-c\x00"+c.confPath()+"\x00") {
			continue // another one, or it has just ended
		}
		st, err := os.Stat(filepath.Dir(file))
		if err != nil || int(st.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue // anybody can have such a command line
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			return pid
		}
	}
	return 0
}

// takeOver returns when the process has ended. At the end of ctx it ends it, unless it is to be kept.
func (c Config) takeOver(ctx context.Context, pid int) error {
	p, err := openProcess(pid)
	if err != nil {
		return fmt.Errorf("adopt VPP, process %d: %w", pid, err)
	}
	defer p.Close()
	if p.await(ctx) {
		c.removeSegments()
		return fmt.Errorf("adopted VPP, process %d, has ended", pid)
	}
	if c.Keep {
		return ctx.Err()
	}
	defer c.removeSegments()
	p.signal(unix.SIGTERM)
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), endsWithin)
	defer cancel()
	if !p.await(soon) {
		p.signal(unix.SIGKILL)
		p.await(context.WithoutCancel(ctx))
	}
	return ctx.Err()
}

// stranger is a process that is not our child, held by a descriptor: its number cannot become another's meanwhile.
type stranger struct{ *os.File }

func openProcess(pid int) (stranger, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return stranger{}, err
	}
	// Not blocking, so that the runtime waits for it, and a deadline ends that.
	if err := unix.SetNonblock(fd, true); err != nil {
		return stranger{}, errors.Join(err, unix.Close(fd))
	}
	return stranger{os.NewFile(uintptr(fd), fmt.Sprintf("process %d", pid))}, nil
}

// await tells whether the process has ended, once it has or ctx ends.
func (p stranger) await(ctx context.Context) (ended bool) {
	raw, err := p.SyscallConn()
	if err != nil {
		return false
	}
	_ = p.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { _ = p.SetReadDeadline(time.Now()) })()
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = n > 0 && err == nil
		return ended
	})
	return ended
}

// signal to one that has ended does nothing.
func (p stranger) signal(s unix.Signal) {
	raw, err := p.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
}
