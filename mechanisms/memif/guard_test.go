package memif

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// region is a memory file, sealed or not.
func region(t *testing.T, size int64, seals int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("region", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err == nil && seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestGuardChecks: what VPP must not see is refused with its reason.
func TestGuardChecks(t *testing.T) {
	whole, loose := region(t, 1<<16, unix.F_SEAL_SHRINK), region(t, 1<<16, 0)
	with := func(m message, files ...int) message {
		m.files = files
		return m
	}
	ring := func(region uint16, offset uint32, log2 uint8) message {
		return with(newMessage(msgAddRing, uint16(1), uint16(0), region, offset, log2, uint16(0)), loose)
	}
	good := with(newMessage(msgAddRegion, uint16(0), uint64(1<<16)), whole)
	begin := newMessage(msgInit, uint16(version), uint32(0), uint8(0))
	for name, c := range map[string]struct {
		said []message
		kind fault.Kind // of the last one's refusal; Internal for none
	}{
		"a whole handshake":         {[]message{begin, good, ring(0, 0, 10), newMessage(msgConnect)}, fault.Internal},
		"not INIT first":            {[]message{good}, fault.Invalid},
		"INIT twice":                {[]message{begin, begin}, fault.Invalid},
		"another version":           {[]message{newMessage(msgInit, uint16(1), uint32(0), uint8(0))}, fault.Invalid},
		"another interface":         {[]message{newMessage(msgInit, uint16(version), uint32(1), uint8(0))}, fault.Invalid},
		"another mode":              {[]message{newMessage(msgInit, uint16(version), uint32(0), uint8(1))}, fault.Invalid},
		"a region without a file":   {[]message{begin, newMessage(msgAddRegion, uint16(0), uint64(1<<16))}, fault.Invalid},
		"a region beyond its file":  {[]message{begin, with(newMessage(msgAddRegion, uint16(0), uint64(1<<17)), whole)}, fault.Invalid},
		"a region that may shrink":  {[]message{begin, with(newMessage(msgAddRegion, uint16(0), uint64(1<<16)), loose)}, fault.Denied},
		"a ring of no region":       {[]message{begin, good, ring(1, 0, 4)}, fault.Invalid},
		"a ring beyond its region":  {[]message{begin, good, ring(0, 1<<16-100, 4)}, fault.Invalid},
		"a ring of too many slots":  {[]message{begin, good, ring(0, 0, 60)}, fault.Invalid},
		"CONNECT without a region":  {[]message{begin, newMessage(msgConnect)}, fault.Invalid},
		"a message of the master's": {[]message{begin, newMessage(msgHello)}, fault.Invalid},
	} {
		regions := make(map[uint16]uint64)
		var err error
		for i := range c.said {
			if err != nil {
				t.Errorf("%s: message %d: %v", name, i-1, err)
			}
			err = check(&c.said[i], i == 0, 0, regions)
		}
		if (err == nil) != (c.kind == fault.Internal) || err != nil && fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want kind %v", name, err, c.kind)
		}
	}
}

// FuzzGuard: no message makes the check fail otherwise than by an error.
func FuzzGuard(f *testing.F) {
	for _, m := range []message{newMessage(msgInit, uint16(version)), newMessage(msgAddRegion, uint16(3), ^uint64(0)), newMessage(msgAddRing, ^uint64(0), ^uint32(0)), newMessage(msgConnect)} {
		f.Add(m.bytes[:], false)
		f.Add(m.bytes[:], true)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = null.Close() })
	f.Fuzz(func(t *testing.T, b []byte, file bool) {
		var m message
		copy(m.bytes[:], b)
		if file {
			m.files = []int{int(null.Fd())}
		}
		regions := map[uint16]uint64{0: 1 << 16}
		if err := check(&m, m.kind() == msgInit, 0, regions); err == nil && m.kind() == msgAddRegion {
			t.Error("a region that is no memory passed")
		}
	})
}
