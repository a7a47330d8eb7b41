// Package api holds the messages and services that highwire speaks, generated from the files in proto/ by generate.sh.
//
//   - connection, connectioncontext, networkservice, registry: the Network Service Mesh wire, so that clients, endpoints
//     and managers of other makers can take part. Method paths and field numbers are the contract; the test beside this
//     file pins them.
//   - highwire/v1: the inspection service of the agent's admin socket, which the command line uses.
package api
