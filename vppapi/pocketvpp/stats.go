package pocketvpp

// poolName is what VPP calls its first pool.
const poolName = "default-numa-0"

// ringBuffers is what an interface with a ring of its own holds of the pool.
const ringBuffers = 256

// setPool tells how much of the pool the interfaces hold.
func (s *Server) setPool() {
	used := 0
	for i := range s.ifaces.values() {
		if i.devType == devTap || i.devType == devMemif {
			used += ringBuffers
		}
	}
	used = min(used, s.cfg.Buffers)
	s.stats.SetPool(uint64(s.cfg.Buffers-used), 0, uint64(used))
}
