// Package bench measures highwire beside the same thing made by hand, in the same run, on the same machine.
//
// A figure is a value, the baseline it is held to, and their ratio. Both are measured in short rounds that alternate, because a
// machine changes its speed more from minute to minute than highwire and a hand-made set-up differ: the ratio is the
// median of the rounds' own ratios, and its spread is reported with it. What is measured:
//
//	kernel    TCP between two namespaces: over VPP against the same VPP configured through its command line,
//	          and straight against a plain veth pair
//	latency   how long Set and Delete take, and Request and Close over gRPC, from the warm pool and cold, against the
//	          hand-made VPP calls alone
//	memif     packets a second and clocks a packet through one core of VPP, against a hand-made cross-connect there
//
// Control measures Requests and Closes over real sockets instead, without a baseline: a hand has no control plane.
//
// Remote measures vWires over two nodes beside tunnels made by hand between the same two VPPs.
//
// Recovery kills the agent and VPP while packets flow, and counts what is lost, what the next agent changes in VPP, how soon
// packets flow again, and what is left after many Requests and Closes.
//
// Everything runs inside a network namespace of its own (see Inside) on a VPP of its own, or on pocketvpp where no VPP is found;
// there a hand has no command line to configure it with, and only what needs no VPP has a baseline.
package bench
