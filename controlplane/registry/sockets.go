package registry

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// socketWait is how long an endpoint's socket may take to arrive after the message that names it.
const socketWait = 5 * time.Second

// sockets are the listening sockets of local endpoints, as O_PATH files that came beside their registrations. An inode is
// held once, however often and under however many names it is registered. While it is held its number cannot be given to
// another file, so an equal URL is the same socket. The zero sockets is ready to use.
type sockets struct {
	mu    sync.Mutex
	files map[string]*os.File // by URL
	names map[string]*holding // by endpoint name
}

// holding is an endpoint's right to a socket until it expires.
type holding struct {
	url    string
	expiry *time.Timer
}

// receive gets the socket of the URL: a duplicate where it is held already, else from the transport that ctx's RPC came on.
// URLs and transports without files give nil. The caller closes the file or hands it to hold.
func (s *sockets) receive(ctx context.Context, url string) (*os.File, error) {
	if file := s.duplicate(url); file != nil {
		return file, nil
	}
	inode, err := mechanisms.ParseInode(url)
	files := hop.FilesOf(ctx)
	if err != nil || files == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	file, err := files.Receive(ctx, inode)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "socket of the endpoint: %w", err)
	}
	unix.CloseOnExec(int(file.Fd()))
	if info, err := file.Stat(); err != nil || info.Mode().Type() != os.ModeSocket {
		_ = file.Close()
		return nil, fault.New(fault.Invalid, "url %s: the file sent along is not a socket", url)
	}
	return file, nil
}

func (s *sockets) duplicate(url string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.files[url]
	if file == nil {
		return nil
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), file.Name())
}

// hold keeps file, or the one held already, for the endpoint until the time given. It takes the place of what the endpoint
// held before.
func (s *sockets) hold(name, url string, file *os.File, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files, s.names = map[string]*os.File{}, map[string]*holding{}
	}
	if s.files[url] == nil && file != nil {
		s.files[url], file = file, nil
	}
	if file != nil {
		_ = file.Close()
	}
	before := s.names[name]
	delete(s.names, name)
	if s.files[url] != nil {
		h := &holding{url: url}
		h.expiry = time.AfterFunc(time.Until(until), func() { s.expire(name, h) })
		s.names[name] = h
	}
	s.release(before)
}

// drop takes the socket from the endpoint.
func (s *sockets) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.names[name]
	delete(s.names, name)
	s.release(h)
}

// expire is drop, unless the endpoint has registered again meanwhile.
func (s *sockets) expire(name string, h *holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == h {
		delete(s.names, name)
		s.release(h)
	}
}

// release closes the file of a former holding when no endpoint holds it any more.
func (s *sockets) release(h *holding) {
	if h == nil {
		return
	}
	h.expiry.Stop()
	for _, other := range s.names {
		if other.url == h.url {
			return
		}
	}
	if file := s.files[h.url]; file != nil {
		_ = file.Close()
		delete(s.files, h.url)
	}
}

// target is the gRPC target of a held socket. connect(2) follows the link to an O_PATH socket.
func (s *sockets) target(url string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.files[url]
	if file == nil {
		return "", false
	}
	return fmt.Sprintf("unix:///proc/self/fd/%d", file.Fd()), true
}

// url is the URL of the socket that the endpoint gave us.
func (s *sockets) url(name string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.names[name]
	if h == nil {
		return "", false
	}
	return h.url, true
}

// send passes the socket of the URL along with the answer to ctx's RPC, for forwarders that dial endpoints themselves.
func (s *sockets) send(ctx context.Context, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file := s.files[url]; file != nil {
		hop.SendFile(ctx, file)
	}
}

func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.names {
		delete(s.names, name)
		s.release(h)
	}
}
