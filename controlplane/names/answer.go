package names

import (
	"net"

	"github.com/miekg/dns"
)

// maxPayload is the longest answer by UDP; the pod's loopback carries it in one piece.
const maxPayload = 16 << 10

// answer answers one query of the pod.
func (s *Server) answer(w dns.ResponseWriter, q *dns.Msg) {
	defer s.asked.Add(-1)
	if s.asked.Add(1) > maxQuestions {
		return
	}
	if len(q.Question) != 1 {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError)) // its header has lied
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.CheckingDisabled = true, q.CheckingDisabled
	opt := q.IsEdns0()
	size := dns.MinMsgSize
	if opt != nil {
		size = max(size, min(int(opt.UDPSize()), maxPayload))
		m.SetEdns0(maxPayload, opt.Do())
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); !udp {
		size = dns.MaxMsgSize
	}
	switch asked := q.Question[0]; {
	case opt != nil && opt.Version() != 0:
		m.Rcode = dns.RcodeBadVers
	case marked(q, s.resolver.mark):
		s.config.Log.Warn("a nameserver sends our own queries back to us", "name", asked.Name)
		m.Rcode = dns.RcodeRefused
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case asked.Qclass != dns.ClassINET, asked.Qtype == dns.TypeAXFR, asked.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
	default:
		r := s.resolver.resolve(s.ctx, newQuestion(q))
		m.Rcode, m.Answer = r.rcode(), r.records
		m.AuthenticatedData = r.authentic && (q.AuthenticatedData || opt != nil && opt.Do())
		if r.soa != nil {
			m.Ns = []dns.RR{r.soa}
		}
	}
	wire, err := m.Pack()
	if err == nil && len(wire) > size {
		m.Truncate(size) // and compress, which takes time
		wire, err = m.Pack()
	}
	if err != nil {
		s.config.Log.Error("an answer cannot be sent", "name", q.Question[0].Name, "reason", err)
		return
	}
	_, _ = w.Write(wire) // who asked has gone
}
