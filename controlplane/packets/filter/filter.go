// Package filter says which packets of a capture are wanted, in that part of tcpdump's language that people use:
//
//	ip, ip6, arp, icmp, icmp6, tcp, udp, sctp, vlan [ID], proto NUMBER
//	[src|dst] host ADDRESS, [src|dst] net PREFIX, [tcp|udp|sctp] [src|dst] port NUMBER, … portrange FROM-TO
//	ether [src|dst] host MAC, less LENGTH, greater LENGTH
//	not, and, or, ( )
//
// As there, "and" and "or" bind equally and group from the left. Unlike there, headers are looked for behind VLAN tags and
// IPv6 extension headers by themselves, and names of hosts and ports are not looked up.
package filter

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"highwire/vppapi/fault"
)

// Filter tells whether a packet is wanted. The zero Filter wants all.
type Filter struct{ match predicate }

type predicate func(*packet) bool

// Match judges a packet of that link type, of which data may hold only the first bytes; length is that on the wire.
func (f Filter) Match(linkType int, data []byte, length int) bool {
	if f.match == nil {
		return true
	}
	p := decode(linkType, data, length)
	return f.match(&p)
}

// Parse reads an expression; an empty one wants all packets. What is not understood is fault.Invalid and says where.
func Parse(expression string) (Filter, error) {
	words := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", "!", " ! ", "&&", " and ", "||", " or ").Replace(expression))
	if len(words) == 0 {
		return Filter{}, nil
	}
	p := parser{words: words}
	match := p.alternatives()
	if p.err == nil && p.at < len(words) {
		p.fail("an operator is wanted before it")
	}
	if p.err != nil {
		return Filter{}, p.err
	}
	return Filter{match}, nil
}

// maxDepth bounds parentheses and negations: expressions come from outside.
const maxDepth = 100

// parser goes from word to word; its first error stays.
type parser struct {
	words []string
	at    int
	depth int
	err   error
}

func (p *parser) fail(why string) predicate {
	if p.err == nil {
		where := "its end"
		if p.at < len(p.words) {
			where = strconv.Quote(p.words[p.at])
		}
		p.err = fault.New(fault.Invalid, "filter %q, at %s: %s", strings.Join(p.words, " "), where, why)
	}
	return func(*packet) bool { return false }
}

// next takes the next word if it is one of those.
func (p *parser) next(words ...string) (string, bool) {
	if p.at < len(p.words) && slices.Contains(words, p.words[p.at]) {
		p.at++
		return p.words[p.at-1], true
	}
	return "", false
}

// value takes the next word as what parse makes of it.
func value[T any](p *parser, wanted string, parse func(string) (T, error)) (v T) {
	if p.at == len(p.words) {
		p.fail(wanted + " is wanted")
		return v
	}
	v, err := parse(p.words[p.at])
	if err != nil {
		p.fail(wanted + " is wanted")
	}
	p.at++
	return v
}

func (p *parser) alternatives() predicate {
	left := p.negation()
	for p.err == nil {
		operator, ok := p.next("and", "or")
		if !ok {
			break
		}
		a, b := left, p.negation()
		if operator == "and" {
			left = func(k *packet) bool { return a(k) && b(k) }
		} else {
			left = func(k *packet) bool { return a(k) || b(k) }
		}
	}
	return left
}

func (p *parser) negation() predicate {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return p.fail("too deep")
	}
	if _, ok := p.next("not", "!"); ok {
		inner := p.negation()
		return func(k *packet) bool { return !inner(k) }
	}
	if _, ok := p.next("("); ok {
		inner := p.alternatives()
		if _, ok := p.next(")"); !ok && p.err == nil {
			return p.fail("')' is wanted")
		}
		return inner
	}
	return p.primitive()
}

