package packets

import (
	"context"
	"errors"
	"io"
	"time"

	"highwire/vppapi"
)

const (
	// roundTime is how long VPP records before its packets are read.
	roundTime = time.Second
	// roundPackets bounds VPP's memory for a round: 36 MB of the longest packets.
	roundPackets = 4096
)

// recorder lets VPP record round after round: it shows nothing before it is stopped.
type recorder struct {
	vpp     *vppapi.Conn
	index   uint32
	round   *vppapi.Pcap // under way
	release func()
}

// openRecorder begins to record an interface and tells its name.
func (s *Service) openRecorder(ctx context.Context, index uint32) (*recorder, string, error) {
	vpp, err := s.cfg.VPP()
	if err != nil {
		return nil, "", err
	}
	name, err := vpp.InterfaceName(ctx, index)
	if err != nil {
		return nil, "", err
	}
	release, err := alone(s.recording, "VPP's capture")
	if err != nil {
		return nil, "", err
	}
	r := &recorder{vpp: vpp, index: index, release: release}
	if err := r.begin(ctx); err != nil {
		release()
		return nil, "", err
	}
	return r, name, nil
}

func (r *recorder) begin(ctx context.Context) (err error) {
	r.round, err = r.vpp.StartPcap(ctx, r.index, roundPackets, vppapi.MaxPcapBytes)
	return err
}

// end takes what the round under way has recorded.
func (r *recorder) end() ([]vppapi.Packet, error) {
	if r.round == nil {
		return nil, nil
	}
	// Also when the caller has gone: VPP must not go on.
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	round := r.round
	r.round = nil
	return round.Stop(ctx)
}

func (r *recorder) close() {
	_, _ = r.end() // what was of interest has been read by run
	r.release()
}

// run hands over what each round has recorded. A round that was full lost what came after; nobody counts how much.
func (r *recorder) run(ctx context.Context, emit func(vppapi.Packet) error) (uint64, error) {
	tick := time.NewTicker(roundTime)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
		}
		packets, err := r.end()
		if err == nil && !last {
			err = r.begin(context.WithoutCancel(ctx))
		}
		if err != nil {
			return 0, err
		}
		for _, p := range packets {
			if err := emit(p); errors.Is(err, io.EOF) {
				return 0, nil
			} else if err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}
