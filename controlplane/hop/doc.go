// Package hop is what every hop of an NSM connection does alike, be it the manager in the middle or an endpoint at the end.
//
// A Request arrives with a path: one segment for each hop it has passed, and an index that says whose turn it was last.
//
//  1. CheckRequest refuses what no hop could make sense of, before anything is touched.
//  2. Enter finds the hop's own segment to the right of the caller's (or makes it), writes the caller's token into the
//     caller's segment, a fresh token into the own one, and checks the chain of tokens.
//  3. The hop does its work. Files named by inode:// URLs come and go beside the messages: Files, SendFile.
//  4. Leave turns the message round: index and id are the caller's again, and every segment says when it expires.
//
// Hub tells the watchers of MonitorConnections what became of connections. Pool calls the next hop and listens to its
// events. The wire page sections cited are those of the NSM API.
package hop
