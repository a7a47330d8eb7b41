package sriov

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"highwire/vppapi/fault"
)

// Config says which physical functions of a node may be used, and what for.
type Config struct {
	// PhysicalFunctions by PCI address, "0000:01:00.0".
	PhysicalFunctions map[string]Function `json:"physicalFunctions"`
}

// Function says what one physical function is for.
type Function struct {
	// PFKernelDriver is the driver that the PF must have, empty for any.
	PFKernelDriver string `json:"pfKernelDriver,omitempty"`
	// VFKernelDriver is the driver that makes a VF a kernel interface.
	VFKernelDriver string `json:"vfKernelDriver"`
	// Capabilities that its VFs have and clients ask for, such as "intel" or "10G".
	Capabilities []string `json:"capabilities"`
	// ServiceDomains that it is connected to.
	ServiceDomains []string `json:"serviceDomains"`
	// VFs to create where there are none yet, 0 to use what is there.
	VFs int `json:"vfs,omitempty"`
	// Trust lets VFs change their MAC and listen to all (needed by some DPDK programs); SpoofCheck drops what a VF sends
	// under another MAC; MaxRate bounds each VF in Mb/s, 0 for no bound.
	Trust      bool  `json:"trust,omitempty"`
	SpoofCheck *bool `json:"spoofCheck,omitempty"`
	MaxRate    int   `json:"maxRate,omitempty"`
}

// spoofCheck is on unless the file turns it off or trusts the VF.
func (f Function) spoofCheck() bool {
	if f.SpoofCheck != nil {
		return *f.SpoofCheck
	}
	return !f.Trust
}

// has tells whether its VFs can serve the token name "<service domain>/<capability>".
func (f Function) has(token string) bool {
	domain, capability, ok := strings.Cut(token, "/")
	return ok && slices.Contains(f.ServiceDomains, domain) && slices.Contains(f.Capabilities, capability)
}

// tokens are the names that its VFs can serve.
func (f Function) tokens() []string {
	var names []string
	for _, d := range f.ServiceDomains {
		for _, c := range f.Capabilities {
			names = append(names, d+"/"+c)
		}
	}
	return names
}

// address is a PCI address in full; as a file name it can lead nowhere else.
var address = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// CheckAddress refuses what is not a PCI address such as "0000:01:10.2".
func CheckAddress(s string) error {
	if !address.MatchString(s) {
		return fault.New(fault.Invalid, "PCI address %.40q: want domain:bus:device.function in lower-case hexadecimal, as in 0000:01:10.2", s)
	}
	return nil
}

// word is a capability, a service domain or a driver: they become file names, resource names and parts of tokens.
var word = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// ReadConfig reads and checks a file in YAML or JSON. Unknown keys are errors: a slip must not go unnoticed.
func ReadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fault.New(fault.NotFound, "SR-IOV configuration: %w", err)
	}
	c, err := ParseConfig(text)
	if err != nil {
		return Config{}, fault.New(fault.Invalid, "SR-IOV configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig is ReadConfig of the file's content.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	if len(bytes.TrimSpace(text)) == 0 {
		return c, fault.New(fault.Invalid, "it is empty; it needs physicalFunctions")
	}
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return c, fault.Wrap(fault.Invalid, err)
	}
	if len(c.PhysicalFunctions) == 0 {
		return c, fault.New(fault.Invalid, "physicalFunctions is empty")
	}
	for a, f := range c.PhysicalFunctions {
		if err := CheckAddress(a); err != nil {
			return c, err
		}
		if err := f.check(); err != nil {
			return c, fault.New(fault.Invalid, "%s: %w", a, err)
		}
	}
	return c, nil
}

func (f Function) check() error {
	if f.VFKernelDriver == "" {
		return fault.New(fault.Invalid, "vfKernelDriver is missing: it names the driver that makes a VF a kernel interface, such as igbvf or iavf")
	}
	if len(f.Capabilities) == 0 || len(f.ServiceDomains) == 0 {
		return fault.New(fault.Invalid, "capabilities and serviceDomains must not be empty: clients ask for both")
	}
	for _, w := range slices.Concat(f.Capabilities, f.ServiceDomains, []string{f.VFKernelDriver, f.PFKernelDriver}) {
		if w != "" && !word.MatchString(w) || w == "" && slices.Contains(slices.Concat(f.Capabilities, f.ServiceDomains), "") {
			return fault.New(fault.Invalid, "%q: want 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit", w)
		}
	}
	if f.VFs < 0 || f.MaxRate < 0 {
		return fault.New(fault.Invalid, "vfs and maxRate must not be negative")
	}
	return nil
}
