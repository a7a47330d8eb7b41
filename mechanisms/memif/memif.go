// Package memif joins a peer to VPP by shared memory: the peer's application speaks memif itself, on a control socket that
// one side listens on and the other dials.
//
// Towards the client VPP is master and listens; towards the endpoint VPP is slave and dials, as often as it takes, so either
// may restart at any time. The socket is usually an abstract one inside the peer's network namespace, named by "socketfile"
// with a leading '@' and by "inodeURL" of that namespace. Without a namespace it is a file: the endpoint hands its socket
// over by "inodeURL", the client finds VPP's in a directory both share.
//
// Who can reach a socket that VPP 25.10 listens on can end VPP: it does not survive a peer that hangs up before the handshake is
// done, or sends less than a message. Everybody in the client's namespace can, where the socket is an abstract one. A direct path
// (see Mechanism.Direct) has no such socket: the agent relays the peers' messages to each other, and VPP never sees them. Where
// VPP has to be in between, Config.Guard puts the agent before it: it plays the master's part until the client has said and
// sent everything, and only then says it to VPP, which therefore sees whole handshakes only. The price is that the memif
// is connected anew when the agent restarts. VPP also keeps a descriptor each time that it listens or dials in another
// namespace (netns_name); behind a guard it does not listen there.
//
// A slave copies by default. With zero-copy it maps every buffer of VPP into the peer, which could then read all traffic
// of the node; that is for peers one trusts (see Config.ZeroCopy).
package memif

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
	"sync"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Config of the mechanism. The zero value of each field but Namespaces is a good default.
type Config struct {
	// Namespaces are those the agent holds open.
	Namespaces *kernel.Namespaces
	// Dir is shared with clients for sockets that are files; empty for abstract sockets only.
	Dir string
	// RingSize is a power of two, 0 for 1024. Queues counts each direction, 0 for one for each of VPP's workers, at most four.
	RingSize uint32
	Queues   uint8
	// ZeroCopy lets endpoints map VPP's buffers.
	ZeroCopy bool
	// Guard is a directory of ours for sockets between a guard and VPP; empty for none. With it VPP does not talk to clients before
	// their handshake has been checked, see the package text. Its path is short: a socket's has 107 bytes.
	Guard string
	// Direct joins two memif ends on this node without VPP, see Mechanism.Direct.
	Direct bool
}

// Mechanism is MEMIF.
type Mechanism struct {
	cfg Config

	mu     sync.Mutex
	relays map[Relay]*relaying
}

// New makes the mechanism. End it with Close.
func New(cfg Config) *Mechanism {
	if cfg.RingSize == 0 {
		cfg.RingSize = 1024
	}
	return &Mechanism{cfg: cfg, relays: make(map[Relay]*relaying)}
}

// Type is MEMIF.
func (m *Mechanism) Type() string { return mechanisms.Memif }

// Class is LOCAL.
func (m *Mechanism) Class() mechanisms.Class { return mechanisms.Local }

// Payloads are both.
func (m *Mechanism) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}
}

// Complete chooses a socket for a client that names none.
func (m *Mechanism) Complete(e mechanisms.End) (map[string]string, error) {
	if e.Side != mechanisms.Client || e.Params[mechanisms.ParamSocket] != "" {
		return nil, nil
	}
	if e.Params[mechanisms.ParamInode] == "" && m.cfg.Dir != "" {
		return map[string]string{mechanisms.ParamSocket: filepath.Join(m.cfg.Dir, e.VWire+".sock")}, nil
	}
	return map[string]string{mechanisms.ParamSocket: "@highwire/" + e.VWire + "/memif.sock"}, nil
}

// maxSocket is what sun_path holds.
const maxSocket = 107

// location says where a validated end's socket is.
type location struct {
	inode    mechanisms.Inode
	hasInode bool
	name     string // abstract name without '@', or a path; empty for the file that inode is
	abstract bool
}

