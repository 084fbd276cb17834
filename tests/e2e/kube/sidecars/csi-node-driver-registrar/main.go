// Tells kubelet of a CSI driver. Stands in for the upstream sidecar of this name, with its options,
// because that one is not published as a Go module of its version.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"drystone.test/sidecars/driver"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const pause = time.Second

type server struct {
	registration.UnimplementedRegistrationServer
	name, endpoint string
}

func (s *server) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              s.name,
		Endpoint:          s.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s *server) NotifyRegistrationStatus(
	_ context.Context, status *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		// kubelet looks again only at a socket that is new.
		log.Fatalf("kubelet refused %s: %s", s.name, status.Error)
	}
	log.Printf("%s is registered", s.name)
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	csiAddress := flag.String("csi-address", "/run/csi/socket", "socket of the driver, as seen here")
	kubeletPath := flag.String("kubelet-registration-path", "", "the same, as kubelet sees it")
	folder := flag.String("plugin-registration-path", "/registration", "where kubelet looks")
	flag.Int("v", 0, "ignored: there is little to say")
	flag.Duration("timeout", pause, "ignored")
	flag.String("http-endpoint", "", "ignored: a probe of the driver says more")
	flag.Parse()
	found, err := driver.Connect(*csiAddress)
	if err != nil {
		log.Fatal(err)
	}
	name, err := found.Name()
	for ; err != nil; name, err = found.Name() {
		log.Printf("the driver does not answer yet: %v", err)
		time.Sleep(pause)
	}
	socket := filepath.Join(*folder, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	serving := grpc.NewServer()
	registration.RegisterRegistrationServer(serving, &server{name: name, endpoint: *kubeletPath})
	log.Fatal(serving.Serve(listener))
}
