package vppapi

import (
	"fmt"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// autoQueues bounds the number of queues that follows from VPP's workers: each has rings of its own, 20 MB in an af_packet
// interface with offloads.
const autoQueues = 4

// KernelQueues is how many queues an af_packet or tap interface has in each direction on a VPP with so many workers: one for
// each, as a thread is no faster with two, and at most wanted (0: four).
func KernelQueues(wanted uint8, workers int) int {
	if wanted == 0 {
		wanted = autoQueues
	}
	return min(int(wanted), max(1, workers))
}

// memifQueues is how many queues a memif offers in each direction: wanted, also more than VPP has workers, as the peer may have
// more threads; 0 is one for each worker, at most four.
func memifQueues(wanted uint8, workers int) uint8 {
	if wanted == 0 {
		return uint8(min(autoQueues, max(1, workers)))
	}
	return wanted
}

// fitted is an object of which something is known only with the VPP that makes it, such as a number of queues.
type fitted interface {
	fit(*Conn) held
}

func (a AFPacket) fit(c *Conn) held {
	a.Queues = uint8(KernelQueues(a.Queues, c.workers))
	return a
}

func (t Tap) fit(c *Conn) held {
	t.Queues = uint8(KernelQueues(t.Queues, c.workers))
	return t
}

func (m Memif) fit(c *Conn) held {
	m.Queues = memifQueues(m.Queues, c.workers)
	return m
}

// RxPlacement is the worker that serves a receive queue of an end's interface (sw_interface_set_rx_placement). VPP gives out
// queues in turn, whatever each costs.
type RxPlacement struct {
	Name string
	// Queue counts from 0, as does Worker: 0 is vpp_wk_0.
	Queue, Worker uint32
}

// Key is {setting, Name rx-queue Queue}.
func (r RxPlacement) Key() Key {
	return Key{KindSetting, fmt.Sprintf("%s rx-queue %d", r.Name, r.Queue)}
}

// Uses the interface.
func (r RxPlacement) Uses() []Key { return []Key{Interface(r.Name)} }

func (r RxPlacement) String() string { return fmt.Sprintf("rx-placement worker %d", r.Worker) }

func (r RxPlacement) create(at indexes) ([]call, error) {
	return setting(at, r.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceSetRxPlacement{SwIfIndex: i, QueueID: r.Queue, WorkerID: r.Worker}
	})
}

// remove does nothing: a queue is always served by some thread.
func (r RxPlacement) remove(indexes) ([]call, error) { return nil, nil }
