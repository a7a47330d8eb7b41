package main

import (
	"net"
	"os"
)

// notifyReady tells whoever started this process that it is ready, where that asked for it: sd_notify(3) of systemd, by the
// socket that NOTIFY_SOCKET names. The demo listens the same way.
func notifyReady() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
