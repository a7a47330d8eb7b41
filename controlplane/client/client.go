// Package client is an NSM client (NSC): it requests network services for a network namespace and keeps them.
//
// Each service is a connection of its own, kept in rounds:
//
//  1. Dial the server anew and send the Request, the namespace's file beside it.
//  2. Check what came back: path, tokens, mechanism, addresses.
//  3. Listen to the connection's monitor stream until a fifth of the tokens' lifetime has passed: then a refresh is due.
//
// Before the first one, a connection that a former life has left at the server is taken up.
//
// What goes wrong ends a round early. The other side answers no pings, or the server says that the connection is DOWN or
// deleted and no ping proves it wrong: close it, and request it anew without insisting on the endpoint (reselect). The stream breaks: the server may have been restarted and packets still
// flow, so an ordinary refresh comes first, and reselect only when that keeps failing. Failed Requests are repeated with
// growing, random pauses.
//
// With Config.DNS it also answers the namespace's DNS queries, see controlplane/names.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/names"
	"highwire/mechanisms"
	"highwire/mechanisms/sriov"
	"highwire/vppapi/fault"
)

// Config says what a client wants and from whom. Source, Target, Name and Services are needed.
type Config struct {
	Source *identity.Source
	// Target is the manager's address, unix:///path or tcp://host:port. Only unix sockets carry the namespace's file.
	Target string
	// Name is the client's path segment name (NSM_NAME). One server should not see it twice at a time.
	Name     string
	Services []Service
	// Labels go with every service that does not set the same ones itself, such as nodeName and podName.
	Labels map[string]string
	// Namespace is the path of the network namespace that gets the interfaces, empty for our own.
	Namespace string
	// MemifDir is where the agent's memif sockets that are files (its --memif-dir) are seen from here; empty for abstract
	// sockets in Namespace.
	MemifDir string
	// RequestTimeout bounds each Request and Close, 0 for 15 s.
	RequestTimeout time.Duration
	// LivenessInterval is how often the other side of a KERNEL connection is asked for an echo, from every address to
	// every address; 0 for never.
	LivenessInterval time.Duration
	// LivenessTimeout is how long it may answer nothing before the connection counts as lost, 0 for 3 s.
	LivenessTimeout time.Duration
	// Init has Run return as soon as every service is connected, and leave the connections to the next client of this Name:
	// an init container does so for its sidecar. Is ctx ended before, they are closed.
	Init bool
	// DNS, if set, has the names of Namespace answered by us, out of the connections' DNS contexts too; not with Init. Enter is
	// set here.
	DNS *names.Config
	// Events hears of every change, one call at a time for each service; nil hears nothing.
	Events func(Event)
}

// Event is what became of one service.
type Event struct {
	Kind EventKind
	// Service is the index in Config.Services.
	Service int
	// Connection is as the server answered, its tokens included; nil for Failed before the first answer. Never change it.
	Connection *connection.Connection
	// Interface is the name of the interface in the namespace, for KERNEL.
	Interface string
	// Socket is the control socket of a memif, for MEMIF: an abstract one ("@…") in the namespace. Its listener is the
	// server's, and the master; the caller runs its application on it as slave.
	Socket string
	// Err is why, for Failed and Lost.
	Err error
}

// EventKind is what happened.
type EventKind string

const (
	// Connected: the interface is there, for the first time or after Lost.
	Connected EventKind = "connected"
	// Refreshed: the connection goes on.
	Refreshed EventKind = "refreshed"
	// Lost: the server or the endpoint lost the connection; it is requested anew.
	Lost EventKind = "lost"
	// Failed: a Request failed; it is repeated.
	Failed EventKind = "failed"
	// Closed: the connection was closed because the client ends.
	Closed EventKind = "closed"
)

// Client keeps connections while Run runs.
type Client struct {
	Config
	target    string
	namespace *os.File
	inode     mechanisms.Inode
	names     *names.Server // nil without DNS

	mu     sync.Mutex
	prefix map[int][]string // addresses and host routes in use, by service
	first  sync.Mutex       // held by the service that makes its first Request
}

