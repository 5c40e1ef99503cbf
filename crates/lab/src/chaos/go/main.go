// A workload with the public Go SPIFFE library, unmodified: it serves mutual TLS to members of its trust domain, a byte
// to each that it has let in, and prints where.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func serve(connection net.Conn) {
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	// The first write completes the handshake.
	connection.Write([]byte{1})
}

func main() {
	source := must(workloadapi.NewX509Source(context.Background()))
	defer source.Close()
	members := tlsconfig.AuthorizeMemberOf(must(source.GetX509SVID()).ID.TrustDomain())
	config := tlsconfig.MTLSServerConfig(source, source, members)
	listener := must(tls.Listen("tcp", "127.0.0.1:0", config))
	fmt.Println(listener.Addr())
	for {
		go serve(must(listener.Accept()))
	}
}
