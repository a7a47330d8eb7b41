package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/forward"

	pod "highwire/controlplane/names"
)

// child is one of the two that are measured, as a process.
type child struct {
	cmd   *exec.Cmd
	input io.Closer
}

// launch starts it and waits until it serves. It ends with its input.
func launch(name string) (*child, error) {
	cmd := exec.Command("/proc/self/exe", "-serve", name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd, input}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		c.end()
		return nil, fmt.Errorf("%s does not serve: %q, %w", name, line, err)
	}
	return c, nil
}

func (c *child) end() {
	_ = c.input.Close()
	_ = c.cmd.Wait() // it is of no use any more, however it ended
}

// be serves until the input ends.
func be(ctx context.Context, name string) error {
	serve := serveHighwire
	if name == "coredns" {
		serve = serveCoreDNS
	}
	end, err := serve()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	return end()
}

func serveHighwire() (end func() error, err error) {
	dir, err := os.MkdirTemp("", "hw-dns-")
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "resolv.conf")
	host, _, err := net.SplitHostPort(nameserver)
	if err == nil {
		err = os.WriteFile(conf, []byte("nameserver "+host+"\n"), 0o600)
	}
	var s *pod.Server
	if err == nil {
		s, err = pod.Start(pod.Config{ResolvConf: conf})
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return func() error { return errors.Join(s.Close(), os.RemoveAll(dir)) }, nil
}

// serveCoreDNS serves on two ports, with and without a cache.
func serveCoreDNS() (end func() error, err error) {
	caddy.Quiet, dnsserver.Quiet = true, true
	corefile := ""
	for at, cache := range map[string]string{coreDNS: "", coreDNSCached: "cache\n"} {
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
		corefile += fmt.Sprintf(".:%s {\nbind %s\n%sforward . %s\n}\n", port, host, cache, nameserver)
	}
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
	if err != nil {
		return nil, err
	}
	return instance.Stop, nil
}

// versions are what is compared.
func versions() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/coredns/coredns" {
				return "CoreDNS " + m.Version
			}
		}
	}
	return "CoreDNS"
}
