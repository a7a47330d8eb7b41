package pocketvpp

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.fd.io/govpp/adapter"
	"go.fd.io/govpp/adapter/socketclient"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/vlib"
	"go.fd.io/govpp/binapi/vpe"
	"go.fd.io/govpp/codec"
	"go.fd.io/govpp/core"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a Server for the time of the test.
func startServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(t.TempDir(), "api.sock")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if _, err := os.Lstat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket is left: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return s
}

// dial connects govpp as highwire does.
func dial(t testing.TB, socket string) *core.Connection {
	t.Helper()
	conn, err := core.Connect(socketclient.NewVppClient(socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Disconnect)
	return conn
}

// timeout bounds one step of a test.
func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHandshake(t *testing.T) {
	s := startServer(t, Config{})
	st, err := os.Stat(s.cfg.Socket)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v", st.Mode(), err)
	}
	conn := dial(t, s.cfg.Socket)
	version, err := vpe.NewServiceClient(conn).ShowVersion(timeout(t), &vpe.ShowVersion{})
	if err != nil || version.Program != "vpe" || version.Version != Version {
		t.Fatalf("show_version: %+v, %v", version, err)
	}
	if n := s.Messages()["show_version"]; n != 1 {
		t.Errorf("show_version counted %d times", n)
	}
}

// A message of another version has another CRC and is not in the table.
func TestWrongCRC(t *testing.T) {
	s := startServer(t, Config{})
	client := socketclient.NewVppClient(s.cfg.Socket)
	client.SetMsgCallback(func(uint16, []byte) {})
	if err := client.Connect(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Disconnect() }()
	ping := &memclnt.ControlPing{}
	if _, err := client.GetMsgID(ping.GetMessageName(), ping.GetCrcString()); err != nil {
		t.Error(err)
	}
	var unknown *adapter.UnknownMsgError
	if _, err := client.GetMsgID(ping.GetMessageName(), "00000000"); !errors.As(err, &unknown) {
		t.Errorf("wrong crc: %v", err)
	}
}

func TestFault(t *testing.T) {
	faults := map[string]int32{"show_version": int32(api.BUSY)}
	s := startServer(t, Config{Fault: func(name string) (int32, bool) { return faults[name], name == "cli_inband" }})
	conn := dial(t, s.cfg.Socket)
	_, err := vpe.NewServiceClient(conn).ShowVersion(timeout(t), &vpe.ShowVersion{})
	if !errors.Is(err, api.BUSY) {
		t.Errorf("show_version: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if reply, err := vlib.NewServiceClient(conn).CliInband(ctx, &vlib.CliInband{Cmd: "show version"}); err == nil {
		t.Errorf("dropped request was answered: %+v", reply)
	}
	if n := s.Messages()["cli_inband"]; n != 1 {
		t.Errorf("cli_inband counted %d times", n)
	}
}

func TestSocketInUse(t *testing.T) {
	s := startServer(t, Config{})
	second, err := New(Config{Socket: s.cfg.Socket})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil {
		t.Error("two servers on one socket")
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	s := startServer(t, Config{Socket: path})
	dial(t, s.cfg.Socket)
}

// What one client does wrong costs the others nothing.
func TestGarbageClient(t *testing.T) {
	s := startServer(t, Config{})
	good := dial(t, s.cfg.Socket)
	for _, data := range [][]byte{
		{},
		{0},
		make([]byte, 16),
		append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0),
		append(make([]byte, 8), 0, 0, 0, 2, 0, 0, 0, 0, 0xff, 0xff),
		append(make([]byte, 8), 0, 0, 0, 3, 0, 0, 0, 0, 0, 15, 1),
	} {
		c, err := net.Dial("unix", s.cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(data)
		_ = c.Close()
	}
	if _, err := vpe.NewServiceClient(good).ShowVersion(timeout(t), &vpe.ShowVersion{}); err != nil {
		t.Error(err)
	}
}

// A client that reads nothing holds up nobody else, and is cut off in the end.
func TestDeafClient(t *testing.T) {
	s := startServer(t, Config{})
	deaf, err := net.Dial("unix", s.cfg.Socket)
	must(t, err)
	defer func() { _ = deaf.Close() }()
	hello, err := codec.EncodeMsg(&memclnt.SockclntCreate{Name: "deaf"}, sockclntCreateID)
	must(t, err)
	stream := appendFrame(nil, hello)
	dump, err := codec.EncodeMsg(&vlib.CliInband{Cmd: strings.Repeat("x", 32<<10)}, s.table.declare(&vlib.CliInband{}))
	must(t, err)
	binary.BigEndian.PutUint32(dump[2:], handleBit)
	for range 100 {
		stream = appendFrame(stream, dump)
	}
	must(t, deaf.SetDeadline(time.Now().Add(20*time.Second)))
	cutOff := make(chan error, 1)
	go func() {
		for {
			if _, err := deaf.Write(stream); err != nil {
				cutOff <- err
				return
			}
			stream = stream[len(stream)-100*(frameHeader+len(dump)):]
		}
	}()
	conn := dial(t, s.cfg.Socket)
	for done := false; !done; {
		must(t, second(vpe.NewServiceClient(conn).ShowVersion(timeout(t), &vpe.ShowVersion{})))
		select {
		case err := <-cutOff:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("not cut off")
			}
			done = true
		default:
		}
	}
}