func (m *Mechanism) parse(e mechanisms.End) (location, error) {
	var l location
	var err error
	if url := e.Params[mechanisms.ParamInode]; url != "" {
		if l.inode, err = mechanisms.ParseInode(url); err != nil {
			return l, err
		}
		l.hasInode = true
	}
	socket := e.Params[mechanisms.ParamSocket]
	switch {
	case len(socket) > maxSocket:
		return l, fault.New(fault.Invalid, "memif socket %.40q...: %d bytes, at most %d", socket, len(socket), maxSocket)
	case strings.Contains(socket, ".."), strings.ContainsAny(socket, ",\x00"):
		return l, fault.New(fault.Invalid, "memif socket %q: no \"..\", comma or zero byte", socket)
	}
	if name, ok := strings.CutPrefix(socket, "@"); ok {
		if name == "" || !l.hasInode {
			return l, fault.New(fault.Invalid, "abstract memif socket %q: want a name and the inodeURL of its network namespace", socket)
		}
		l.name, l.abstract = name, true
		return l, nil
	}
	switch {
	case e.Side == mechanisms.Endpoint && l.hasInode:
		return l, nil // the socket file itself was handed over
	case e.Side == mechanisms.Client && m.cfg.Dir != "" && socket != "" && filepath.Dir(socket) == filepath.Clean(m.cfg.Dir):
		l.hasInode = false
		l.name = filepath.Clean(socket)
		return l, nil
	}
	return l, fault.New(fault.Invalid, "memif socket %q: want an abstract one (\"@name\" with inodeURL)%s", socket, m.orFile())
}

func (m *Mechanism) orFile() string {
	if m.cfg.Dir == "" {
		return ""
	}
	return " or a file in " + m.cfg.Dir
}

// Hold keeps what the socket lives in open until Drop.
func (m *Mechanism) Hold(e mechanisms.End) error {
	l, err := m.parse(e)
	if err != nil || !l.hasInode {
		return err
	}
	return m.cfg.Namespaces.Find(l.inode)
}

// Drop undoes Hold.
func (m *Mechanism) Drop(e mechanisms.End) {
	if l, err := m.parse(e); err == nil && l.hasInode {
		m.cfg.Namespaces.Release(l.inode)
	}
}

// file is the socket as VPP names it. The end has to be held.
func (m *Mechanism) file(l location) (string, error) {
	path := l.name
	if l.hasInode {
		var err error
		if path, err = m.cfg.Namespaces.Path(l.inode); err != nil {
			return "", err
		}
	}
	for _, s := range []string{l.name, path} {
		if other := strings.Trim(s, readable); other != "" {
			return "", fault.New(fault.Invalid, "memif socket %q at %q: VPP reads letters, digits and '/', '.', '_', '-' only", s, other)
		}
	}
	if !l.abstract {
		return path, nil
	}
	return "abstract:" + l.name + ",netns_name=" + path, nil
}

// readable is what VPP takes a socket's name to consist of. It ends at anything else: a slave then never connects, and
// nobody is told why.
const readable = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"

// Objects of the end, which has to be held.
func (m *Mechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	l, err := m.parse(e)
	if err != nil {
		return nil, err
	}
	file, err := m.file(l)
	if err != nil {
		return nil, err
	}
	name := e.Name()
	var guard []vppapi.Object
	if m.cfg.Guard != "" && e.Side == mechanisms.Client {
		sum := sha256.Sum256([]byte(name))
		file = filepath.Join(m.cfg.Guard, hex.EncodeToString(sum[:8])+".sock")
		if len(file) > maxSocket || strings.Trim(file, readable) != "" {
			return nil, fault.New(fault.Invalid, "VPP cannot listen on %s: at most %d letters, digits and '/', '.', '_', '-'; choose another data directory", file, maxSocket)
		}
		guard = []vppapi.Object{Relay{name: name, from: l, to: location{name: file}, guarded: true, mode: memifMode(e.Payload), m: m}}
		l.abstract = false // as far as VPP sees
	}
	socket := vppapi.MemifSocket{File: file}
	iface := vppapi.Memif{
		Name: name, Socket: socket, Master: e.Side == mechanisms.Client, L3: e.Payload == mechanisms.IP,
		RingSize: m.cfg.RingSize, Queues: m.cfg.Queues, ZeroCopy: m.cfg.ZeroCopy && e.Side == mechanisms.Endpoint,
	}
	sum := sha256.Sum256([]byte(name))
	copy(iface.MAC[:], sum[:])
	iface.MAC[0] = iface.MAC[0]&^1 | 2 // unicast, locally administered
	objects := []vppapi.Object{socket, iface, vppapi.Tag{Name: name}, vppapi.RxMode{Name: name, Mode: vppapi.Adaptive}, vppapi.Up{Name: name}}
	if iface.Master && !l.abstract {
		objects = append(objects, File{name, file})
	}
	objects = append(objects, guard...)
	if iface.L3 {
		mtu := e.MTU
		if mtu == 0 {
			mtu = kernel.DefaultMTU
		}
		objects = append(objects, vppapi.MTU{Name: name, Bytes: mtu})
	}
	return objects, nil
}
