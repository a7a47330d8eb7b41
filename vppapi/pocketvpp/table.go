package pocketvpp

import (
	"reflect"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/codec"
)

// sockclntCreateID is the one message id a client knows before the handshake (VPP: vl_memory_msg_enum.h).
const sockclntCreateID = 15

// table is what the server understands. A message that no feature registered is absent, as with a VPP without that plugin.
type table struct {
	routes map[uint16]*route
	ids    map[string]uint16 // by name_crc, as told to clients
	next   uint16
}

// route is how one request is served.
type route struct {
	name string
	// serve decodes the message, acts and answers. An error means that the message is malformed and was not acted on.
	serve func(c *call, data []byte) error
	// fail answers retval without acting; nil where the answer has none.
	fail func(c *call, retval int32)
}

// call is one request being served.
type call struct {
	client  *client
	context uint32
}

// messageOf is a pointer to T that is an API message.
type messageOf[T any] interface {
	*T
	api.Message
}

func newTable() *table {
	return &table{routes: map[uint16]*route{}, ids: map[string]uint16{}, next: sockclntCreateID}
}

// declare gives m an id, the same one each time.
func (t *table) declare(m api.Message) uint16 {
	key := m.GetMessageName() + "_" + m.GetCrcString()
	id, ok := t.ids[key]
	if !ok {
		id = t.next
		t.next++
		t.ids[key] = id
	}
	return id
}

// request registers Q, answered by one P.
func request[Q, P any, QM messageOf[Q], PM messageOf[P]](t *table, act func(*call, *Q) P) {
	t.declare(PM(new(P)))
	t.routes[t.declare(QM(new(Q)))] = &route{
		name: QM(new(Q)).GetMessageName(),
		serve: func(c *call, data []byte) error {
			q := new(Q)
			if err := codec.DecodeMsg(data, QM(q)); err != nil {
				return err
			}
			p := act(c, q)
			c.client.send(c.context, PM(&p))
			return nil
		},
		fail: func(c *call, retval int32) {
			p := new(P)
			reflect.ValueOf(p).Elem().FieldByName("Retval").SetInt(int64(retval))
			c.client.send(c.context, PM(p))
		},
	}
}

// dump registers Q, answered by any number of D. The end of the answer shows by the reply to a control_ping sent after it.
func dump[Q, D any, QM messageOf[Q], DM messageOf[D]](t *table, walk func(*call, *Q, func(D))) {
	t.declare(DM(new(D)))
	t.routes[t.declare(QM(new(Q)))] = &route{
		name: QM(new(Q)).GetMessageName(),
		serve: func(c *call, data []byte) error {
			q := new(Q)
			if err := codec.DecodeMsg(data, QM(q)); err != nil {
				return err
			}
			walk(c, q, func(d D) { c.client.send(c.context, DM(&d)) })
			return nil
		},
	}
}