// protocols are words that are complete by themselves, and can stand before a port.
var protocols = map[string]predicate{
	"ip": ofType(etherIPv4), "ip6": ofType(etherIPv6), "arp": ofType(etherARP), "tcp": ofProto(protoTCP), "udp": ofProto(protoUDP), "sctp": ofProto(protoSCTP),
	"icmp":  func(k *packet) bool { return k.etherType == etherIPv4 && k.proto == protoICMP },
	"icmp6": func(k *packet) bool { return k.etherType == etherIPv6 && k.proto == protoICMPv6 },
}

func ofType(t uint16) predicate { return func(k *packet) bool { return k.etherType == t } }
func ofProto(n int) predicate   { return func(k *packet) bool { return k.proto == n } }

func (p *parser) primitive() predicate {
	if p.at == len(p.words) {
		return p.fail("an expression is wanted")
	}
	word := p.words[p.at]
	if match, ok := protocols[word]; ok {
		p.at++
		if p.at < len(p.words) && slices.Contains([]string{"src", "dst", "host", "net", "port", "portrange"}, p.words[p.at]) {
			inner := p.directed()
			return func(k *packet) bool { return match(k) && inner(k) }
		}
		return match
	}
	switch word {
	case "ether":
		p.at++
		return p.ether()
	case "vlan":
		p.at++
		if p.at < len(p.words) {
			if id, err := strconv.ParseUint(p.words[p.at], 10, 12); err == nil {
				p.at++
				return func(k *packet) bool { return k.vlan && k.vlanID == uint16(id) }
			}
		}
		return func(k *packet) bool { return k.vlan }
	case "proto":
		p.at++
		return ofProto(value(p, "a protocol number", func(s string) (int, error) { n, err := strconv.ParseUint(s, 10, 8); return int(n), err }))
	case "less", "greater":
		p.at++
		n := value(p, "a length", strconv.Atoi)
		return func(k *packet) bool { return word == "less" && k.length <= n || word == "greater" && k.length >= n }
	}
	return p.directed()
}

// direction takes "src" or "dst" and tells how to ask for either or both.
func (p *parser) direction() func(src, dst bool) bool {
	switch word, _ := p.next("src", "dst"); word {
	case "src":
		return func(src, _ bool) bool { return src }
	case "dst":
		return func(_, dst bool) bool { return dst }
	}
	return func(src, dst bool) bool { return src || dst }
}

// directed is about addresses or ports, of the source, the destination or any.
func (p *parser) directed() predicate {
	start := p.at
	either := p.direction()
	word, ok := p.next("host", "net", "port", "portrange")
	if !ok && p.at > start { // "src ADDRESS"
		word, ok = "host", true
	}
	if !ok {
		return p.fail("this is not known here; see 'highwire pcap vwire --help'")
	}
	switch word {
	case "host":
		a := value(p, "an IP address", netip.ParseAddr).Unmap()
		return func(k *packet) bool { return either(k.src == a, k.dst == a) }
	case "net":
		n := value(p, "a prefix such as 10.0.0.0/8", netip.ParsePrefix)
		return func(k *packet) bool { return either(n.Contains(k.src), n.Contains(k.dst)) }
	}
	ports := value(p, "a port number or, after portrange, two with '-' between", func(s string) ([2]uint16, error) { return portRange(s, word) })
	in := func(n uint16) bool { return ports[0] <= n && n <= ports[1] }
	return func(k *packet) bool { return k.ports && either(in(k.srcPort), in(k.dstPort)) }
}

func portRange(s, word string) (r [2]uint16, err error) {
	from, to, found := strings.Cut(s, "-")
	if !found {
		to = from
	}
	if found != (word == "portrange") {
		return r, strconv.ErrSyntax
	}
	for i, text := range []string{from, to} {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return r, err
		}
		r[i] = uint16(n)
	}
	return r, nil
}

func (p *parser) ether() predicate {
	either := p.direction()
	p.next("host") // "ether src MAC" is the same
	mac := string(value(p, "a MAC such as 02:00:00:00:00:01", net.ParseMAC))
	return func(k *packet) bool { return either(k.macSrc == mac, k.macDst == mac) }
}
