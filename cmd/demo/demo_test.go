package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"highwire/cmd/lab"
)

// stand is the variable that turns the test's own binary into a highwire which only pretends; its value says how the
// client behaves.
const stand = "HIGHWIRE_DEMO_STAND_IN"

func TestMain(m *testing.M) {
	if mode := os.Getenv(stand); mode != "" {
		os.Exit(pretend(mode))
	}
	goleak.VerifyTestMain(m)
}

// pretend is a member process: ready at once and done at SIGTERM, but for the client, which behaves as mode says.
func pretend(mode string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if os.Args[1] == "client" {
		switch mode {
		case "fails":
			fmt.Println("client: no such service")
			return 1
		case "silent":
			<-stop
			return 0
		}
	}
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		fmt.Println(err)
		return 1
	}
	<-stop
	return 0
}

func TestFailure(t *testing.T) {
	ns, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	for _, c := range []struct{ mode, want string }{
		{"fails", "last words of the client:\n  client: no such service"},
		{"silent", "interrupted"},
		// Ready, but the agent is none: asking it for its vWires gets no answer that makes sense.
		{"ready", "highwire get vwires"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			t.Setenv(stand, c.mode)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var out bytes.Buffer
			w := writer(func(p []byte) {
				out.Write(p)
				// The client comes right after the endpoint.
				if c.mode == "silent" && bytes.Contains(p, []byte("endpoint is registered")) {
					time.AfterFunc(50*time.Millisecond, cancel)
				}
			})
			err := Run(ctx, Config{Exe: os.Args[0], Payload: "ETHERNET", Mechanism: "kernel", CIDRs: []string{"10.0.0.0/24"}, Out: w})
			if err == nil || !strings.Contains(out.String()+err.Error(), c.want) {
				t.Errorf("error %v; want %q in it\n%s", err, c.want, &out)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if pids := childrenOf(t); pids != "" {
				t.Errorf("processes left: %s", pids)
			}
		})
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// childrenOf lists the processes that this one started and that still are.
func childrenOf(t *testing.T) string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var pids []byte
	for _, task := range tasks {
		// A task that ended meanwhile has no children.
		text, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		pids = append(pids, text...)
	}
	return string(pids)
}
