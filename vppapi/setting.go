package vppapi

import (
	"fmt"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// tagPrefix marks what is ours in VPP. An interface without it is never touched.
const tagPrefix = "hw:"

// setting is what Tag, MTU, RxMode and Up share: one message about one interface, undone by the interface's end.
func setting(at indexes, end string, make func(interface_types.InterfaceIndex) api.Message) ([]call, error) {
	i, err := at(Interface(end))
	if err != nil {
		return nil, err
	}
	return []call{{req: make(i)}}, nil
}

// Tag marks the interface of an end as ours (sw_interface_tag_add_del).
type Tag struct {
	Name string
}

// Key is {tag, Name}.
func (t Tag) Key() Key { return Key{KindTag, t.Name} }

// Uses the interface.
func (t Tag) Uses() []Key { return []Key{Interface(t.Name)} }

func (t Tag) String() string { return "tag " + tagPrefix + t.Name }

func (t Tag) create(at indexes) ([]call, error) {
	return setting(at, t.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: i, Tag: tagPrefix + t.Name}
	})
}

func (t Tag) remove(at indexes) ([]call, error) {
	return setting(at, t.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceTagAddDel{SwIfIndex: i}
	})
}

// MTU is the L3 MTU of an end's interface in bytes (sw_interface_set_mtu).
type MTU struct {
	Name  string
	Bytes uint32
}

// Key is {setting, Name mtu}.
func (m MTU) Key() Key { return Key{KindSetting, m.Name + " mtu"} }

// Uses the interface.
func (m MTU) Uses() []Key { return []Key{Interface(m.Name)} }

func (m MTU) String() string { return fmt.Sprintf("mtu %d", m.Bytes) }

func (m MTU) create(at indexes) ([]call, error) {
	return setting(at, m.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceSetMtu{SwIfIndex: i, Mtu: []uint32{m.Bytes, 0, 0, 0}}
	})
}

// remove does nothing: an interface always has an MTU.
func (m MTU) remove(indexes) ([]call, error) { return nil, nil }

// RxMode is how VPP waits for packets of an interface (sw_interface_set_rx_mode).
type RxMode struct {
	Name string
	Mode Mode
}

// Mode of RxMode.
type Mode uint32

// Modes, numbered as in interface_types.api.
const (
	Polling   = Mode(interface_types.RX_MODE_API_POLLING)
	Interrupt = Mode(interface_types.RX_MODE_API_INTERRUPT)
	Adaptive  = Mode(interface_types.RX_MODE_API_ADAPTIVE)
)

// String is the lower-case word that vppctl uses.
func (m Mode) String() string {
	switch m {
	case Polling:
		return "polling"
	case Interrupt:
		return "interrupt"
	case Adaptive:
		return "adaptive"
	}
	return fmt.Sprintf("mode(%d)", uint32(m))
}

// Key is {setting, Name rx-mode}.
func (r RxMode) Key() Key { return Key{KindSetting, r.Name + " rx-mode"} }

// Uses the interface.
func (r RxMode) Uses() []Key { return []Key{Interface(r.Name)} }

func (r RxMode) String() string { return "rx-mode " + r.Mode.String() }

// adopts what shows no mode: a memif has queues, and a mode, only while it is connected. VPP then polls, and tells by an
// event that the link is up, at which the Conn sets the mode again; if it was set in an earlier session, the next dump shows
// what there is to set.
func (r RxMode) adopts(found Object) bool {
	f, ok := found.(RxMode)
	return ok && f.Mode == 0
}

func (r RxMode) create(at indexes) ([]call, error) {
	if r.Mode == Polling {
		return r.poll(at)
	}
	return setting(at, r.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceSetRxMode{SwIfIndex: i, Mode: interface_types.RxMode(r.Mode)}
	})
}

// poll goes by way of interrupt mode. VPP counts its polled af_packet queues, but takes one off with every af_packet
// interface that is made (its queue "changes" to interrupt mode from nothing). At zero the input node goes to sleep and
// polled interfaces starve, though rx-placement still says polling. A change of mode counts; a repetition does not.
func (r RxMode) poll(at indexes) ([]call, error) {
	i, err := at(Interface(r.Name))
	if err != nil {
		return nil, err
	}
	return []call{
		{req: &interfaces.SwInterfaceSetRxMode{SwIfIndex: i, Mode: interface_types.RX_MODE_API_INTERRUPT}},
		{req: &interfaces.SwInterfaceSetRxMode{SwIfIndex: i, Mode: interface_types.RX_MODE_API_POLLING}},
	}, nil
}

// remove does nothing: an interface always has a mode.
func (r RxMode) remove(indexes) ([]call, error) { return nil, nil }

// Up is the administrative state of an end's interface (sw_interface_set_flags). It is the last thing VPP is told.
type Up struct {
	Name string
}

// Key is {up, Name}.
func (u Up) Key() Key { return Key{KindUp, u.Name} }

// Uses the interface.
func (u Up) Uses() []Key { return []Key{Interface(u.Name)} }

func (u Up) String() string { return "admin up" }

func (u Up) create(at indexes) ([]call, error) {
	return setting(at, u.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceSetFlags{SwIfIndex: i, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}
	})
}

func (u Up) remove(at indexes) ([]call, error) {
	return setting(at, u.Name, func(i interface_types.InterfaceIndex) api.Message {
		return &interfaces.SwInterfaceSetFlags{SwIfIndex: i}
	})
}
