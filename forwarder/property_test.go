package forwarder_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// story is a random sequence of calls, deaths and failures, with a map that says what has to be.
type story struct {
	t       *testing.T
	r       *rand.Rand
	d       *dataplane
	kill    func() // VPP
	a       *agent
	journal string
	pairs   map[string]*pair // by vWire id
	release []func()
	model   map[string]forwarder.VWire
	failing *atomic.Int64 // the how manieth changing message from now on fails
	told    []string      // what has happened
}

// TestRandomStory compares a reconciler with a map: whatever happens, it holds the vWires that were set and not deleted, as
// they were set last, and they carry packets.
func TestRandomStory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var failing atomic.Int64
	d := pocket(t, kernel.Veth, func(name string) (int32, bool) {
		for _, p := range []string{"af_packet_", "memif_", "sw_interface_", "l3xc_", "ip_neighbor_"} {
			if strings.HasPrefix(name, p) && !strings.HasSuffix(name, "dump") && failing.Add(-1) == 0 {
				return -1, false
			}
		}
		return 0, false
	})
	d.hears = true
	s := &story{
		t: t, r: rand.New(rand.NewPCG(seed, 0)), d: d, kill: d.start(t), journal: filepath.Join(t.TempDir(), "journal"),
		pairs: make(map[string]*pair), model: make(map[string]forwarder.VWire), failing: &failing,
	}
	for i := range 3 {
		s.pairs[fmt.Sprint("w", i)] = newPair(t)
	}
	s.startAgent()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && len(s.told) < 200 && !t.Failed(); {
		s.step()
	}
	t.Logf("%d steps", len(s.told))
	for _, id := range slices.Sorted(maps.Keys(s.model)) {
		s.reaches(s.model[id])
		s.delete(id)
	}
	s.restartVPP() // with it goes what a failed removal has left
	s.check()
	for _, release := range s.release {
		release()
	}
	s.a.nothingLeft(within(t, 20*time.Second), t)
	if t.Failed() {
		t.Errorf("seed %d:\n%s", seed, strings.Join(s.told, "\n"))
	}
}

func (s *story) step() {
	ids := slices.Sorted(maps.Keys(s.pairs))
	id := ids[s.r.IntN(len(ids))]
	switch s.r.IntN(20) {
	case 0:
		s.tell("VPP restarts")
		s.restartVPP()
	case 16:
		s.restartUnder(s.random(id))
	case 17:
		s.crowd(ids)
	case 18, 19:
		if v, ok := s.model[id]; ok {
			s.meddle(v)
		}
	case 1:
		s.tell("agent restarts")
		s.a.stop()
		s.startAgent()
	case 2, 3, 4:
		s.delete(id)
	case 5, 6:
		s.record(id)
	case 7:
		if v, ok := s.model[id]; ok {
			s.set(v)
		}
	default:
		s.set(s.random(id))
	}
	s.check()
}

func (s *story) tell(format string, args ...any) {
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

// random is a vWire that can be made.
func (s *story) random(id string) forwarder.VWire {
	payload := []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}[s.r.IntN(2)]
	kinds := failureKinds()
	v := memifVWire(s.t, id, s.pairs[id], kinds[slices.Sorted(maps.Keys(kinds))[s.r.IntN(len(kinds))]], payload,
		families[slices.Sorted(maps.Keys(families))[s.r.IntN(len(families))]])
	mtu := []uint32{0, 1400}[s.r.IntN(2)]
	v.Client.MTU, v.Endpoint.MTU = mtu, mtu
	v.Record = []byte{byte(s.r.IntN(3))}
	return v
}

// trouble makes one of the next messages fail, sometimes.
func (s *story) trouble() (calm func() bool) {
	n := int64(0)
	if s.r.IntN(3) == 0 {
		n = 1 + s.r.Int64N(20)
	}
	s.failing.Store(n)
	return func() (failed bool) { return s.failing.Swap(0) <= 0 && n > 0 }
}

func (s *story) set(v forwarder.VWire) {
	calm := s.trouble()
	err := s.a.Set(s.patience(), v)
	s.wasSet(v, calm(), err)
}

// wasSet takes the outcome of a Set into the model.
func (s *story) wasSet(v forwarder.VWire, failed bool, err error) {
	s.tell("set %s %s %s-%s mtu %d %v: trouble %v: %v", v.ID, v.Client.Payload, v.Client.Type, v.Endpoint.Type, v.Client.MTU, v.Client.Addresses, failed, err)
	if err == nil {
		s.model[v.ID] = v
	} else if !failed || !strings.Contains(err.Error(), "VPP refused") {
		s.t.Errorf("set %s: %v", v.ID, err)
	}
}

// crowd sets all vWires at once, so that one of them may fail beside others.
func (s *story) crowd(ids []string) {
	calm := s.trouble()
	vwires, errs := make([]forwarder.VWire, len(ids)), make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		vwires[i] = s.random(id)
		all.Go(func() { errs[i] = s.a.Set(s.patience(), vwires[i]) })
	}
	all.Wait()
	failed := calm()
	for i, v := range vwires {
		s.wasSet(v, failed, errs[i])
	}
}

