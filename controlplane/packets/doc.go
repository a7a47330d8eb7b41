// Package packets shows what the packets of a vWire do, for the admin socket: their ways through VPP's graph, the packets
// themselves, and whether probes come back.
//
// What can be seen depends on the ends:
//
//	kernel   everything, live, by a packet socket on the interface in its peer's own namespace; a direct path too
//	memif    what VPP records of its interface, a second's worth at a time
//	direct   between two memifs: nothing, for the packets pass in memory of the peers
//
// Nothing of it is left when a call ends, however it ends.
package packets
