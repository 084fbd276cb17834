// Turns a CSI driver's Probe into an HTTP answer. Stands in for the upstream sidecar of this name,
// with its options, because that one is not published as a Go module of its version.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"time"

	"drystone.test/sidecars/driver"
)

func main() {
	csiAddress := flag.String("csi-address", "/run/csi/socket", "socket of the driver")
	endpoint := flag.String("http-endpoint", "", "host:port to listen at")
	port := flag.String("health-port", "9808", "port to listen at, where there is no endpoint")
	timeout := flag.Duration("probe-timeout", time.Second, "how long the driver may take")
	flag.Int("v", 0, "ignored: there is little to say")
	flag.Parse()
	if *endpoint == "" {
		*endpoint = "0.0.0.0:" + *port
	}
	found, err := driver.Connect(*csiAddress)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, request *http.Request) {
		ctx, cancel := context.WithTimeout(request.Context(), *timeout)
		defer cancel()
		ready, err := found.Ready(ctx)
		if err != nil || !ready {
			log.Printf("not healthy: ready %t, %v", ready, err)
			http.Error(answer, "not healthy", http.StatusInternalServerError)
			return
		}
		_, _ = answer.Write([]byte("ok"))
	})
	log.Fatal(http.ListenAndServe(*endpoint, nil)) //nolint:gosec // one client, kubelet
}
