// Package memif speaks the memif protocol, version 2.0: two processes exchange packets through rings in memory they share.
//
// One side, the master, listens on a Unix socket of type SEQPACKET; the other, the slave, dials it, makes the memory and
// hands its descriptor over. What happens, in order:
//
//	master                                      slave
//	                     <- connects
//	HELLO                ->                     makes rings and buffers
//	                     <- INIT, ADD_REGION, ADD_RING..., CONNECT, each but the last acknowledged before the next
//	maps, CONNECTED      ->
//	packets: rings of descriptors, an eventfd each to say that a sleeping reader has work
//	socket closed by either side, or DISCONNECT: over
//
// The layout of messages is that of gomemif (go.fd.io/govpp/extras); its connection handling is not used: it ends the whole
// process when somebody connects and leaves without a word, keeps every closed connection's descriptor, trusts offsets the
// other side writes, and garbles packets longer than one buffer. Tests hold both against each other.
//
// Nothing the other side writes is trusted: descriptors are checked against the memory they point into, and memory that
// its owner could shrink under us is refused. A VPP slave with zero-copy on huge pages cannot promise that.
package memif
