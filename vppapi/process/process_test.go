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
	"testing"
	"time"

	"go.uber.org/goleak"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logLines hands out log lines one by one.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// await returns the next line that contains text.
func (l logLines) await(t *testing.T, text string) string {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return line
			}
		case <-timeout:
			t.Fatalf("the log has no %q", text)
		}
	}
}

// fake is a Config whose VPP is a shell script. The script finds "-c" and the configuration in $1 and $2.
func fake(t *testing.T, script string) (Config, logLines) {
	t.Helper()
	log := make(logLines, 100)
	dir := t.TempDir()
	bin := executable(t, filepath.Join(dir, "vpp"), "#!/bin/sh\n"+script+"\n")
	return Config{Bin: bin, Dir: filepath.Join(dir, "run"), Log: slog.New(slog.NewTextHandler(log, nil))}, log
}

// running runs c until the returned function is called, which returns Run's error.
func running(t *testing.T, c Config) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(func() { cancel() })
	return stop
}

// fifo is a file by which a script says something to the test.
func fifo(t *testing.T) (path string, read func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Open for both, so that neither side waits for the other.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return path, func() string {
		t.Helper()
		b := make([]byte, 4096)
		if err := f.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := f.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b[:n]))
	}
}

// TestRestart: a VPP that ends is started again, later and later, and its last words are in the log.
func TestRestart(t *testing.T) {
	t.Parallel()
	c, log := fake(t, `echo "cannot open display: $2" >&2; exit 3`)
	stop := running(t, c)
	begun := time.Now()
	for range 4 {
		line := log.await(t, "starting it again")
		for _, want := range []string{"level=ERROR", "exit status 3", "cannot open display", "startup.conf", " in="} {
			if !strings.Contains(line, want) {
				t.Errorf("no %q in %s", want, line)
			}
		}
	}
	// 10 ms and half as long again each time, give or take half.
	if took := time.Since(begun); took < 20*time.Millisecond {
		t.Errorf("four starts within %v", took)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestLaunch: what VPP is given, and that it is ended in order.
func TestLaunch(t *testing.T) {
	t.Parallel()
	told, read := fifo(t)
	c, log := fake(t, fmt.Sprintf(`trap 'echo bye >%[1]q; exit 0' TERM; echo "$PWD $* $$" >%[1]q; while :; do sleep 0.05; done`, told))
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Left by a VPP that was killed.
	abandoned(t, c.Socket())
	stop := running(t, c)
	log.await(t, "VPP started")
	said := strings.Fields(read())
	if want := []string{c.Dir, "-c", c.Dir + "/startup.conf"}; len(said) != 4 || said[0] != want[0] || said[1] != want[1] || said[2] != want[2] {
		t.Errorf("VPP says %q, want %q", said, want)
	}
	pid, err := strconv.Atoi(said[3])
	if err != nil {
		t.Fatal(err)
	}
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("in process group %d, %v: Ctrl-C would end it with us", group, err)
	}
	if _, err := os.Lstat(c.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket is there still: %v", err)
	}
	if st, err := os.Stat(c.Dir + "/startup.conf"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("startup.conf: %v, %v", st.Mode(), err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if said := read(); said != "bye" {
		t.Errorf("at its end VPP says %q", said)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("VPP lives on: %v", err)
	}
}

// TestStubborn: a VPP that does not care for SIGTERM is killed.
func TestStubborn(t *testing.T) {
	t.Parallel()
	told, read := fifo(t)
	c, _ := fake(t, fmt.Sprintf(`trap '' TERM; echo $$ >%q; while :; do sleep 0.05; done`, told))
	stop := running(t, c)
	pid, err := strconv.Atoi(read())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 6*time.Second {
		t.Errorf("took %v", took)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("VPP lives on: %v", err)
	}
}

// TestKeep: a VPP to be kept outlives Run.
func TestKeep(t *testing.T) {
	t.Parallel()
	told, read := fifo(t)
	c, _ := fake(t, fmt.Sprintf(`trap 'echo bye >%[1]q; exit 0' TERM; echo $$ >%[1]q; while :; do sleep 0.05; done`, told))
	c.Keep = true
	stop := running(t, c)
	pid, err := strconv.Atoi(read())
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatalf("VPP was not kept: %v", err)
	}
	if said := read(); said != "bye" {
		t.Errorf("VPP says %q", said)
	}
}

// TestHopeless: what starting again does not mend ends Run with the reason.
func TestHopeless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  Config
		kind fault.Kind
	}{
		"no executable":  {Config{Bin: filepath.Join(dir, "vpp"), Dir: filepath.Join(dir, "a")}, fault.NotFound},
		"not executable": {Config{Bin: plain, Dir: filepath.Join(dir, "b")}, fault.Denied},
		"no directory":   {Config{Bin: plain, Dir: filepath.Join(plain, "c")}, fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := c.cfg.Run(ctx); !fault.Is(err, c.kind) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
		})
	}
}

