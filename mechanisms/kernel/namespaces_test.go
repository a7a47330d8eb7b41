package kernel

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// TestHold counts uses, and keeps a namespace of its own accord.
func TestHold(t *testing.T) {
	t.Parallel()
	n := NewNamespaces()
	ns, id := newNamespace(t, NewNamespaces())
	st, err := ns.File().Stat()
	if err != nil || inodeOf(st) != id {
		t.Fatalf("held as %s: %v", id, err)
	}
	path, err := os.OpenFile(ns.Path(), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []*os.File{ns.File(), path} {
		if got, err := n.Hold(f); got != id || err != nil || n.Len() != 1 {
			t.Errorf("hold %d: %s, %v, %d held", i, got, err, n.Len())
		}
	}
	if err := n.Find(id); err != nil {
		t.Error(err)
	}
	if _, err := path.Stat(); err != nil {
		t.Errorf("the caller's file is closed: %v", err)
	}
	_, _ = path.Close(), ns.Close()
	for range 2 {
		n.Release(id)
		if err := n.with(id, func(fd int) error { return unix.Fstat(fd, new(unix.Stat_t)) }); err != nil || n.Len() != 1 {
			t.Errorf("%v, %d held", err, n.Len())
		}
	}
	n.Release(id)
	n.Release(id)
	n.Release(mechanisms.Inode{Dev: 1, Ino: 2})
	if n.Len() != 0 {
		t.Errorf("%d are held still", n.Len())
	}
}

// TestHoldOthers: what else a peer may send is refused, at once and without being opened.
func TestHoldOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	closed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	files := map[string]*os.File{"pipe": r, "closed": closed}
	for _, path := range []string{fifo, file, dir, "/dev/null", "/proc/self/ns/uts", "/proc/self/status"} {
		f, err := os.OpenFile(path, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[path] = f
	}
	n := NewNamespaces()
	for name, f := range files {
		done := make(chan error, 1)
		go func() {
			_, err := n.Hold(f)
			done <- err
		}()
		select {
		case err := <-done:
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v: %v", name, fault.KindOf(err), err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: still being opened", name)
		}
	}
	if n.Len() != 0 {
		t.Errorf("%d are held", n.Len())
	}
}

// TestFind: a namespace that nobody handed over is found by a process that is in it.
func TestFind(t *testing.T) {
	t.Parallel()
	n := NewNamespaces()
	ns, id := newNamespace(t, NewNamespaces())
	cmd := exec.Command("sleep", "60")
	do(t, ns, cmd.Start)
	if err := n.Find(id); err != nil || n.Len() != 1 {
		t.Errorf("%v, %d held", err, n.Len())
	}
	n.Release(id)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := n.Find(id); !fault.Is(err, fault.NotFound) || n.Len() != 0 {
		t.Errorf("without a process: %v: %v, %d held", fault.KindOf(err), err, n.Len())
	}
	if err := n.with(id, func(int) error { t.Error("called"); return nil }); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

// TestFindWanderer: a process that changes its namespace all the time misleads nobody.
func TestFindWanderer(t *testing.T) {
	t.Parallel()
	var files []*os.File
	var ids []mechanisms.Inode
	for range 2 {
		ns, id := newNamespace(t, NewNamespaces())
		files, ids = append(files, ns.File()), append(ids, id)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), wandering+"=1")
	cmd.ExtraFiles, cmd.Stderr = files, t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	n := NewNamespaces()
	found := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		id := ids[found%2]
		err := n.with(id, func(fd int) error {
			found++
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Ino != id.Ino {
				t.Errorf("inode %d, %v; want %s", st.Ino, err, id)
			}
			return nil
		})
		if err != nil && !fault.Is(err, fault.NotFound) || n.Len() != 0 {
			t.Fatalf("%v, %d held", err, n.Len())
		}
	}
	t.Log("found", found, "times")
}

// TestEnter: work in a namespace is done there and nowhere else.
func TestEnter(t *testing.T) {
	t.Parallel()
	n := NewNamespaces()
	ns, id := newNamespace(t, n)
	vethIn(t, ns, "marker", "marker2")
	at := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return s
	}
	failure := errors.New("of the work")
	for range 20 {
		home := at()
		if err := n.enter(within(t), id, func(h *netlink.Handle) error {
			if at() == home {
				t.Error("the thread is at home still")
			}
			_, err := h.LinkByName("marker")
			return errors.Join(err, failure)
		}); !errors.Is(err, failure) {
			t.Error(err)
		}
		if at() != home {
			t.Error("the thread has not come back")
		}
	}
}
