package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/pflag"

	"highwire/vppapi/pocketvpp"
	"highwire/vppapi/process"
)

// Values of --vpp.
const (
	auto     = "auto"
	external = "external"
	spawn    = "spawn"
	pocket   = "pocket"
)

// dataplane says which VPP an agent drives.
type dataplane struct {
	mode    string
	bin     string
	socket  string
	plugins string
	// keep leaves a launched VPP running for the next agent.
	keep bool
	// own: auto passes over a VPP that runs already.
	own bool
	// fallback: pocket was nobody's wish.
	fallback bool
}

func (d *dataplane) add(flags *pflag.FlagSet) {
	flags.StringVar(&d.mode, "vpp", auto, "the dataplane: external (a VPP that runs already), spawn (launch one), pocket (the built-in stand-in), "+
		"or auto: external if its socket answers, else spawn if a vpp is found, else pocket")
	flags.StringVar(&d.bin, "vpp-bin", "", "vpp executable for spawn (default: vpp on PATH)")
	flags.StringVar(&d.socket, "vpp-socket", "/run/vpp/api.sock", "binary API socket of an external VPP")
	flags.StringVar(&d.plugins, "vpp-plugin-path", "", "directory of VPP's plugins for spawn (default: found relative to the executable)")
}

// resolve turns auto into one of the three and finds the executable.
func (d *dataplane) resolve(ctx context.Context) error {
	if !slices.Contains([]string{auto, external, spawn, pocket}, d.mode) {
		return usagef("--vpp %q: want auto, external, spawn or pocket", d.mode)
	}
	if d.mode == auto && !d.own || d.mode == external {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
		switch {
		case err == nil:
			conn.Close()
			d.mode = external
			return nil
		case d.mode == external:
			return fmt.Errorf("no VPP answers at %s (%w): start VPP, or give its API socket with --vpp-socket", d.socket, err)
		case errors.Is(err, os.ErrPermission):
			return fmt.Errorf("no permission for VPP's socket %s: run as root or in VPP's group, or choose with --vpp", d.socket)
		}
	}
	if d.mode == pocket {
		return nil
	}
	asked := d.bin != "" || d.mode == spawn
	path, err := process.Find(d.bin)
	switch {
	case err == nil:
		d.mode, d.bin = spawn, path
	case asked:
		return err
	default:
		d.mode, d.fallback = pocket, true
	}
	return nil
}

// String is the resolved choice for people.
func (d *dataplane) String() string {
	switch d.mode {
	case external:
		return "the VPP that answers at " + d.socket
	case spawn:
		return "VPP, launched from " + d.bin
	}
	why := "as asked for"
	if d.fallback {
		why = "because no VPP was found"
	}
	return "pocketvpp, the built-in stand-in, " + why + ": it forwards real packets; its figures say nothing about VPP"
}

// args are the flags that make another highwire choose the same.
func (d *dataplane) args() []string {
	args := []string{"--vpp=" + d.mode, "--vpp-socket=" + d.socket}
	if d.mode == spawn {
		args = append(args, "--vpp-bin="+d.bin, "--vpp-plugin-path="+d.plugins)
	}
	return args
}

// onHang ends a VPP of ours that does not answer, so that another one is launched. Somebody else's is left alone.
func (d *dataplane) onHang(log *slog.Logger) func(pid int) {
	if d.mode != spawn {
		return nil
	}
	return func(pid int) {
		log.Error("ending a VPP that hangs", "pid", pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			log.Error("it cannot be ended", "pid", pid, "reason", err)
		}
	}
}

// start makes the resolved dataplane one of the parts, with its files in dir, and returns the socket of its binary API.
func (d *dataplane) start(p *parts, dir string, log *slog.Logger) (socket string, err error) {
	switch d.mode {
	case spawn:
		plugins := d.plugins
		if plugins == "" {
			plugins = process.Plugins(d.bin)
		}
		cfg := process.Config{Bin: d.bin, PluginPath: plugins, Dir: filepath.Join(dir, "vpp"), Keep: d.keep, Log: log}
		p.run("dataplane", cfg.Run)
		return cfg.Socket(), nil
	case pocket:
		socket = filepath.Join(dir, "pocketvpp.sock")
		server, err := pocketvpp.New(pocketvpp.Config{Socket: socket, Logger: log})
		if err != nil {
			return "", err
		}
		p.run("dataplane", server.Run)
		return socket, nil
	}
	return d.socket, nil
}
