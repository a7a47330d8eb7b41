// Package forwarder keeps the dataplane equal to the desired vWires.
//
// One change, from top to bottom:
//
//  1. Set checks the vWire and puts it into the queue.
//  2. The [Reconciler]'s goroutine, sole owner of desired and realized state, takes everything that waits as one batch.
//  3. The batch is written to the journal in one transaction, so that what was asked for outlives the process.
//  4. Both ends become objects by their mechanisms, a cross-connect joins them, and the difference to what is realized is
//     applied. A refresh differs in nothing and sends nothing.
//  5. Each caller gets the result of its own vWire. Of one that failed the former version is put back first. A Delete is
//     answered once nothing passes; what VPP and the kernel take long to remove goes when nobody waits.
//
// When VPP ends, the next one is dumped (it is empty) and the same difference is applied to it; when the agent starts, the
// journal gives the desired state and the dump what is there already. Leftovers that nobody wants are removed only after a
// grace period, in which clients can claim them by a refresh.
package forwarder
