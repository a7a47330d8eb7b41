package memif

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxRegions and maxRings bound what one connection may bring along.
	maxRegions, maxRings = 16, 16
	// maxRegion is what a descriptor's offset reaches.
	maxRegion = 1 << 32
)

// newRegion makes memory of that size and a descriptor to hand over. It cannot shrink, so nobody can pull it from under
// the other.
func newRegion(size int) (fd int, mem []byte, err error) {
	fd, err = unix.MemfdCreate("memif region 0", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, nil, os.NewSyscallError("memfd_create", err)
	}
	if err = unix.Ftruncate(fd, int64(size)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
	}
	if err == nil {
		mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, nil, fmt.Errorf("memif memory of %d bytes: %w", size, err)
	}
	return fd, mem, nil
}

// mapRegion maps memory that the other side handed over.
func mapRegion(fd int, size uint64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if size == 0 || size > maxRegion || uint64(st.Size) < size {
		return nil, broken("a region of %d bytes in %d bytes of memory", size, st.Size)
	}
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, broken("memory that is not sealed against shrinking")
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memif memory: %w", size, err)
	}
	return mem, nil
}

// newEvent makes an eventfd.
func newEvent() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return os.NewFile(uintptr(fd), "memif interrupt"), nil
}

// takeEvent takes over a descriptor that the other side says is an eventfd: reading another kind of file could block for
// good, and writing to it could change things.
func takeEvent(fd int) (*os.File, error) {
	if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || target != "anon_inode:[eventfd]" {
		_ = unix.Close(fd)
		return nil, broken("an interrupt that is no eventfd")
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "memif interrupt"), nil
}
