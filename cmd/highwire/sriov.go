package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/devices"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/sriov"
)

// functions says which virtual functions an agent lends.
type functions struct {
	config  string
	numa    int
	kubelet string
}

func (f *functions) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.config, "sriov-config", "", "file that says which network cards' virtual functions may be lent (default: none)")
	flags.IntVar(&f.numa, "sriov-numa", -1, "NUMA node whose virtual functions are preferred, -1 for none")
	flags.StringVar(&f.kubelet, "kubelet-plugins", "", "directory where the kubelet meets device plugins, to offer virtual functions to pods: "+devices.KubeletDir+" (default: no device plugin)")
}

// start takes stock of the cards, adds virtual functions to the mechanisms, and keeps watch. Without a configuration the pool
// is nil.
func (f *functions) start(p *parts, data string, set mechanisms.Set, n *kernel.Namespaces, log *slog.Logger) (mechanisms.Set, *sriov.Pool, error) {
	if f.config == "" {
		return set, nil, nil
	}
	config, err := sriov.ReadConfig(f.config)
	if err != nil {
		return nil, nil, fmt.Errorf("--sriov-config: %w", err)
	}
	secret, err := secretFile(filepath.Join(data, "sriov.secret"))
	if err != nil {
		return nil, nil, err
	}
	pool, err := sriov.NewPool(sriov.PoolConfig{Config: config, Secret: secret, NUMA: f.numa, Log: log})
	if err != nil {
		return nil, nil, fmt.Errorf("--sriov-config %s: %w", f.config, err)
	}
	for i, m := range set {
		if m, ok := m.(*kernel.Mechanism); ok {
			set[i] = sriov.NewKernel(m, pool, n)
		}
	}
	changed := func() {}
	if f.kubelet != "" {
		k := devices.NewKubelet(f.kubelet, pool.Tokens, log)
		changed = k.Changed
		p.run("device plugin", k.Run)
	}
	p.run("watch of network cards", func(ctx context.Context) error { return pool.Watch(ctx, changed) })
	return append(set, sriov.NewVFIO(pool)), pool, nil
}

// secretFile reads a secret of 32 bytes, or makes one.
func secretFile(path string) ([]byte, error) {
	secret, err := os.ReadFile(path)
	if err == nil && len(secret) == 32 {
		return secret, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	secret = make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	if err := os.WriteFile(path, secret, 0o600); err != nil {
		return nil, fmt.Errorf("secret of SR-IOV tokens: %w", err)
	}
	return secret, nil
}

func newGetDevices() *cobra.Command {
	return listing[*highwirev1.Device]{name: "devices", what: "the virtual functions of the node, and who has them", columns: deviceColumns,
		from: func(ctx context.Context, conn grpc.ClientConnInterface) ([]*highwirev1.Device, error) {
			r, err := highwirev1.NewDevicesClient(conn).ListDevices(ctx, &highwirev1.ListDevicesRequest{})
			return r.GetDevices(), err
		}}.command()
}

var deviceColumns = []column[*highwirev1.Device]{
	{title: "DEVICE", cell: (*highwirev1.Device).GetAddress},
	{title: "PF", cell: func(d *highwirev1.Device) string {
		pf := d.GetPf()
		if d.GetPfInterface() != "" {
			pf += " " + d.GetPfInterface()
		}
		if !d.GetLinkUp() {
			pf += " (down)"
		}
		return pf
	}},
	{title: "NUMA", cell: func(d *highwirev1.Device) string { return fmt.Sprint(d.GetNuma()) }},
	{title: "GROUP", cell: func(d *highwirev1.Device) string { return fmt.Sprint(d.GetIommuGroup()) }},
	{title: "DRIVER", cell: (*highwirev1.Device).GetDriver},
	{title: "TOKENS", cell: func(d *highwirev1.Device) string { return strings.Join(d.GetTokens(), ",") }},
	{title: "OWNER", cell: func(d *highwirev1.Device) string {
		if d.GetOwner() == "" {
			return ""
		}
		return d.GetOwner() + " as " + d.GetUse()
	}},
}