// TestAdopt: a VPP that answers already is taken as it is; once it has ended one is launched.
func TestAdopt(t *testing.T) {
	t.Parallel()
	c, log := fake(t, `exit 3`)
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stop := running(t, c)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	log.await(t, "adopting")
	if _, err := os.Stat(c.Dir + "/startup.conf"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("launched another VPP beside the one that answers: %v", err)
	}
	_ = l.Close()
	_ = conn.Close()
	log.await(t, "adopted VPP")
	log.await(t, "VPP started")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// An adopted VPP is not ours to end: Run leaves it when ctx ends.
func TestAdoptedStays(t *testing.T) {
	t.Parallel()
	c, log := fake(t, `exit 3`)
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stop := running(t, c)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	log.await(t, "adopting")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the adopted VPP is told something: %d bytes, %v", n, err)
	}
	_ = conn.Close()
}

// orphan starts the fake VPP as an earlier agent has that was killed since.
func orphan(t *testing.T, c Config) *exec.Cmd {
	t.Helper()
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(c.Bin, "-c", c.confPath())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// TestTakeOver: a VPP that an earlier agent has launched is taken over before it answers, ended with the agent, and replaced when
// it has died. None of its files stay.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, vpp *exec.Cmd, log logLines, stop func() error){
		"agent ends": func(t *testing.T, vpp *exec.Cmd, _ logLines, stop func() error) {
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if err := vpp.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 7") {
				t.Errorf("VPP was not ended in order: %v", err)
			}
		},
		"VPP dies": func(t *testing.T, vpp *exec.Cmd, log logLines, stop func() error) {
			if err := vpp.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			log.await(t, "starting it again")
			log.await(t, "VPP started")
			_ = vpp.Wait() // it was killed
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told, read := fifo(t)
			c, log := fake(t, fmt.Sprintf(`trap 'exit 7' TERM; echo $$ >%q; while :; do sleep 0.05; done`, told))
			vpp := orphan(t, c)
			read() // the trap is set
			segment := "/dev/shm/" + c.segments() + "-test"
			if err := os.WriteFile(segment, nil, 0o600); err != nil {
				t.Skip("no shared memory on this machine:", err)
			}
			t.Cleanup(func() { _ = os.Remove(segment) })
			stop := running(t, c)
			if line := log.await(t, "adopting"); !strings.Contains(line, fmt.Sprint("pid=", vpp.Process.Pid)) {
				t.Errorf("took over another one: %s", line)
			}
			end(t, vpp, log, stop)
			if _, err := os.Stat(segment); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the segment is there still: %v", err)
			}
		})
	}
}

// TestTakeOverKept: with Keep the next agent leaves it for its own successor.
func TestTakeOverKept(t *testing.T) {
	t.Parallel()
	told, read := fifo(t)
	c, log := fake(t, fmt.Sprintf(`trap 'echo bye >%[1]q; exit 7' TERM; echo $$ >%[1]q; while :; do sleep 0.05; done`, told))
	c.Keep = true
	vpp := orphan(t, c)
	read()
	stop := running(t, c)
	log.await(t, "adopting")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := vpp.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("VPP was not kept: %v", err)
	}
	if said := read(); said != "bye" {
		t.Errorf("VPP says %q", said)
	}
	_ = vpp.Wait() // with 7
}

func TestTail(t *testing.T) {
	t.Parallel()
	var last tail
	if last.quote() != "" {
		t.Errorf("silence is %q", last.quote())
	}
	for i := range 1000 {
		n, err := fmt.Fprintf(&last, "line %d\xff\n", i)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
	q := last.quote()
	if len(q) > tailBytes+100 || !strings.HasSuffix(q, "line 999") || strings.Contains(q, "line 1\n") || !bytes.Equal([]byte(q), bytes.ToValidUTF8([]byte(q), nil)) {
		t.Errorf("%d bytes: %q", len(q), q)
	}
}

func abandoned(t *testing.T, socket string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}
