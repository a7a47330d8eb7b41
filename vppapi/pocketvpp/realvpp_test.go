package pocketvpp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// target is something that behaves as VPP: a Server, or VPP itself. Tests that say how VPP behaves run against both.
type target struct {
	socket string
	netns  string // in which it looks for interfaces
	pocket *Server
}

// againstVPP runs test against a Server, and against VPP where HIGHWIRE_VPP_BIN tells of one.
func againstVPP(t *testing.T, test func(t *testing.T, vpp target)) {
	t.Run("pocket", func(t *testing.T) {
		netns := newNetns(t)
		s := startServer(t, Config{Netns: netns})
		test(t, target{s.cfg.Socket, netns, s})
	})
	t.Run("vpp", func(t *testing.T) {
		bin := os.Getenv("HIGHWIRE_VPP_BIN")
		if bin == "" {
			t.Skip("no VPP to compare with: set HIGHWIRE_VPP_BIN")
		}
		netns := newNetns(t)
		test(t, target{startVPP(t, bin, netns), netns, nil})
	})
}

// startVPP runs VPP for the time of the test and returns its API socket.
func startVPP(t *testing.T, bin, netns string) string {
	dir := t.TempDir()
	conf := fmt.Sprintf(`unix { nodaemon nosyslog log %[1]s/vpp.log cli-listen %[1]s/cli.sock runtime-dir %[1]s }
api-segment { prefix %[2]s }
socksvr { socket-name %[1]s/api.sock }
statseg { socket-name %[1]s/stats.sock }
memory { main-heap-size 256M }
buffers { buffers-per-numa 4096 page-size default }
plugins { plugin default { disable } plugin af_packet_plugin.so { enable } plugin l3xc_plugin.so { enable } plugin memif_plugin.so { enable } plugin vxlan_plugin.so { enable } plugin wireguard_plugin.so { enable } plugin crypto_native_plugin.so { enable } plugin crypto_openssl_plugin.so { enable } plugin tracedump_plugin.so { enable } }
`, dir, ns(netns))
	path := filepath.Join(dir, "startup.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", ns(netns), bin, "-c", path)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	socket := filepath.Join(dir, "api.sock")
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := os.Stat(socket); err == nil {
			return socket
		} else if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			t.Fatalf("VPP does not come up: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
