package packets

import (
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/vppapi/fault"
)

// File writes the events of a capture as pcapng (draft-ietf-opsawg-pcapng), one interface for each point.
type File struct {
	// W gets each packet at once: somebody may be reading along.
	W io.Writer
	// Application, VWire and Filter stand in the file's heads.
	Application, VWire, Filter string

	ng     *pcapgo.NgWriter
	points []*highwirev1.CapturePoint
	begun  time.Time
}

// nanoseconds is a resolution of 10 to the power of -9.
const nanoseconds = 9

// Add writes one event.
func (f *File) Add(e *highwirev1.CaptureEvent) (err error) {
	switch {
	case e.GetPoint() != nil:
		err = f.addPoint(e.GetPoint())
	case e.GetPacket() != nil:
		p := e.GetPacket()
		if err := f.known(p.GetPoint()); err != nil {
			return err
		}
		err = f.ng.WritePacket(gopacket.CaptureInfo{
			Timestamp: p.GetTime().AsTime(), CaptureLength: len(p.GetData()), Length: int(p.GetLength()), InterfaceIndex: int(p.GetPoint()),
		}, p.GetData())
	case e.GetStatistics() != nil:
		s, now := e.GetStatistics(), time.Now()
		if err := f.known(s.GetPoint()); err != nil {
			return err
		}
		err = f.ng.WriteInterfaceStats(int(s.GetPoint()), pcapgo.NgInterfaceStatistics{
			LastUpdate: now, StartTime: f.begun, EndTime: now, PacketsReceived: s.GetCaptured() + s.GetLost(), PacketsDropped: s.GetLost(),
		})
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return f.ng.Flush()
}

// Point is the one with that number, nil if none has it.
func (f *File) Point(number uint32) *highwirev1.CapturePoint {
	if f.known(number) != nil {
		return nil
	}
	return f.points[number]
}

func (f *File) known(point uint32) error {
	if uint64(point) >= uint64(len(f.points)) {
		return fault.New(fault.Internal, "the agent tells of capture point %d and has named %d", point, len(f.points))
	}
	return nil
}

func (f *File) addPoint(p *highwirev1.CapturePoint) (err error) {
	f.points = append(f.points, p)
	point := pcapgo.NgInterface{
		Name: p.GetEnd() + " " + p.GetInterface(), Description: fmt.Sprintf("%s of vWire %s, by %s", p.GetEnd(), f.VWire, p.GetSource()),
		Comment: p.GetLimits(), Filter: f.Filter, LinkType: layers.LinkType(p.GetLinkType()), TimestampResolution: nanoseconds,
	}
	if f.ng != nil {
		_, err = f.ng.AddInterface(point)
		return err
	}
	f.begun = time.Now()
	f.ng, err = pcapgo.NewNgWriterInterface(f.W, point, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: f.Application}})
	return err
}
