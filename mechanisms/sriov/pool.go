package sriov

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"highwire/vppapi/fault"
)

// Use is what a VF is lent as.
type Use string

const (
	// Kernel interface in a peer's namespace.
	Kernel Use = "kernel"
	// VFIO device for a driver in user space.
	VFIO Use = "vfio"
)

// PoolConfig is what a Pool works with.
type PoolConfig struct {
	Host   Host
	Config Config
	// Secret makes token ids hard to guess: whoever knows one can claim a VF. It has to be the same in every life of the
	// agent.
	Secret []byte
	// NUMA is the node whose VFs are preferred, -1 for none.
	NUMA int
	// Access opens devices to the peers of VFIO ends.
	Access Access
	Log    *slog.Logger
}

// Pool knows the VFs of the node and who has them. Safe for concurrent use.
type Pool struct {
	cfg PoolConfig

	mu     sync.Mutex
	pfs    []PF
	owners map[string]*lease // by PCI address of the VF
	tokens map[string]string // token id to "<service domain>/<capability>"
}

// lease is a VF in the hands of a vWire's end.
type lease struct {
	end   string
	token string
	use   Use
	// holds count the versions of the vWire that are wanted. What was reserved and never held lapses.
	holds int
	since time.Time
}

// lapse is how long a reservation waits for its vWire.
const lapse = time.Minute

// NewPool creates the VFs that the configuration asks for and takes stock.
func NewPool(c PoolConfig) (*Pool, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{cfg: c, owners: map[string]*lease{}, tokens: map[string]string{}}
	pfs, err := c.Host.Scan()
	if err != nil {
		return nil, err
	}
	for a, f := range c.Config.PhysicalFunctions {
		i := slices.IndexFunc(pfs, func(pf PF) bool { return pf.Address == a })
		switch {
		case i < 0:
			c.Log.Warn("a PF of the SR-IOV configuration is not there", "pf", a)
			continue
		case f.PFKernelDriver != "" && pfs[i].Driver != f.PFKernelDriver:
			return nil, fault.New(fault.Invalid, "PF %s has driver %q, its configuration wants %q", a, pfs[i].Driver, f.PFKernelDriver)
		}
		if err := c.Host.Create(pfs[i], f.VFs); err != nil {
			return nil, err
		}
		// After that, so that its VFs hear that it is ready.
		if err := raise(pfs[i].Interface); err != nil {
			c.Log.Warn("a PF cannot be brought up, so its VFs carry nothing", "pf", a, "reason", err)
		}
	}
	return p, p.Rescan()
}

// Rescan looks at the hardware again. Owners keep their VFs, also those that are gone.
func (p *Pool) Rescan() error {
	pfs, err := p.cfg.Host.Scan()
	if err != nil {
		return err
	}
	pfs = slices.DeleteFunc(pfs, func(pf PF) bool { _, ours := p.cfg.Config.PhysicalFunctions[pf.Address]; return !ours })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pfs = pfs
	count := map[string]int{}
	for _, pf := range pfs {
		for _, name := range p.cfg.Config.PhysicalFunctions[pf.Address].tokens() {
			count[name] += len(pf.VFs)
		}
	}
	clear(p.tokens)
	for name, n := range count {
		for i := range n {
			p.tokens[p.tokenID(name, i)] = name
		}
	}
	return nil
}