// Run requests all services and keeps them until ctx ends; then it closes them and returns nil, see also Config.Init. What can never succeed is
// returned at once: fault.Invalid.
func Run(ctx context.Context, config Config) (err error) {
	c := &Client{Config: config, prefix: map[int][]string{}}
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 15*time.Second)
	c.LivenessTimeout = cmp.Or(c.LivenessTimeout, 3*time.Second)
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.target, err = hop.Target(c.Target); err != nil {
		return err
	}
	if c.Name == "" || len(c.Services) == 0 {
		return fault.New(fault.Invalid, "a client needs a name and at least one network service")
	}
	if c.namespace, c.inode, err = hop.OpenFile(cmp.Or(c.Namespace, "/proc/thread-self/ns/net")); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer c.namespace.Close()
	if c.DNS != nil && !c.Init {
		if err := c.serveNames(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.names.Close()) }()
	}

	var running sync.WaitGroup
	sessions := make([]*session, len(c.Services))
	for i, s := range c.Services {
		sessions[i] = &session{client: c, index: i, log: slog.With("service", s.Name, "client", c.Name)}
		sessions[i].conn = c.wanted(i, s)
		running.Go(func() { sessions[i].run(ctx) })
	}
	running.Wait()
	if ctx.Err() != nil {
		for _, s := range sessions {
			running.Go(func() { s.end(ctx) })
		}
		running.Wait()
	}
	return nil
}

// wanted is the connection of a service before it was ever requested.
func (c *Client) wanted(i int, s Service) *connection.Connection {
	id := fmt.Sprintf("%s-%d", c.Name, i)
	labels := map[string]string{}
	for _, m := range []map[string]string{c.Labels, s.Labels} {
		for k, v := range m {
			labels[k] = v
		}
	}
	return &connection.Connection{
		Id: id, NetworkService: s.Name, Labels: labels,
		Path: &connection.Path{PathSegments: []*connection.PathSegment{{Name: c.Name, Id: id}}},
	}
}

// preference is the mechanism that a service asks for.
func (c *Client) preference(s Service) *connection.Mechanism {
	p := make(map[string]string)
	if inode := c.place(s); inode != "" {
		p[mechanisms.ParamInode] = inode
	}
	if s.Interface != "" {
		p[mechanisms.ParamName] = s.Interface
	}
	if s.TokenID != "" {
		p[sriov.ParamToken] = s.TokenID
	}
	return &connection.Mechanism{Cls: string(mechanisms.Local), Type: s.Mechanism, Parameters: p}
}

// place is the namespace that the end of a service is in, as an inode URL; empty for a memif socket that is a file.
func (c *Client) place(s Service) string {
	if s.Mechanism == mechanisms.Memif && c.MemifDir != "" {
		return ""
	}
	return c.inode.String()
}

// socket is where to find a memif socket that the server has named. Of a file only the name is the server's to say.
func (c *Client) socket(name string) string {
	if c.MemifDir == "" {
		return name
	}
	return filepath.Join(c.MemifDir, filepath.Base(name))
}

// checkSocket refuses a memif socket that is not of the sort that was asked for.
func (c *Client) checkSocket(name string) error {
	switch {
	case c.MemifDir == "" && (len(name) < 2 || name[0] != '@'):
		return fault.New(fault.Denied, "the server answered memif socket %q; want an abstract one, \"@name\"", name)
	case c.MemifDir != "" && (!filepath.IsAbs(name) || filepath.Base(name) == "/"):
		return fault.New(fault.Denied, "the server answered memif socket %q; want the path of a file in its directory", name)
	}
	return nil
}

// excluded are the addresses and host routes of the other services: no address may be in use twice in one namespace.
func (c *Client) excluded(except int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for i, prefixes := range c.prefix {
		if i != except {
			list = append(list, prefixes...)
		}
	}
	return list
}

// use remembers what a connection uses.
func (c *Client) use(i int, conn *connection.Connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ip := conn.GetContext().GetIpContext()
	c.prefix[i] = append(append([]string(nil), ip.GetSrcIpAddrs()...), ip.GetDstIpAddrs()...)
}

// check refuses an answer that is not what the client asked for.
func (c *Client) check(s Service, asked, answer *connection.Connection, excluded []string) error {
	m := answer.GetMechanism()
	name := m.GetParameters()[mechanisms.ParamName]
	switch {
	case m.GetType() != s.Mechanism || m.GetParameters()[mechanisms.ParamInode] != c.place(s):
		return fault.New(fault.Denied, "the server answered mechanism %s in %s, we asked for %s in %s",
			m.GetType(), m.GetParameters()[mechanisms.ParamInode], s.Mechanism, c.place(s))
	case name == "" && s.Mechanism == mechanisms.Kernel, s.Interface != "" && name != s.Interface:
		return fault.New(fault.Denied, "the server answered interface %q, we asked for %q", name, s.Interface)
	case answer.State == connection.State_DOWN:
		return fault.New(fault.Unavailable, "the server answered a connection that is down")
	}
	if s.Mechanism == mechanisms.Memif {
		if err := c.checkSocket(m.Parameters[mechanisms.ParamSocket]); err != nil {
			return err
		}
	}
	context, err := hop.ParseContext(answer.Context)
	if err != nil {
		return err
	}
	return errors.Join(overlap(context.Src, excluded), overlap(context.Dst, excluded))
}
