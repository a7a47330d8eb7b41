package main

import (
	"github.com/spf13/pflag"

	"highwire/controlplane/registry"
	"highwire/controlplane/server"
)

// limits bound what peers can make an agent hold.
type limits struct {
	vwires, vwiresPerIdentity int
	registrationsPerIdentity  int
	callsPerIdentity          int
	messageBytes              int
}

func (l *limits) add(flags *pflag.FlagSet) {
	flags.IntVar(&l.vwires, "max-vwires", 65536, "vWires of this node")
	flags.IntVar(&l.vwiresPerIdentity, "max-vwires-per-identity", 4096, "vWires of one client, by its SPIFFE id")
	flags.IntVar(&l.registrationsPerIdentity, "max-registrations-per-identity", registry.DefaultPerIdentity, "endpoints, and network services, that one SPIFFE id may register")
	flags.IntVar(&l.callsPerIdentity, "max-calls-per-identity", 8192, "calls and streams of one SPIFFE id under way at a time")
	flags.IntVar(&l.messageBytes, "max-message-bytes", 1<<20, "size of one message")
}

// check refuses limits that nobody could work under.
func (l *limits) check() error {
	for flag, value := range map[string]int{
		"max-vwires": l.vwires, "max-vwires-per-identity": l.vwiresPerIdentity, "max-registrations-per-identity": l.registrationsPerIdentity,
		"max-calls-per-identity": l.callsPerIdentity,
		"max-message-bytes":      l.messageBytes,
	} {
		if value < 1 {
			return usagef("--%s %d: want at least 1", flag, value)
		}
	}
	return nil
}

// server is the part of them that holds for every message and call.
func (l *limits) server() server.Limits {
	return server.Limits{MessageBytes: l.messageBytes, CallsPerIdentity: l.callsPerIdentity}
}
