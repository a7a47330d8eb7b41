package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/vppapi"
)

// tally is numbers of things by what they are.
type tally map[string]int64

func (t tally) names() []string { return slices.Sorted(maps.Keys(t)) }

// census is what there is of a mesh in all places where something could be left.
type census struct {
	things, memory tally
}

func (c census) names() string { return strings.Join(c.things.names(), ", ") }

// beyond counts things that were not there before, and lists them.
func (c census) beyond(before census) (n int64, what string) {
	var list []string
	for _, name := range c.things.names() {
		if more := c.things[name] - before.things[name]; more > 0 {
			n += more
			list = append(list, fmt.Sprintf("%d %s", more, name))
		}
	}
	if n == 0 {
		return 0, "nothing left"
	}
	return n, "left: " + strings.Join(list, ", ")
}

// atRest counts after the grace period, several times; some numbers go up and down by one.
func (s *stage) atRest(ctx context.Context) (most census, err error) {
	if err := pause(ctx, 2*churnGrace); err != nil {
		return most, err
	}
	most = census{tally{}, tally{}}
	for range 5 {
		now, err := s.count(ctx)
		if err != nil {
			return most, err
		}
		for name, n := range now.things {
			most.things[name] = max(most.things[name], n)
		}
		most.memory = now.memory
		if err := pause(ctx, time.Second/2); err != nil {
			return most, err
		}
	}
	return most, nil
}

// settled counts until nothing is left beyond what was there before, or for too long.
func (s *stage) settled(ctx context.Context, before census) (now census, err error) {
	for end := time.Now().Add(settlesWithin); ; {
		if now, err = s.count(ctx); err != nil {
			return now, err
		}
		if n, _ := now.beyond(before); n == 0 || time.Now().After(end) {
			return now, nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return now, err
		}
	}
}

// count looks everywhere.
func (s *stage) count(ctx context.Context) (census, error) {
	c := census{tally{}, tally{}}
	answer, err := highwirev1.NewInspectClient(s.admin).ListVWires(ctx, &highwirev1.ListVWiresRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return c, err
	}
	c.things["vWires of the agent"] = int64(len(answer.GetVwires()))
	processes := map[string]int{"the agent": s.agent.PID(), "the endpoint": s.endpoint.PID()}
	err = hand(ctx, s.plane, func(v *vppapi.Conn) error {
		if pid := v.PID(); pid != os.Getpid() {
			processes["VPP"] = pid
		}
		return countInVPP(ctx, v, c.things)
	})
	if err != nil {
		return c, err
	}
	for name, pid := range processes {
		u, err := usageOf(pid)
		if err != nil {
			return c, err
		}
		c.memory[name] = u.memory
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return c, err
		}
		c.things["descriptors of "+name] = int64(len(open))
		sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
		if err != nil {
			return c, err
		}
		c.things["memif sockets where "+name+" is"] = int64(strings.Count(string(sockets), "memif.sock"))
	}
	if c.things["processes"], err = s.processes(); err != nil {
		return c, err
	}
	if c.things["goroutines of the agent"], err = s.goroutines(ctx); err != nil {
		return c, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return c, err
	}
	c.things["kernel interfaces"] = int64(len(links))
	pins, err := filepath.Glob(s.path("data/netns/*"))
	if err != nil {
		return c, err
	}
	c.things["names of namespaces"] = int64(len(pins))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return c, err
	}
	c.things["mounts"] = int64(strings.Count(string(mounts), s.dir))
	return c, nil
}

// goroutines asks the agent's metrics, over the loopback interface, which is down in a new namespace.
func (s *stage) goroutines(ctx context.Context) (n int64, err error) {
	address := ""
	for _, line := range s.agent.Said("time=") { // the last is of this life
		if _, said, ok := strings.Cut(line, `"metrics and probes" address=`); ok {
			address = said
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	request.Close = true // a connection kept would be counted
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	figures, err := io.ReadAll(answer.Body)
	for line := range strings.Lines(string(figures)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "go_goroutines "); ok {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, errors.Join(err, fmt.Errorf("no go_goroutines at %s", address))
}

// processes counts those with a file of the mesh in their command line: agents, endpoints, VPPs.
func (s *stage) processes() (n int64, err error) {
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range list {
		// One that has ended meanwhile does not count.
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), s.dir+"/") {
			n++
		}
	}
	return n, nil
}

// countInVPP counts interfaces and memif sockets, ours or not.
func countInVPP(ctx context.Context, v *vppapi.Conn, things tally) error {
	for what, line := range map[string]string{"interfaces of VPP": "show interface", "memif sockets of VPP": "show memif"} {
		out, err := v.CLI(ctx, line)
		if err != nil {
			return err
		}
		for l := range strings.Lines(out) {
			if line == "show memif" && strings.Contains(l, "memif.sock") || line == "show interface" && strings.TrimSpace(l) != "" && l[0] != ' ' {
				things[what]++
			}
		}
	}
	return nil
}
