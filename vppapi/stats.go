package vppapi

import (
	"context"
	"path/filepath"
	"sync"

	"highwire/vppapi/fault"
	"highwire/vppapi/stats"
)

// counters is the stats segment of a session, mapped when it is first asked for.
type counters struct {
	socket string
	mu     sync.Mutex
	seg    *stats.Segment
	closed bool
}

// StatsBeside is the stats socket that belongs to an API socket where nothing else is said: stats.sock in the same directory.
func StatsBeside(apiSocket string) string {
	return filepath.Join(filepath.Dir(apiSocket), "stats.sock")
}

// Stats reads VPP's counters from shared memory; VPP itself is asked nothing, so it can be done often. Errors are those of
// stats.Open and stats.Segment.Read, or why the session has ended: a segment outlives its VPP, and would not tell.
func (c *Conn) Stats(ctx context.Context) (*stats.Snapshot, error) {
	if err := c.Err(); err != nil {
		return nil, err
	}
	seg, err := c.counters.open(ctx)
	if err != nil {
		return nil, err
	}
	return seg.Read(ctx)
}

func (s *counters) open(ctx context.Context) (*stats.Segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fault.New(fault.Canceled, "VPP session closed")
	}
	if s.seg == nil {
		seg, err := stats.Open(ctx, s.socket)
		if err != nil {
			return nil, err
		}
		s.seg = seg
	}
	return s.seg, nil
}

func (s *counters) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.seg != nil {
		_ = s.seg.Close() // unmapping fails for no mapping of ours
	}
}
