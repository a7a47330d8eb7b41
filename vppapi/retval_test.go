package vppapi

import (
	"errors"
	"strings"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/l3xc"

	"highwire/vppapi/fault"
)

// TestRetvals: each return value of VPP has a kind, or is a success for the message that says so.
func TestRetvals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		retval api.VPPApiError
		also   []api.VPPApiError
		kind   fault.Kind
		fine   bool
	}{
		{retval: 0, fine: true},
		{retval: api.IF_ALREADY_EXISTS, also: []api.VPPApiError{api.IF_ALREADY_EXISTS}, fine: true},
		{retval: api.IF_ALREADY_EXISTS, also: gone, kind: fault.Conflict},
		{retval: api.ENTRY_ALREADY_EXISTS, kind: fault.Conflict},
		{retval: api.VALUE_EXIST, kind: fault.Conflict},
		{retval: api.INSTANCE_IN_USE, kind: fault.Conflict},
		{retval: api.ADDRESS_IN_USE, kind: fault.Conflict},
		{retval: api.NO_SUCH_ENTRY, kind: fault.NotFound},
		{retval: api.NO_SUCH_ENTRY, also: gone, fine: true},
		{retval: api.INVALID_SW_IF_INDEX, kind: fault.NotFound},
		{retval: api.INVALID_SW_IF_INDEX, also: gone, fine: true},
		{retval: api.INVALID_INTERFACE, kind: fault.NotFound},
		{retval: api.INVALID_VALUE, kind: fault.Invalid},
		{retval: api.INVALID_ARGUMENT, kind: fault.Invalid},
		{retval: api.INVALID_VALUE_2, kind: fault.Invalid},
		{retval: api.LIMIT_EXCEEDED, kind: fault.Exhausted},
		{retval: api.TABLE_TOO_BIG, kind: fault.Exhausted},
		{retval: api.SYSCALL_ERROR_1, kind: fault.Internal},
		{retval: api.UNIMPLEMENTED, kind: fault.Internal},
		{retval: -9999, kind: fault.Internal},
		{retval: 1, kind: fault.Internal},
	} {
		a := judge(call{req: &af_packet.AfPacketCreateV3{}, also: c.also}, &af_packet.AfPacketCreateV3Reply{Retval: int32(c.retval), SwIfIndex: 7})
		if i, ok := a.index(); !ok || i != 7 {
			t.Errorf("%v: index %d, %v", c.retval, i, ok)
		}
		if c.fine {
			if a.err != nil {
				t.Errorf("%v: %v", c.retval, a.err)
			}
			continue
		}
		if !fault.Is(a.err, c.kind) || !errors.Is(a.err, c.retval) || !strings.Contains(a.err.Error(), "af_packet_create_v3") {
			t.Errorf("%v: %v: %v, want %v", c.retval, fault.KindOf(a.err), a.err, c.kind)
		}
	}
	if _, ok := judge(call{req: &l3xc.L3xcDel{}}, &l3xc.L3xcDelReply{}).index(); ok {
		t.Error("an index in a reply without one")
	}
}

// FuzzText: of whatever VPP puts into a fixed-size string the part before its padding remains.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "host-x", "host-x\x00\x00", "\x00host-x", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := text(s)
		rest, ok := strings.CutPrefix(s, got)
		if strings.Contains(got, "\x00") || !ok || rest != "" && rest[0] != 0 {
			t.Errorf("%q of %q", got, s)
		}
	})
}
