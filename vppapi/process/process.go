// Package process runs a VPP beside the agent: it writes startup.conf, launches the executable, starts it again with
// back-off when it ends, and adopts one that an earlier agent has left running.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Config describes the VPP to run.
type Config struct {
	// Bin is the vpp executable, see Find.
	Bin string
	// PluginPath is the directory of its plugins; empty for the executable's own default, see Plugins.
	PluginPath string
	// Dir is a private directory for sockets, startup.conf and log. It is made if it is missing, mode 0700.
	Dir string
	// MainCore is the core of VPP's main thread; Workers more threads follow on the next cores.
	MainCore, Workers int
	// Buffers a NUMA node, 0 for DefaultBuffers.
	Buffers int
	// HeapMB is the main heap in MiB, 0 for 512.
	HeapMB int
	// Keep leaves VPP running when Run ends, for the next agent to adopt.
	Keep bool
	Log  *slog.Logger
}

// Find returns the vpp executable: bin itself if it is not empty, else the one on PATH. fault.NotFound says what to do.
func Find(bin string) (string, error) {
	if bin == "" {
		bin = "vpp"
	}
	path, err := exec.LookPath(bin)
	if err != nil {
		return "", fault.New(fault.NotFound, "no VPP executable: %w; install VPP or name it by --vpp-bin", err)
	}
	return filepath.Abs(path)
}

// Plugins finds the plugin directory that belongs to an executable by its place relative to it: PREFIX/bin/vpp with
// PREFIX/lib/vpp_plugins or PREFIX/lib/<triplet>/vpp_plugins. Empty if there is none.
func Plugins(bin string) string {
	lib := filepath.Join(filepath.Dir(filepath.Dir(bin)), "lib*")
	for _, pattern := range []string{filepath.Join(lib, "vpp_plugins"), filepath.Join(lib, "*", "vpp_plugins")} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// Run keeps a VPP running until ctx ends, then ends it unless Keep is set. A VPP of an earlier Run is taken over, whether it
// answers already or not. One that answers on the socket and that nobody launched here is used as it is and left alone at the
// end. Run returns only the error of ctx or one that starting again will not mend: no executable, no permission.
func (c Config) Run(ctx context.Context) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("directory for VPP: %w", err)
	}
	again := backoff.NewExponentialBackOff()
	again.InitialInterval, again.MaxInterval = 10*time.Millisecond, longestWait
	for {
		started := time.Now()
		err := c.life(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) {
			return err
		}
		if time.Since(started) > steady {
			again.Reset()
		}
		wait := again.NextBackOff()
		c.Log.Error("VPP has ended, starting it again", "reason", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	// longestWait between two starts: every vWire of the node waits along.
	longestWait = 2 * time.Second
	// steady is how long a VPP must have lived to count as one that works, and is started again at once. It takes about a
	// second to start.
	steady = 4 * time.Second
)

// life is one VPP, taken over or launched, from start to end.
func (c Config) life(ctx context.Context) error {
	if pid := c.left(); pid != 0 {
		c.Log.Info("adopting the VPP that an earlier agent has launched", "pid", pid)
		return c.takeOver(ctx, pid)
	}
	if conn, err := net.Dial("unix", c.Socket()); err == nil {
		c.Log.Info("adopting the VPP that runs already", "socket", c.Socket())
		return await(ctx, conn)
	}
	return c.launch(ctx)
}

// await returns when the VPP at the other end of conn has ended.
func await(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var b [1]byte
	_, err := conn.Read(b[:])
	_ = conn.Close()
	return fmt.Errorf("adopted VPP: %w", err)
}

func (c Config) launch(ctx context.Context) error {
	conf := c.confPath()
	if err := os.WriteFile(conf, []byte(c.conf()), 0o600); err != nil {
		return fmt.Errorf("write VPP's configuration: %w", err)
	}
	for _, stale := range []string{c.Socket(), c.CLISocket(), c.StatsSocket()} {
		_ = os.Remove(stale) // nobody listens there, life has asked
	}
	var said tail
	cmd := exec.Command(c.Bin, "-c", conf)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Dir = c.Dir
	// A process group of its own: Ctrl-C on a terminal is for the agent, which ends VPP in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Keep {
		// A pipe of ours would end with us and take VPP along at its next word.
		cmd.Stdout, cmd.Stderr = nil, nil
	}
	if err := cmd.Start(); err != nil {
		if os.IsPermission(err) {
			return fault.New(fault.Denied, "start %s: %w", c.Bin, err)
		}
		return fault.New(fault.NotFound, "start %s: %w", c.Bin, err)
	}
	if err := manyFiles(cmd.Process.Pid); err != nil {
		c.Log.Warn("VPP may run out of file descriptors", "reason", err)
	}
	c.Log.Info("VPP started", "bin", c.Bin, "pid", cmd.Process.Pid)
	defer c.removeSegments()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("%s ended: %w%s", c.Bin, errOr(err, io.EOF), said.quote())
	case <-ctx.Done():
		if c.Keep {
			return ctx.Err()
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(endsWithin):
			_ = cmd.Process.Kill()
			<-ended
		}
		return ctx.Err()
	}
}

// manyFiles lets a process open as many files as the kernel allows (fs.nr_open): a memif takes five, and VPP 25.10 loses one more
// each time it listens or dials in another network namespace.
func manyFiles(pid int) error {
	most := uint64(1 << 20)
	if b, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			most = n
		}
	}
	err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}, nil)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// Without the right to raise the hard limit, the soft one goes up to it.
	var own unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &own); err != nil {
		return err
	}
	own.Cur = own.Max
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &own, nil)
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// tail keeps the last that a process has said, for the error when it ends.
type tail struct{ b []byte }

const tailBytes = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) quote() string {
	if s := strings.TrimSpace(string(bytes.ToValidUTF8(t.b, nil))); s != "" {
		return "; its last words: " + s
	}
	return ""
}
