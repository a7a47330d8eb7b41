package filepass

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is both ends of a unix connection.
func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	a, b = wrap(dialed), wrap(accepted)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

func file(t *testing.T, text string) (*os.File, mechanisms.Inode) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f, inodeOf(t, f)
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestPass: bytes arrive as they were, files arrive beside them, once each, and waiting works in both orders.
func TestPass(t *testing.T) {
	a, b := pair(t)
	sent, id := file(t, "hello")
	early := make(chan error, 1)
	go func() {
		f, err := b.Receive(within(t), id)
		if err == nil {
			err = f.Close()
		}
		early <- err
	}()
	for range 3 { // as with every refresh
		if err := a.Send(sent.Fd()); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := a.Write([]byte("0123456789")); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "0123456789" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := <-early; err != nil {
		t.Fatal(err)
	}
	f, err := b.Receive(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text := make([]byte, 5); true {
		if _, err := f.ReadAt(text, 0); err != nil || string(text) != "hello" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if len(b.held) != 1 {
		t.Errorf("%d descriptors held, want 1", len(b.held))
	}
}

// TestMore: more files than bytes, and more than one write carries, all arrive in the end.
func TestMore(t *testing.T) {
	a, b := pair(t)
	var ids []mechanisms.Inode
	for range perWrite + 10 {
		f, id := file(t, "x")
		if err := a.Send(f.Fd()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, text := range []string{"ab", string(make([]byte, 100)), string(make([]byte, 20))} {
		if _, err := a.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(b, make([]byte, 122)); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		f, err := b.Receive(within(t), id)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
}

// TestNever: a file that does not come is told apart from a connection that is gone.
func TestNever(t *testing.T) {
	a, b := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Receive(ctx, mechanisms.Inode{Dev: 1, Ino: 2}); !fault.Is(err, fault.Timeout) {
		t.Errorf("got %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := b.Receive(within(t), mechanisms.Inode{Dev: 1, Ino: 2})
		waiting <- err
	}()
	_ = b.Close()
	if err := <-waiting; !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("reading on a closed connection: %d, %v", n, err)
	}
	if err := b.Send(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("sending on a closed connection: %v", err)
	}
	_ = a.Close()
}

// TestNothingLeft: whatever is queued, held or under way when a connection ends is closed; a peer can leave no more than
// the limit.
func TestNothingLeft(t *testing.T) {
	many := make([]*os.File, 0, maxHeld+50)
	for range cap(many) {
		f, _ := file(t, "x")
		many = append(many, f)
	}
	before := openFiles(t)
	a, b := pair(t)
	var all sync.WaitGroup
	all.Go(func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{b}) })
	for _, f := range many {
		all.Go(func() {
			_ = a.Send(f.Fd())
			_, _ = a.Write([]byte("x"))
		})
	}
	_ = a.UnixConn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	stop := time.AfterFunc(50*time.Millisecond, func() { _ = a.Close() })
	defer stop.Stop()
	all.Wait()
	b.mu.Lock()
	held := len(b.held)
	b.mu.Unlock()
	if held > maxHeld {
		t.Errorf("%d descriptors held", held)
	}
	_ = a.Send(many[0].Fd())
	_ = a.Close()
	_ = b.Close()
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func inodeOf(t *testing.T, f *os.File) mechanisms.Inode {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return mechanisms.Inode{Dev: st.Dev, Ino: st.Ino}
}
