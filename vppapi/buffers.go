package vppapi

import (
	"context"
	"strconv"
	"strings"
)

// tapRing is the number of slots of a tap's ring.
const tapRing = 1024

// RingBuffers is how many of VPP's buffers the rings of an object hold, on a VPP with so many workers, whether packets flow or
// not: a tap fills its receive rings, a zero-copy memif all of its slots. Others copy packets into rings of their own.
func RingBuffers(o Object, workers int) int {
	switch o := o.(type) {
	case Tap:
		return KernelQueues(o.Queues, workers) * tapRing
	case Memif:
		if o.ZeroCopy && !o.Master {
			return 2 * int(memifQueues(o.Queues, workers)) * int(o.RingSize)
		}
	}
	return 0
}

// BufferPool tells how many buffers the smallest of VPP's pools has, of which there is one for each NUMA node, and how many
// of them are free. Both are 0 where VPP does not tell.
func (c *Conn) BufferPool(ctx context.Context) (total, free int, err error) {
	out, err := c.CLI(ctx, "show buffers")
	if err != nil {
		if gone := c.Err(); gone != nil {
			return 0, 0, gone
		}
		return 0, 0, nil // a stand-in without buffers
	}
	total, free = parseBuffers(out)
	return total, free, nil
}

// parseBuffers reads the table of "show buffers": name, index, NUMA node, size, data size, total, available, cached, used.
func parseBuffers(text string) (total, free int) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 9 {
			continue
		}
		all, err := strconv.Atoi(f[5])
		available, err2 := strconv.Atoi(f[6])
		cached, err3 := strconv.Atoi(f[7])
		if err == nil && err2 == nil && err3 == nil && (total == 0 || all < total) {
			total, free = all, available+cached
		}
	}
	return total, free
}
