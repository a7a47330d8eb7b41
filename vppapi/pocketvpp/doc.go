// Package pocketvpp is a small stand-in for VPP 25.10: it speaks VPP's binary API on a Unix socket and forwards real
// packets, so that everything that drives VPP runs, and is tested, where no VPP is installed.
//
// One request, top to bottom:
//
//  1. client.go reads a frame (a 16-byte header, then the message) and checks who sent it.
//  2. table.go finds the message by its id; the id was given out under the message's name and CRC at the handshake, as
//     VPP does, so a client built against another version simply does not find the message.
//  3. A handler acts. All handlers run one after the other under Server.mu: VPP has one main thread, too. Handlers live in
//     one file a feature (interfaces, tap, afpacket, memif, l2, l3xc, neighbors, addresses, cli); a feature registers its
//     messages and nothing else knows of it.
//  4. Changes that the packet path sees are made under Server.fwd.
//  5. The reply is queued for the client; what changed on interfaces is told to those who asked for events.
//
// One packet, left to right: a port (device.go) reads it, forward.go decides by the state of the interface it came in on
// (l2 cross-connect, l3 cross-connect, or drop), and the port of the other interface transmits it. A port is anything
// that transmits a packet and calls back with those it receives, so further kinds plug in without touching the rest.
//
// It is no mock: retvals, names, numbers and side effects follow VPP 25.10, including those that surprise. Where the two
// differ, VPP is right.
package pocketvpp
