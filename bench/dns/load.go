package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// names is how many names clients ask for by turns.
const names = 1000

// ask has clients ask for a while and tells the answers a second. Any lost or wrong one is an error.
func ask(ctx context.Context, at, prefix string, clients int, length time.Duration) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var answers, turn atomic.Int64
	errs := make(chan error, clients)
	var asking sync.WaitGroup
	start := time.Now()
	for range clients {
		asking.Go(func() {
			conn, err := net.Dial("udp", at)
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			buffer := make([]byte, 1500)
			for ctx.Err() == nil {
				name := fmt.Sprintf("%s%03d.svc.example.", prefix, turn.Add(1)%names)
				if err := one(conn, name, buffer); err != nil {
					errs <- fmt.Errorf("%s at %s: %w", name, at, err)
					return
				}
				answers.Add(1)
			}
		})
	}
	asking.Wait()
	took := time.Since(start)
	select {
	case err = <-errs:
	default:
	}
	return float64(answers.Load()) / took.Seconds(), err
}

// one asks for a name and waits for its one address.
func one(conn net.Conn, name string, buffer []byte) error {
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	wire, err := m.PackBuffer(buffer)
	if err != nil {
		return err
	}
	if _, err := conn.Write(wire); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	n, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	if n < 12 || binary.BigEndian.Uint16(buffer) != m.Id || buffer[3]&15 != dns.RcodeSuccess || binary.BigEndian.Uint16(buffer[6:]) != 1 {
		return fmt.Errorf("answered % x", buffer[:min(n, 12)])
	}
	return nil
}

// answerAll is a nameserver that knows an address for every name; it spends as little as it can. Names in f may not be kept.
func answerAll(at string) (net.PacketConn, error) {
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	for range 2 {
		go func() {
			buffer := make([]byte, 1500)
			for {
				n, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				q := buffer[:n]
				end := 12
				for end < n && q[end] != 0 {
					end += int(q[end]) + 1
				}
				if end += 5; end > n {
					continue
				}
				ttl := uint32(3600)
				if q[13] == 'f' {
					ttl = 0
				}
				answer := append([]byte{q[0], q[1], 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, q[12:end]...)
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1)
				answer = binary.BigEndian.AppendUint32(answer, ttl)
				answer = append(answer, 0, 4, 192, 0, 2, 1)
				_, _ = conn.WriteTo(answer, from) // a client that has gone
			}
		}()
	}
	return conn, nil
}
