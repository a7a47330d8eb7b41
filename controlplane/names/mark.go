package names

import (
	"bytes"
	"crypto/rand"

	"github.com/miekg/dns"
)

// markCode is an EDNS option for local use (RFC 6891, section 9). Each query to a nameserver carries in it who we are; where
// nameservers pass options on, a query that comes back to us shows itself.
const markCode = 65313

func newMark() []byte {
	mark := make([]byte, 8)
	rand.Read(mark)
	return mark
}

// marked tells whether we have sent this query ourselves.
func marked(m *dns.Msg, mark []byte) bool {
	opt := m.IsEdns0()
	if opt == nil {
		return false
	}
	for _, o := range opt.Option {
		if local, ok := o.(*dns.EDNS0_LOCAL); ok && local.Code == markCode && bytes.Equal(local.Data, mark) {
			return true
		}
	}
	return false
}
