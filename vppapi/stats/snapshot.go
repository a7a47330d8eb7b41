package stats

import (
	"context"
	"errors"
	"strings"
	"time"

	"highwire/vppapi/fault"
)

// Snapshot is one look at VPP's counters.
type Snapshot struct {
	// Interfaces by sw_if_index. The name is empty where there is no interface.
	Interfaces []Interface
	// Pools are the buffer pools, one a NUMA node. VPP looks at them once an update interval.
	Pools []Pool
	// Errors are counts of graph nodes that are not zero, by node and name.
	Errors []Error
	// VectorRate is how many packets a worker takes at once, on average since the last update; VPP rounds it down.
	VectorRate uint64
}

// Interface is one interface with its counters.
type Interface struct {
	Name string
	Counters
}

// Counters of one interface since it was made. Bytes include the Ethernet header where there is one.
type Counters struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	// Drops are packets that came in here and went nowhere.
	Drops uint64
	// Punts were given to VPP's host instead of being forwarded.
	Punts uint64
	// RxErrors were received broken, RxMisses lost for want of room in the device, RxNoBuffers for want of VPP's buffers.
	RxErrors, RxMisses, RxNoBuffers uint64
	// TxErrors could not be sent: the peer is down, or does not empty its ring.
	TxErrors uint64
}

// Pool is a pool of packet buffers.
type Pool struct {
	Name string
	// Available are free for all threads, Cached free for one, Used in interfaces' rings or packets.
	Available, Cached, Used uint64
}

// Total is the size of the pool.
func (p Pool) Total() uint64 { return p.Available + p.Cached + p.Used }

// Error is a counter of a graph node.
type Error struct {
	Node, Name string
	Count      uint64
}

// attempts bounds how often a read starts again because VPP moved something meanwhile.
const attempts = 100

// errMoved: what was read was being moved.
var errMoved = errors.New("VPP is changing its stats segment")