// tokenID is "sriov-<uuid>", the same in every life of the agent.
func (p *Pool) tokenID(name string, i int) string {
	mac := hmac.New(sha256.New, p.cfg.Secret)
	fmt.Fprintf(mac, "%s/%d", name, i)
	id := uuid.UUID(mac.Sum(nil)[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // version 8: of our own making
	return "sriov-" + id.String()
}

// Tokens are the ids by name "<service domain>/<capability>", sorted: as many of each as there are VFs that serve it.
func (p *Pool) Tokens() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	byName := map[string][]string{}
	for id, name := range p.tokens {
		byName[name] = append(byName[name], id)
	}
	for _, ids := range byName {
		slices.Sort(ids)
	}
	return byName
}

// Reserve gives the end a free VF that the token asks for; asked again, the same one. It lapses after a minute unless the
// end's vWire is made. fault.NotFound for an unknown token, fault.Conflict for one in use, fault.Exhausted without a VF.
func (p *Pool) Reserve(end, tokenID string, use Use) (VF, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, ok := p.tokens[tokenID]
	if !ok {
		return VF{}, fault.New(fault.NotFound, "tokenID %.60q is not known here; it comes from the device plugin of this node", tokenID)
	}
	p.expire()
	for a, l := range p.owners {
		switch {
		case l.end == end && l.token == tokenID && l.use == use:
			if vf, _, ok := p.find(a); ok {
				l.since = time.Now()
				return vf, nil
			}
			return VF{}, fault.New(fault.Unavailable, "VF %s of %s is gone; was its PF reset?", a, end)
		case l.end == end && l.holds == 0:
			delete(p.owners, a) // it asks for something else now
		case l.token == tokenID && l.end != end:
			return VF{}, fault.New(fault.Conflict, "tokenID %s is in use by %s", tokenID, l.end)
		}
	}
	vf, err := p.choose(name, use)
	if err != nil {
		return VF{}, err
	}
	p.owners[vf.Address] = &lease{end: end, token: tokenID, use: use, since: time.Now()}
	return vf, nil
}

// expire drops reservations that no vWire came of.
func (p *Pool) expire() {
	maps.DeleteFunc(p.owners, func(_ string, l *lease) bool { return l.holds == 0 && time.Since(l.since) > lapse })
}

// choose finds a free VF: of the preferred NUMA node, then in an IOMMU group that is used this way already, then at the PF
// with most to spare, then by address.
func (p *Pool) choose(name string, use Use) (VF, error) {
	type candidate struct {
		vf         VF
		far, fresh int
		free       int
	}
	groups := p.groups()
	var list []candidate
	serving, taken, mixed := 0, 0, 0
	for _, pf := range p.pfs {
		if !p.cfg.Config.PhysicalFunctions[pf.Address].has(name) {
			continue
		}
		free := len(slices.DeleteFunc(slices.Clone(pf.VFs), func(vf VF) bool { return p.owners[vf.Address] != nil }))
		for _, vf := range pf.VFs {
			serving++
			used, known := groups[vf.Group]
			switch {
			case p.owners[vf.Address] != nil:
				taken++
				continue
			case vf.Group >= 0 && known && used != use:
				mixed++
				continue
			case vf.Group < 0 && use == VFIO:
				continue // without an IOMMU the device could write to any memory
			}
			c := candidate{vf: vf, free: free}
			if p.cfg.NUMA >= 0 && pf.NUMA != p.cfg.NUMA {
				c.far = 1
			}
			if !known {
				c.fresh = 1
			}
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		reason := ""
		if mixed > 0 {
			reason = fmt.Sprintf(", %d in an IOMMU group that is not used as %s", mixed, use)
		} else if taken < serving {
			reason = ", and the rest has no IOMMU, which VFIO needs: boot with intel_iommu=on or amd_iommu=on"
		}
		return VF{}, fault.New(fault.Exhausted, "no VF is free for %s as %s: %d serve it, %d in use%s", name, use, serving, taken, reason)
	}
	return slices.MinFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.fresh, b.fresh), cmp.Compare(b.free, a.free), cmp.Compare(a.vf.Address, b.vf.Address))
	}).vf, nil
}

// groups tells what the IOMMU groups in use are used as: the kernel lends a group as a whole.
func (p *Pool) groups() map[int]Use {
	used := map[int]Use{}
	for a, l := range p.owners {
		if vf, _, ok := p.find(a); ok && vf.Group >= 0 {
			used[vf.Group] = l.use
		}
	}
	return used
}

// find returns the VF at the address, and its PF.
func (p *Pool) find(address string) (VF, PF, bool) {
	for _, pf := range p.pfs {
		for _, vf := range pf.VFs {
			if vf.Address == address {
				return vf, pf, true
			}
		}
	}
	return VF{}, PF{}, false
}

// Claim makes the VF at the address the end's until as many calls of Free. fault.Conflict when another end has it.
func (p *Pool) Claim(end, address, tokenID string, use Use) error {
	if err := CheckAddress(address); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire()
	if _, _, ok := p.find(address); !ok {
		return fault.New(fault.NotFound, "there is no VF %s at the configured PFs", address)
	}
	if l := p.owners[address]; l != nil && l.end != end {
		return fault.New(fault.Conflict, "VF %s belongs to %s", address, l.end)
	}
	if p.owners[address] == nil {
		p.owners[address] = &lease{end: end}
	}
	l := p.owners[address]
	l.token, l.use, l.holds = tokenID, use, l.holds+1
	return nil
}

// Free ends a Claim of the end; after the last one the VF is free.
func (p *Pool) Free(end, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.owners[address]
	if l == nil || l.end != end {
		return
	}
	if l.holds--; l.holds <= 0 {
		delete(p.owners, address)
	}
}

// Device is one VF as inspection shows it.
type Device struct {
	VF
	// PF's address and interface, its NUMA node and whether its link is up.
	PF, PFInterface string
	NUMA            int
	Up              bool
	// Tokens it can serve, "<service domain>/<capability>".
	Tokens []string
	// Owner is the end that has it, empty for none; Use is what as.
	Owner string
	Use   Use
}

// Devices lists the VFs of the configured PFs.
func (p *Pool) Devices() []Device {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire()
	var list []Device
	for _, pf := range p.pfs {
		for _, vf := range pf.VFs {
			d := Device{VF: vf, PF: pf.Address, PFInterface: pf.Interface, NUMA: pf.NUMA, Up: pf.Up, Tokens: p.cfg.Config.PhysicalFunctions[pf.Address].tokens()}
			if l := p.owners[vf.Address]; l != nil {
				d.Owner, d.Use = l.end, l.use
			}
			list = append(list, d)
		}
	}
	return list
}
