// Package vppapi is one session with VPP over its binary API, and the objects highwire keeps there.
//
// The story of a change, in order:
//
//  1. A [Dialer] connects to VPP's API socket and hands out a [Conn], which is one VPP lifetime: it ends when VPP ends.
//  2. [Conn.Dump] reads what VPP holds of ours, recognised by tags, into a [Realized].
//  3. [Diff] compares wanted objects with it. The result is a [Plan]: pure, ordered, printable.
//  4. [Conn.Apply] carries the plan out in two pipelined flushes, creates first, then configuration, because the only
//     answers a later message depends on are sw_if_index values. Kernel objects ([Local]) run at their places between.
//
// The package has no policy: it does not know what a vWire is, only ends' names. Nothing outside of it imports govpp.
package vppapi
