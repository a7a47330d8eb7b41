// Package devices shows the virtual functions of a node to people (highwire.v1.Devices) and to the kubelet (its device plugin
// API), which hands them out to pods as resources. Which VF a token stands for is decided by package sriov when it is used.
package devices

import (
	"context"

	"google.golang.org/grpc"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/mechanisms/sriov"
)

// Service answers highwire.v1.Devices.
type Service struct {
	highwirev1.UnimplementedDevicesServer
	pool *sriov.Pool
}

// New makes a Service; pool is nil for an agent without SR-IOV.
func New(pool *sriov.Pool) *Service { return &Service{pool: pool} }

// AddTo registers the service.
func (s *Service) AddTo(r grpc.ServiceRegistrar) { highwirev1.RegisterDevicesServer(r, s) }

// ListDevices lists the VFs of the configured physical functions.
func (s *Service) ListDevices(context.Context, *highwirev1.ListDevicesRequest) (*highwirev1.ListDevicesResponse, error) {
	answer := &highwirev1.ListDevicesResponse{}
	if s.pool == nil {
		return answer, nil
	}
	for _, d := range s.pool.Devices() {
		answer.Devices = append(answer.Devices, &highwirev1.Device{
			Address: d.Address, Driver: d.Driver, Interface: d.Interface, IommuGroup: int32(d.Group), Numa: int32(d.NUMA),
			Pf: d.PF, PfInterface: d.PFInterface, LinkUp: d.Up, Tokens: d.Tokens, Owner: d.Owner, Use: string(d.Use),
		})
	}
	return answer, nil
}