// restartUnder has VPP die under a Set, which is carried out all the same.
func (s *story) restartUnder(v forwarder.VWire) {
	s.tell("VPP restarts under a set")
	old, err := s.a.VPP()
	if err != nil {
		s.t.Fatal(err)
	}
	set := make(chan error, 1)
	go func() { set <- s.a.Set(s.patience(), v) }()
	s.kill()
	s.kill = s.d.start(s.t)
	s.wasSet(v, false, <-set)
	s.settled(old)
}

// meddle changes a vWire behind the agent's back, and waits until it is put right.
func (s *story) meddle(v forwarder.VWire) {
	before := s.drift(v.ID)
	n := s.pairs[v.ID].client
	var err error
	if what := s.r.IntN(3); what == 0 || v.Client.Type != mechanisms.Kernel {
		s.tell("somebody shuts the interface of %s in VPP", v.ID)
		err = s.shut(v.Client.Name())
	} else {
		s.tell("somebody shuts or removes the interface of %s in its namespace: %d", v.ID, what)
		err = n.Do(func() error {
			link, err := netlink.LinkByName("nsm-1")
			if err == nil && what == 1 {
				err = netlink.LinkSetDown(link)
			} else if err == nil {
				err = netlink.LinkDel(link)
			}
			return err
		})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for ctx := s.patience(); s.drift(v.ID) == before; {
		select {
		case <-time.After(5 * time.Millisecond): // a drift that was mended is no event for outsiders
		case <-ctx.Done():
			s.t.Fatalf("%s is not put right", v.ID)
		}
	}
	s.settled(nil)
}

// shut takes an interface down by hand.
func (s *story) shut(end string) error {
	hand, err := vppapi.Dial(s.patience(), s.d.socket)
	if err != nil {
		return err
	}
	defer hand.Close()
	have, err := hand.Dump(s.patience())
	if err != nil {
		return err
	}
	up := vppapi.Up{Name: end}
	return hand.Apply(s.patience(), vppapi.Plan{Remove: []vppapi.Object{up}}, have)[up.Key()]
}

func (s *story) drift(id string) uint64 {
	for _, st := range s.a.List() {
		if st.VWire.ID == id {
			return st.Drift.Count
		}
	}
	return 0
}

// reaches pings where both ends are kernel interfaces; nobody is behind a memif here.
func (s *story) reaches(v forwarder.VWire) {
	if v.Client.Type == mechanisms.Kernel && v.Endpoint.Type == mechanisms.Kernel {
		s.pairs[v.ID].reaches(s.patience(), s.t, v.Endpoint.Addresses)
	}
}

func (s *story) delete(id string) {
	calm := s.trouble()
	err := s.a.Delete(s.patience(), id)
	s.tell("delete %s: trouble %v: %v", id, calm(), err)
	if err != nil {
		s.t.Errorf("delete %s: %v", id, err)
	}
	delete(s.model, id)
}

func (s *story) record(id string) {
	v, known := s.model[id]
	record := []byte{byte(s.r.IntN(256))}
	err := s.a.Record(s.patience(), id, record)
	s.tell("record %s: %v", id, err)
	if known != (err == nil) || !known && !fault.Is(err, fault.NotFound) {
		s.t.Errorf("record %s, known %v: %v", id, known, err)
	}
	if known {
		v.Record = record
		s.model[id] = v
	}
}

func (s *story) patience() context.Context { return within(s.t, 20*time.Second) }

func (s *story) restartVPP() {
	old, err := s.a.VPP()
	if err != nil {
		s.t.Fatal(err)
	}
	s.kill()
	s.kill = s.d.start(s.t)
	s.settled(old)
}

// startAgent gives the agent the namespaces, as processes in them would.
func (s *story) startAgent() {
	n := kernel.NewNamespaces()
	s.release = nil
	for _, p := range s.pairs {
		s.release = append(s.release, (&agent{namespaces: n}).hold(s.t, p))
	}
	s.a = s.d.agentWith(s.t, s.journal, time.Nanosecond, n)
	s.settled(nil)
}

// settled waits for a session other than old, and for the look at VPP with which it begins.
func (s *story) settled(old *vppapi.Conn) {
	s.a.awaitAfter(s.t, old, len(s.model), forwarder.Up)
	if err := s.a.Record(s.patience(), "nobody", nil); !fault.Is(err, fault.NotFound) {
		s.t.Error(err)
	}
}

// check compares what the agent says with the map, and now and then what the namespaces say.
func (s *story) check() {
	s.t.Helper()
	list := s.a.List()
	if len(list) != len(s.model) {
		s.t.Errorf("%d vWires, want %d", len(list), len(s.model))
	}
	for _, st := range list {
		want, ok := s.model[st.VWire.ID]
		switch {
		case !ok || !st.VWire.Equal(want):
			s.t.Errorf("%+v, want %+v", st.VWire, want)
		case !bytes.Equal(st.VWire.Record, want.Record):
			s.t.Errorf("%s: record %x, want %x", want.ID, st.VWire.Record, want.Record)
		case st.State != forwarder.Up:
			s.t.Errorf("%s is %s: %v", want.ID, st.State, st.Err)
		}
		for _, o := range st.Objects {
			if !o.Realized {
				s.t.Errorf("%s is not there", o.Key)
			}
		}
		if ok && s.r.IntN(4) == 0 {
			s.reaches(want)
		}
	}
}
