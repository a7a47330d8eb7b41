package sriov

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// In cgroup v2 a container's devices are ruled by a program that its runtime has attached. Every attached program has to
// agree, so another one could only forbid more: instead the program is read back and attached anew with our own few
// instructions before it. They are found again by comparison, so nothing has to be remembered.

// permission is a program's beginning that allows one character device, and else goes on. It leaves the context in R1.
func permission(d number) asm.Instructions {
	const (
		device = 2 // BPF_DEVCG_DEV_CHAR, the low half of access_type
		mask   = 0xffff
	)
	load := func(offset int16) asm.Instruction { return asm.LoadMem(asm.R2, asm.R1, offset, asm.Word) }
	unless := func(value uint32, skip int16) asm.Instruction {
		// The 32-bit comparison: a minor number may have its top bit set.
		return asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(asm.JNE).SetSource(asm.ImmSource), Dst: asm.R2, Offset: skip, Constant: int64(int32(value))}
	}
	return asm.Instructions{
		load(0), // access_type
		asm.And.Imm(asm.R2, mask),
		unless(device, 6),
		load(4), // major
		unless(d.Major, 4),
		load(8), // minor
		unless(d.Minor, 2),
		asm.Mov.Imm(asm.R0, 1),
		asm.Return(),
	}
}

// attached are the device programs of the cgroup itself, not those of its parents.
func attached(dir *os.File) ([]*ebpf.Program, error) {
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return nil, fmt.Errorf("list its device programs: %w", err)
	}
	var programs []*ebpf.Program
	for _, p := range found.Programs {
		program, err := ebpf.NewProgramFromID(p.ID)
		if err != nil {
			closeAll(programs)
			return nil, fmt.Errorf("device program %d: %w", p.ID, err)
		}
		programs = append(programs, program)
	}
	return programs, nil
}

func closeAll(programs []*ebpf.Program) {
	for _, p := range programs {
		p.Close()
	}
}

// instructions of a program, and at which of them our permission for the device begins, -1 for nowhere.
func instructions(p *ebpf.Program, d number) (list asm.Instructions, at int, err error) {
	info, err := p.Info()
	if err != nil {
		return nil, 0, err
	}
	if list, err = info.Instructions(); err != nil {
		return nil, 0, fmt.Errorf("read a device program: %w", err)
	}
	// Permissions stand one after the other at the beginning, all of one length.
	wanted := permission(d)
	for at = 0; at+len(wanted) <= len(list); at += len(wanted) {
		here := list[at : at+len(wanted)]
		if slices.EqualFunc(here, wanted, alike) {
			return list, at, nil
		}
		if !alike(here[0], wanted[0]) || !alike(here[1], wanted[1]) || !alike(here[2], wanted[2]) {
			break
		}
	}
	return list, -1, nil
}

func alike(a, b asm.Instruction) bool {
	return a.OpCode == b.OpCode && a.Dst == b.Dst && a.Src == b.Src && a.Offset == b.Offset && int32(a.Constant) == int32(b.Constant)
}

// amended tells whether every device program of the cgroup has the permission; without any, everything is allowed.
func amended(dir *os.File, d number) bool {
	programs, err := attached(dir)
	if err != nil {
		return false
	}
	defer closeAll(programs)
	for _, p := range programs {
		if _, at, err := instructions(p, d); err != nil || at < 0 {
			return false
		}
	}
	return true
}

// amend adds the permission to every device program of the cgroup, or takes it out.
func amend(dir *os.File, d number, allow bool) error {
	programs, err := attached(dir)
	if err != nil {
		return err
	}
	defer closeAll(programs)
	for _, p := range programs {
		list, at, err := instructions(p, d)
		if err != nil {
			return err
		}
		switch {
		case allow == (at >= 0):
			continue
		case allow:
			list = slices.Concat(permission(d), list)
		default:
			list = slices.Delete(list, at, at+len(permission(d)))
		}
		if err := replace(dir, p, list); err != nil {
			return err
		}
	}
	return nil
}

// replace attaches a program of these instructions in the place of old.
func replace(dir *os.File, old *ebpf.Program, list asm.Instructions) error {
	// What is attached passed the verifier under some licence and calls nothing that asks for one.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupDevice, Instructions: list, License: "GPL"})
	if err != nil {
		return fmt.Errorf("load the amended device program: %w", err)
	}
	defer program.Close()
	const multi = 1 << 1 // BPF_F_ALLOW_MULTI, as runtimes attach theirs
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Anchor: link.ReplaceProgram(old), Flags: multi,
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EINVAL) {
		// It was attached alone: attaching another one replaces it.
		err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice})
	}
	if err != nil {
		return fmt.Errorf("attach the amended device program: %w", err)
	}
	return nil
}
