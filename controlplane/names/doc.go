// Package names answers the DNS queries of a pod: from the cluster's nameservers, and from those that its connections to
// network services bring along (DNSContext of the NSM wire).
//
// A query takes this way:
//
//  1. The pod's resolv.conf names the Server's address in the pod's loopback; the query comes by UDP or TCP.
//  2. A query that the Server itself has sent is refused: some upstream asks us. Else the cache may have the answer.
//  3. The same question, asked again meanwhile, waits for the first one; so no loop can make the questions more.
//  4. All sources that own the name are asked at once. A source is a group of nameservers that say the same, such as those of
//     the cluster's resolv.conf or of one DNS config. The first positive answer wins; the name is not there only if all say so.
//  5. Of an answer only that is believed which its source owns. Where an alias leads out of that, its target is resolved anew.
//
// A source with domains owns the names in them. The search domains of the pod's own resolv.conf belong to the cluster: no
// service owns names there unless the pod's owner says so (Config.Allow).
package names
