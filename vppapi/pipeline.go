package vppapi

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/core"

	"highwire/vppapi/fault"
)

// window is how many messages are under way at once. govpp drops replies that find no room, so it is also the size of the
// reply channel.
const window = 256

// call is one request of a flush.
type call struct {
	req api.Message
	// also are return values that mean success too, such as "exists already" for a create.
	also []api.VPPApiError
	// means says what return values mean here that say little by themselves.
	means map[api.VPPApiError]error
}

// answer is what became of a call: its reply, or why there is none.
type answer struct {
	reply api.Message
	err   error
}

// index is what the reply of a create carries to name the new thing by: the sw_if_index, or the index of a WireGuard peer.
func (a answer) index() (uint32, bool) {
	if a.reply == nil {
		return 0, false
	}
	for _, field := range []string{"SwIfIndex", "PeerIndex"} {
		if f := reflect.ValueOf(a.reply).Elem().FieldByName(field); f.IsValid() {
			return uint32(f.Uint()), true
		}
	}
	return 0, false
}

// flush sends the calls without waiting between them and returns an answer for each, in order. The error is that of the
// session: calls not answered by then carry it too, and nothing is known of their effect.
func (c *Conn) flush(ctx context.Context, calls []call) ([]answer, error) {
	answers := make([]answer, len(calls))
	if len(calls) == 0 {
		return answers, nil
	}
	// The deadline grows with the work: an af_packet create takes VPP 40 ms.
	ctx, cancel := c.bound(ctx, 5*time.Second+time.Duration(len(calls))*100*time.Millisecond)
	defer cancel()
	broken := c.exchange(ctx, calls, answers)
	if broken != nil {
		broken = c.broken(broken)
		for i := range answers {
			if answers[i].reply == nil && answers[i].err == nil {
				answers[i].err = fmt.Errorf("%s: %w", calls[i].req.GetMessageName(), broken)
			}
		}
	}
	return answers, broken
}

func (c *Conn) exchange(ctx context.Context, calls []call, answers []answer) error {
	stream, err := c.stream(ctx)
	if err != nil {
		return err
	}
	defer stream.close()
	for sent, received := 0, 0; received < len(calls); received++ {
		for sent < len(calls) && sent-received < window && (sent == received || !slow(calls[sent]) && !slow(calls[sent-1])) {
			if answers[sent].err = c.knows(calls[sent].req); answers[sent].err == nil {
				if err := stream.SendMsg(calls[sent].req); err != nil {
					return err
				}
				c.sent.Add(1)
			}
			sent++
		}
		if answers[received].err != nil {
			continue
		}
		reply, err := stream.RecvMsg()
		if err != nil {
			return err
		}
		c.heard()
		if answers[received] = judge(calls[received], reply); answers[received].err != nil {
			c.refused.Add(1)
		} else if q, ok := calls[received].req.(*interfaces.SwInterfaceSetRxMode); ok {
			c.rearm.set(q)
		}
	}
	return nil
}

// slow messages take VPP's main thread tens of milliseconds, in which it forwards nothing where it has no workers. They go one by
// one: between two messages that have arrived together it would not look at packets either, and fifty would stop it for seconds.
func slow(c call) bool {
	switch c.req.(type) {
	case *af_packet.AfPacketCreateV3, *af_packet.AfPacketDelete:
		return true
	}
	return false
}

// knows tells why VPP cannot be sent a message of that sort: it has no plugin for it, or one of another release.
func (c *Conn) knows(m api.Message) error {
	if _, err := c.conn.GetMessageID(m); err != nil {
		return fault.New(fault.Invalid, "VPP %s does not know %s as release %s does: is the plugin for it enabled?", c.version, m.GetMessageName(), Release)
	}
	return nil
}

func judge(cl call, reply api.Message) answer {
	f := reflect.ValueOf(reply).Elem().FieldByName("Retval")
	if !f.IsValid() {
		return answer{reply: reply}
	}
	retval := api.VPPApiError(f.Int())
	if retval == 0 || slices.Contains(cl.also, retval) {
		return answer{reply: reply}
	}
	err := retvalFault(cl.req.GetMessageName(), retval)
	if reason, ok := cl.means[retval]; ok {
		err = fault.New(fault.KindOf(reason), "%w: %w", reason, err)
	}
	return answer{reply: reply, err: err}
}

// dump sends dump requests in one go and calls fn with every detail that comes back.
func (c *Conn) dump(ctx context.Context, fn func(api.Message), reqs ...api.Message) error {
	ctx, cancel := c.bound(ctx, 15*time.Second)
	defer cancel()
	stream, err := c.stream(ctx)
	if err != nil {
		return c.broken(err)
	}
	defer stream.close()
	for _, r := range append(reqs, &memclnt.ControlPing{}) {
		if err := stream.SendMsg(r); err != nil {
			return c.broken(err)
		}
		c.sent.Add(1)
	}
	for {
		m, err := stream.RecvMsg()
		if err != nil {
			return c.broken(err)
		}
		c.heard()
		if _, last := m.(*memclnt.ControlPingReply); last {
			return nil
		}
		fn(m)
	}
}

// one sends a single request and returns its reply, whatever its retval.
func (c *Conn) one(ctx context.Context, req api.Message) (api.Message, error) {
	ctx, cancel := c.bound(ctx, 15*time.Second)
	defer cancel()
	stream, err := c.stream(ctx)
	if err != nil {
		return nil, c.broken(err)
	}
	defer stream.close()
	if err := stream.SendMsg(req); err != nil {
		return nil, c.broken(err)
	}
	c.sent.Add(1)
	reply, err := stream.RecvMsg()
	if err != nil {
		return nil, c.broken(err)
	}
	c.heard()
	return reply, nil
}

// bound limits a wait for VPP in time and to the life of the session; govpp itself waits on when the socket has closed.
func (c *Conn) bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(c.run, cancel)
	return ctx, func() { stop(); cancel() }
}

type stream struct{ api.Stream }

func (s stream) close() {
	// Close only fails when called twice.
	_ = s.Stream.Close()
}

func (c *Conn) stream(ctx context.Context) (stream, error) {
	if err := c.Err(); err != nil {
		return stream{}, err
	}
	// Dumps can be answered faster than they are read; the channel takes what one read of VPP's socket can hold.
	s, err := c.conn.NewStream(ctx, core.WithRequestSize(1), core.WithReplySize(16*window))
	return stream{s}, err
}

// broken explains why a message got no answer. Once a reply is missing, later ones cannot be told apart: the session ends.
func (c *Conn) broken(err error) error {
	if gone := c.Err(); gone != nil {
		return gone
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	err = fault.New(fault.Unavailable, "VPP did not answer: %w", err)
	c.fail(err)
	return err
}

func retvalFault(message string, retval api.VPPApiError) error {
	kind := fault.Internal
	switch retval {
	case api.IF_ALREADY_EXISTS, api.SUBIF_ALREADY_EXISTS, api.ENTRY_ALREADY_EXISTS, api.VALUE_EXIST, api.INSTANCE_IN_USE, api.ADDRESS_IN_USE:
		kind = fault.Conflict
	case api.NO_SUCH_ENTRY, api.INVALID_SW_IF_INDEX, api.INVALID_INTERFACE:
		kind = fault.NotFound
	case api.INVALID_VALUE, api.INVALID_ARGUMENT, api.INVALID_VALUE_2:
		kind = fault.Invalid
	case api.LIMIT_EXCEEDED, api.TABLE_TOO_BIG:
		kind = fault.Exhausted
	}
	return fault.New(kind, "VPP refused %s: %w", message, retval)
}
