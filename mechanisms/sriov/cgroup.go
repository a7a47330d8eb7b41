package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"highwire/vppapi/fault"
)

// Access lets the processes of a cgroup open devices. The zero value works on the node's own cgroups.
type Access struct {
	// Root is where cgroups are mounted, empty for /sys/fs/cgroup.
	Root string
}

// checkCgroup refuses a directory that is not below the root of the cgroups. Peers name it.
func checkCgroup(dir string) error {
	switch {
	case dir == "":
		return fault.New(fault.Invalid, "mechanism VFIO: parameters[%s] is missing: it names the client's cgroup, such as /kubepods/pod1/container1", ParamCgroup)
	case !strings.HasPrefix(dir, "/"), path.Clean(dir) != dir, dir == "/", strings.ContainsRune(dir, 0):
		return fault.New(fault.Invalid, "parameters[%s] %.80q: want a clean absolute path below the root of the cgroups", ParamCgroup, dir)
	}
	return nil
}

func (a Access) root() string { return cmp.Or(a.Root, "/sys/fs/cgroup") }

// hierarchy is the one that rules over devices: that of cgroup v2, or the devices controller of v1.
func (a Access) hierarchy() (dir string, v2 bool) {
	if _, err := os.Stat(filepath.Join(a.root(), "cgroup.controllers")); err == nil {
		return a.root(), true
	}
	return filepath.Join(a.root(), "devices"), false
}

// open opens the cgroup's directory. No symbolic link and no ".." can lead it elsewhere.
func (a Access) open(cgroup string) (dir *os.File, v2 bool, err error) {
	if err := checkCgroup(cgroup); err != nil {
		return nil, false, err
	}
	hierarchy, v2 := a.hierarchy()
	root, err := os.Open(hierarchy)
	if err != nil {
		return nil, v2, fault.New(fault.Unavailable, "cgroups: %w; is the host's %s mounted here?", err, a.root())
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), cgroup[1:], &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, v2, fault.New(fault.NotFound, "cgroup %s: %w", cgroup, err)
	}
	return os.NewFile(uintptr(fd), cgroup), v2, nil
}

// grant lets the cgroup open the devices; asked again it changes nothing.
func (a Access) grant(cgroup string, devices []number) error { return a.change(cgroup, devices, true) }

// revoke takes it back.
func (a Access) revoke(cgroup string, devices []number) error {
	return a.change(cgroup, devices, false)
}

func (a Access) change(cgroup string, devices []number, allow bool) error {
	dir, v2, err := a.open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, d := range devices {
		if v2 {
			err = errors.Join(err, amend(dir, d, allow))
			continue
		}
		file := map[bool]string{true: "devices.allow", false: "devices.deny"}[allow]
		err = errors.Join(err, writeAt(dir, file, d.rule()))
	}
	if err != nil {
		return fmt.Errorf("devices of cgroup %s: %w", cgroup, err)
	}
	return nil
}

// granted tells whether the cgroup may open the devices.
func (a Access) granted(cgroup string, devices []number) bool {
	dir, v2, err := a.open(cgroup)
	if err != nil {
		return false
	}
	defer dir.Close()
	if v2 {
		return !slices.ContainsFunc(devices, func(d number) bool { return !amended(dir, d) })
	}
	list, err := readAt(dir, "devices.list")
	lines := strings.Split(list, "\n")
	return err == nil && (slices.Contains(lines, "a *:* rwm") ||
		!slices.ContainsFunc(devices, func(d number) bool { return !slices.Contains(lines, d.rule()) }))
}

// rule is the device in the words of cgroup v1.
func (n number) rule() string { return fmt.Sprintf("c %d:%d rw", n.Major, n.Minor) }

func writeAt(dir *os.File, name, text string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func readAt(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(text), err
}
