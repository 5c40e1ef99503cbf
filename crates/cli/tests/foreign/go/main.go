// The public Go SPIFFE library, unmodified, against our agent. Prints one line for each thing it has seen.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	audience = "foreign-test"
	patience = time.Minute
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	source := must(workloadapi.NewX509Source(ctx))
	defer source.Close()
	first := must(source.GetX509SVID())
	id, _, err := x509svid.Verify(first.Certificates, source)
	must(id, err)
	fmt.Println("x509", id)

	tokens := must(workloadapi.NewJWTSource(ctx))
	defer tokens.Close()
	token := must(tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}))
	valid := must(jwtsvid.ParseAndValidate(token.Marshal(), tokens, []string{audience}))
	fmt.Println("jwt", valid.ID)

	client := must(workloadapi.New(ctx))
	defer client.Close()
	must(client.ValidateJWTSVID(ctx, token.Marshal(), audience))
	if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), "another-audience"); err != nil {
		fmt.Println("refused")
	}
	trustDomain := first.ID.TrustDomain()
	if !must(client.FetchX509Bundles(ctx)).Has(trustDomain) || !must(client.FetchJWTBundles(ctx)).Has(trustDomain) {
		log.Fatal("no bundle of the own trust domain")
	}
	fmt.Println("bundles", trustDomain)

	for {
		current := must(source.GetX509SVID())
		if current.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) != 0 {
			id, _, err := x509svid.Verify(current.Certificates, source)
			must(id, err)
			fmt.Println("rotated", id)
			return
		}
		if err := source.WaitUntilUpdated(ctx); err != nil {
			log.Fatal(err)
		}
	}
}
