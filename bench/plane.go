package bench

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/pocketvpp"
)

// plane is the dataplane of a mesh, which can be killed and counts what it is told.
type plane interface {
	// flags choose it for the agent.
	flags(bin string) []string
	// found tells it the mesh that it is used by.
	found(*mesh)
	// socket of its binary API.
	socket() string
	// kill ends it without a word; another one follows by itself.
	kill(ctx context.Context) (at time.Time, err error)
	// changes counts the messages so far that change anything, by name.
	changes(ctx context.Context) (changes, error)
	end() error
}

// changes are numbers of messages by name.
type changes map[string]uint64

func (c changes) sum() (n uint64) {
	for _, m := range c {
		n += m
	}
	return n
}

// since lists what came on top of before.
func (c changes) since(before changes) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if n := c[name] - before[name]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, name))
		}
	}
	if len(list) == 0 {
		return "no message that changes anything"
	}
	return strings.Join(list, ", ")
}

// changing tells messages that can change something from those that ask, and from those by which a session begins and lives.
func changing(message string) bool {
	for _, suffix := range []string{"_dump", "_get", "_reply", "_details", "_event"} {
		if strings.HasSuffix(message, suffix) {
			return false
		}
	}
	for _, prefix := range []string{"show_", "get_", "want_", "sockclnt_", "control_ping", "cli_inband", "memclnt_", "api_versions", "trace_plugin_"} {
		if strings.HasPrefix(message, prefix) {
			return false
		}
	}
	return true
}

// hand calls fn with a session of its own on the plane.
func hand(ctx context.Context, p plane, fn func(c *vppapi.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		c, err := vppapi.Dial(ctx, p.socket())
		if err == nil {
			defer c.Close()
			return fn(c)
		}
		if !fault.Is(err, fault.Unavailable) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("no dataplane within %v: %w", startsWithin, err)
		}
	}
}

// answers waits until VPP answers on its API socket after it was killed, and tells when it first did.
func (s *stage) answers(ctx context.Context) (at time.Time, err error) {
	err = hand(ctx, s.plane, func(*vppapi.Conn) error { at = time.Now(); return nil })
	return at, err
}

// still waits until nobody has told VPP to change anything for a while, and returns the changes so far.
func (s *stage) still(ctx context.Context) (changes, error) {
	last, err := s.changes(ctx)
	for err == nil {
		if err = pause(ctx, time.Second); err != nil {
			break
		}
		now, err := s.changes(ctx)
		if err != nil || now.sum() == last.sum() {
			return now, err
		}
		last = now
	}
	return last, err
}

// agentNoticed is when the agent said, after the moment, that its VPP is gone.
func (s *stage) agentNoticed(after time.Time) (at time.Time, ok bool) {
	for _, line := range s.agent.Said("time=") {
		if !strings.Contains(line, `"VPP session ended"`) {
			continue
		}
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		// The log has whole milliseconds, cut off.
		if err == nil && at.Add(time.Millisecond).After(after) {
			return at, true
		}
	}
	return time.Time{}, false
}

// spawned is a VPP that the agent launches.
type spawned struct {
	mesh    *mesh
	tracing bool
}

func (s *spawned) flags(bin string) []string { return []string{"--vpp=spawn", "--vpp-bin=" + bin} }
func (s *spawned) found(m *mesh)             { s.mesh = m }
func (s *spawned) socket() string            { return s.mesh.path("data/vpp/api.sock") }
func (s *spawned) end() error                { return nil }

func (s *spawned) pid(ctx context.Context) (pid int, err error) {
	err = hand(ctx, s, func(c *vppapi.Conn) error { pid = c.PID(); return nil })
	return pid, err
}

func (s *spawned) kill(ctx context.Context) (at time.Time, err error) {
	err = hand(ctx, s, func(c *vppapi.Conn) error {
		at = time.Now()
		if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
			return err
		}
		<-c.Done() // the kernel takes its time with a large process
		return nil
	})
	return at, err
}

// changes are read from VPP's own trace of its API, which the first call turns on.
func (s *spawned) changes(ctx context.Context) (c changes, err error) {
	c = changes{}
	err = hand(ctx, s, func(v *vppapi.Conn) error {
		if !s.tracing {
			s.tracing = true
			_, err := v.CLI(ctx, "api trace on nitems 100000")
			return err
		}
		out, err := v.CLI(ctx, "api trace dump")
		for line := range strings.Lines(out) {
			name, ok := strings.CutPrefix(strings.TrimSpace(line), "vl_api_")
			if name, ok2 := strings.CutSuffix(name, "_t:"); ok && ok2 && changing(name) {
				c[name]++
			}
		}
		return err
	})
	return c, err
}

// pocket is a pocketvpp in this process.
type pocket struct {
	dir    string
	server *pocketvpp.Server
	part   part
}

func newPocket() (*pocket, error) {
	dir, err := os.MkdirTemp("", "hw-bench")
	if err != nil {
		return nil, err
	}
	p := &pocket{dir: dir}
	return p, p.start()
}

func (p *pocket) start() (err error) {
	p.server, err = pocketvpp.New(pocketvpp.Config{Socket: p.socket(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	p.part = start(context.Background(), p.server.Run)
	<-p.server.Ready()
	return nil
}

func (p *pocket) flags(string) []string {
	return []string{"--vpp=external", "--vpp-socket=" + p.socket()}
}
func (p *pocket) found(*mesh)    {}
func (p *pocket) socket() string { return filepath.Join(p.dir, "api.sock") }

func (p *pocket) kill(context.Context) (time.Time, error) {
	at := time.Now()
	p.part.stop()
	return at, p.start()
}

func (p *pocket) changes(context.Context) (changes, error) {
	c := changes{}
	for name, n := range p.server.Messages() {
		if changing(name) {
			c[name] = n
		}
	}
	return c, nil
}

func (p *pocket) end() error {
	p.part.stop()
	return os.RemoveAll(p.dir)
}