// Read takes a snapshot. The directory is searched only if it has changed since the last one. fault.Unavailable if VPP
// moves things all the time, or has ended in doing so.
func (s *Segment) Read(ctx context.Context) (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return nil, fault.New(fault.Unavailable, "stats segment is closed")
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for n := range attempts {
		snapshot, err := s.read()
		if !errors.Is(err, errMoved) {
			return snapshot, err
		}
		// Nothing tells when VPP is done; it takes microseconds.
		pause.Reset(time.Duration(n) * 10 * time.Microsecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, fault.New(fault.Unavailable, "%w without end; its figures cannot be read now", errMoved)
}

func (s *Segment) read() (*Snapshot, error) {
	epoch := word(s.mem, atEpoch).Load()
	if word(s.mem, atInProgress).Load() != 0 {
		return nil, errMoved
	}
	if s.dir == nil || s.dir.epoch != epoch {
		dir, err := s.search(epoch)
		if err != nil {
			return nil, err
		}
		s.dir = dir
	}
	snapshot, err := s.copy()
	if word(s.mem, atEpoch).Load() != epoch || word(s.mem, atInProgress).Load() != 0 {
		return nil, errMoved
	}
	return snapshot, err
}

// directory is where the entries of interest are, as long as the epoch stays.
type directory struct {
	epoch    uint64
	names    []string // of interfaces
	counters []int    // entries, as in counted; -1 where there is none
	pools    []pool
	errors   []symbol
	rate     int
}

type pool struct {
	name                    string
	available, cached, used int
}

// symbol is a symlink.
type symbol struct {
	node, name   string
	entry, index int
}

const (
	errorPrefix = "/err/"
	poolPrefix  = "/buffer-pools/"
)

func (s *Segment) search(epoch uint64) (*directory, error) {
	d := &directory{epoch: epoch, counters: make([]int, len(counted)), rate: -1}
	byName := make(map[string]int, len(counted))
	for i, c := range counted {
		d.counters[i] = -1
		byName[c.entry] = i
	}
	entries, err := s.vector(word(s.mem, atDirectory).Load(), entryBytes)
	if err != nil {
		return nil, err
	}
	for i := range len(entries) / entryBytes {
		e := entry(entries[i*entryBytes:])
		// Most of the directory are symlinks by interface, to what is read as a whole.
		if e.hasPrefix("/interfaces/") {
			continue
		}
		name := e.name()
		switch {
		case e.kind() == names && name == "/if/names":
			if d.names, err = s.strings(e.value()); err != nil {
				return nil, err
			}
		case e.kind() == symlink && strings.HasPrefix(name, errorPrefix):
			node, reason, _ := strings.Cut(name[len(errorPrefix):], "/")
			d.errors = append(d.errors, symbol{node, reason, int(uint32(e.value())), int(e.value() >> 32)})
		case e.kind() == scalar && strings.HasPrefix(name, poolPrefix):
			d.addPool(name[len(poolPrefix):], i)
		case name == "/sys/vector_rate":
			d.rate = i
		default:
			if c, ok := byName[name]; ok {
				d.counters[c] = i
			}
		}
	}
	return d, nil
}

func (d *directory) addPool(name string, at int) {
	name, what, _ := strings.Cut(name, "/")
	if n := len(d.pools); n == 0 || d.pools[n-1].name != name {
		d.pools = append(d.pools, pool{name, -1, -1, -1})
	}
	p := &d.pools[len(d.pools)-1]
	switch what {
	case "available":
		p.available = at
	case "cached":
		p.cached = at
	case "used":
		p.used = at
	}
}

// copy reads the values at the entries of the directory.
func (s *Segment) copy() (*Snapshot, error) {
	entries, err := s.vector(word(s.mem, atDirectory).Load(), entryBytes)
	if err != nil {
		return nil, err
	}
	at := func(i int) uint64 {
		if i < 0 || (i+1)*entryBytes > len(entries) {
			return 0
		}
		return entry(entries[i*entryBytes:]).value()
	}
	snapshot := &Snapshot{Interfaces: make([]Interface, len(s.dir.names)), VectorRate: at(s.dir.rate)}
	for i, name := range s.dir.names {
		snapshot.Interfaces[i].Name = name
	}
	for i, c := range counted {
		if err := s.addCounters(snapshot.Interfaces, at(s.dir.counters[i]), c.packets, c.bytes); err != nil {
			return nil, err
		}
	}
	for _, p := range s.dir.pools {
		snapshot.Pools = append(snapshot.Pools, Pool{p.name, at(p.available), at(p.cached), at(p.used)})
	}
	snapshot.Errors, err = s.countErrors(at)
	return snapshot, err
}

func (s *Segment) addCounters(to []Interface, pointer uint64, packets, bytes func(*Counters) *uint64) error {
	size := 8
	if bytes != nil {
		size = 16
	}
	threads, err := s.threads(pointer, size)
	if err != nil {
		return err
	}
	for _, values := range threads {
		for i := range min(len(to), len(values)/size) {
			v := values[i*size:]
			*packets(&to[i].Counters) += order.Uint64(v)
			if bytes != nil {
				*bytes(&to[i].Counters) += order.Uint64(v[8:])
			}
		}
	}
	return nil
}

// countErrors adds the threads' counts under /err up; all symlinks lead to one entry.
func (s *Segment) countErrors(at func(int) uint64) (found []Error, err error) {
	var threads [][]byte
	read := -1
	for _, e := range s.dir.errors {
		if e.entry != read {
			if threads, err = s.threads(at(e.entry), 8); err != nil {
				return nil, err
			}
			read = e.entry
		}
		var count uint64
		for _, values := range threads {
			if (e.index+1)*8 <= len(values) {
				count += order.Uint64(values[e.index*8:])
			}
		}
		if count > 0 {
			found = append(found, Error{e.node, e.name, count})
		}
	}
	return found, nil
}

// Loss is how many packets an interface lost for one reason.
type Loss struct {
	Reason string
	Count  uint64
}

// Losses are all reasons, also those of zero, always in the same order. Names are those of metrics.
func (c Counters) Losses() []Loss {
	return []Loss{
		{"drop", c.Drops},
		{"punt", c.Punts},
		{"rx_error", c.RxErrors},
		{"rx_miss", c.RxMisses},
		{"rx_no_buffer", c.RxNoBuffers},
		{"tx_error", c.TxErrors},
	}
}
