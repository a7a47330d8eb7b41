package names

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"highwire/vppapi/fault"
)

// resolvConf is what a resolv.conf says to a resolver (resolv.conf(5)).
type resolvConf struct {
	Nameservers []netip.Addr
	Search      []string
	Options     []string
}

// maxResolvConf bounds the file. The libraries that read it take far less.
const maxResolvConf = 64 << 10

// parseResolvConf reads what resolvers understand and leaves out the rest, as they do.
func parseResolvConf(text []byte) resolvConf {
	var c resolvConf
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.ContainsAny(line[:1], "#;") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				c.Nameservers = append(c.Nameservers, a.Unmap())
			}
		case "domain":
			c.Search = fields[1:2]
		case "search":
			c.Search = fields[1:]
		case "options":
			c.Options = append(c.Options, fields[1:]...)
		}
	}
	return c
}

// domains are the search domains that are names, in canonical form.
func (c resolvConf) domains() []string {
	var list []string
	for _, s := range c.Search {
		if d, err := ParseDomain(s); err == nil && !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

// What marks a file that we have written. The original is within, so that nothing else has to survive a kill or the
// replacement of the container, which keeps the pod's resolv.conf but no file beside it.
const (
	header   = "# highwire client answers this pod's names. What stood here comes back when it ends, or when its next life does.\n"
	keptLine = "#|"
	keptOpen = "#." // the last line had no line feed
)

// wrap is the file that leads resolvers to us, with the original within.
func wrap(original []byte, own netip.Addr, search []string) []byte {
	var b bytes.Buffer
	b.WriteString(header)
	fmt.Fprintf(&b, "nameserver %s\n", own)
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if o := parseResolvConf(original).Options; len(o) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(o, " "))
	}
	for line := range bytes.Lines(original) {
		b.WriteString(keptLine)
		b.Write(line)
		if line[len(line)-1] != '\n' {
			b.WriteString("\n" + keptOpen + "\n")
		}
	}
	return b.Bytes()
}

// unwrap is the original of a file, and whether it was within one that we have written.
func unwrap(text []byte) (original []byte, ours bool) {
	body, ours := bytes.CutPrefix(text, []byte(header))
	if !ours {
		return text, false
	}
	original = []byte{}
	for line := range bytes.Lines(body) {
		if kept, ok := bytes.CutPrefix(line, []byte(keptLine)); ok {
			original = append(original, kept...)
		} else if bytes.HasPrefix(line, []byte(keptOpen)) {
			original = bytes.TrimSuffix(original, []byte("\n"))
		}
	}
	return original, true
}

// file is a pod's resolv.conf. It is a bind mount as a rule, so it cannot be replaced by another one and is written in place.
type file struct {
	f        *os.File
	original []byte
}

// openFile opens a resolv.conf and finds what stands in it when no client runs.
func openFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, fault.New(fault.Invalid, "%s is a symbolic link, so another program keeps it; give the resolv.conf of a pod", path)
	case err != nil:
		return nil, fmt.Errorf("the pod's resolv.conf has to be writable: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxResolvConf+1))
	if err == nil && len(text) > maxResolvConf {
		err = fault.New(fault.Invalid, "%s is larger than %d bytes", path, maxResolvConf)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	original, _ := unwrap(text)
	return &file{f: f, original: original}, nil
}

// point leads resolvers to own.
func (f *file) point(own netip.Addr, search []string) error {
	return f.replace(wrap(f.original, own, search))
}

// restore brings back what stood there, unless somebody else has written the file meanwhile, and closes it.
func (f *file) restore() error {
	defer f.f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f.f, 0, 2*maxResolvConf))
	if err != nil {
		return err
	}
	if original, ours := unwrap(text); ours {
		return f.replace(original)
	}
	return nil
}

// replace writes all of the file in one go, filled with empty lines up to its former length, which are cut off then: whoever
// reads meanwhile finds the old text or the new one.
func (f *file) replace(text []byte) error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	filled := append(slices.Clone(text), bytes.Repeat([]byte("\n"), max(0, int(info.Size())-len(text)))...)
	if _, err := f.f.WriteAt(filled, 0); err != nil {
		return err
	}
	return f.f.Truncate(int64(len(text)))
}
