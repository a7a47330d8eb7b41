package hop

import (
	"crypto/sha256"
	"fmt"
)

// InterfaceName makes the name of a kernel interface for a connection that has none: up to ten bytes of the service and
// four digits that tell connections apart. It is the same every time.
func InterfaceName(service, id string) string {
	name := []byte(service)
	for i, b := range name {
		switch {
		case '0' <= b && b <= '9', 'A' <= b && b <= 'Z', 'a' <= b && b <= 'z', b == '.', b == '_', b == '-':
		default:
			name[i] = '-'
		}
	}
	sum := sha256.Sum256([]byte(id))
	return fmt.Sprintf("%s-%x", name[:min(len(name), 10)], sum[:2])
}
