package registry

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func (s *sockets) count() (files, names int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files), len(s.names)
}

// A socket is open exactly as long as an endpoint holds it, and only once.
func TestSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sockets
		file := func() *os.File {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		isOpen := func(f *os.File) bool { _, err := f.Stat(); return err == nil }
		check := func(what string, files, names int) {
			t.Helper()
			if f, n := s.count(); f != files || n != names {
				t.Errorf("%s: %d files, %d names held, want %d, %d", what, f, n, files, names)
			}
		}
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }

		first, extra := file(), file()
		s.hold("a", "inode://1/1", first, in(time.Minute))
		s.hold("b", "inode://1/1", extra, in(2*time.Minute))
		check("two names", 1, 2)
		if isOpen(extra) || !isOpen(first) {
			t.Error("the second file of one inode must be closed, the first kept")
		}
		time.Sleep(30 * time.Second)
		s.hold("a", "inode://1/1", nil, in(time.Minute)) // a refresh
		time.Sleep(45 * time.Second)
		synctest.Wait()
		check("refreshed", 1, 2)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		check("a expired", 1, 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		check("both expired", 0, 0)
		if isOpen(first) {
			t.Error("the file stayed open")
		}

		before, after := file(), file()
		s.hold("a", "inode://1/2", before, in(time.Minute))
		s.hold("a", "inode://1/3", after, in(time.Minute)) // moved to another socket
		check("moved", 1, 1)
		if _, ok := s.target("inode://1/2"); ok || isOpen(before) {
			t.Error("the former socket stayed")
		}
		if _, ok := s.target("inode://1/3"); !ok {
			t.Error("the new socket has no target")
		}
		s.hold("a", "tcp://127.0.0.1:1", nil, in(time.Minute)) // moved to TCP
		check("moved to TCP", 0, 0)
		s.hold("c", "inode://1/4", file(), in(time.Minute))
		s.drop("c")
		s.drop("c")
		check("dropped", 0, 0)
		s.hold("d", "inode://1/5", file(), in(time.Minute))
		s.close()
		check("closed", 0, 0)
	})
}
