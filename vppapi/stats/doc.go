// Package stats is VPP's stats segment, format 2: shared memory in which VPP counts packets and from which anybody who may
// connect to its stats socket can read without asking VPP anything. [Segment] reads it, [Writer] is the other side, for
// pocketvpp.
//
// The socket (SEQPACKET) hands every client the descriptor of the memory and closes. The memory begins with a header; its
// directory is a vector of named entries, and what an entry leads to are vectors too:
//
//	header     version, base, epoch, in_progress, directory      five words of 64 bits
//	vector     length (32 bits) and 32 bits for VPP's allocator, then the elements; pointers lead to the first element
//	entry      type (32 bits), padding, value or pointer (64 bits), name of at most 127 bytes
//	counters   pointer to a vector by thread of pointers to vectors by index: 64 bits, or packets and bytes of 64 bits each
//	names      pointer to a vector of pointers to vectors of bytes, each with a zero at its end
//	symlink    instead of a value: entry (32 bits) and index (32 bits)
//
// Pointers are VPP's own: what they lead to lies as far from the start of the memory as they are above base. Whenever VPP
// moves something it sets in_progress, and then counts epoch up: a reader whose epoch has changed reads again. Counters
// themselves change at any time, one by one.
//
// govpp has a reader as well. It follows pointers and lengths unchecked, so that reading while VPP moves a vector can end
// the process, and does not refresh symlinks, which all counts under /err are.
package stats
