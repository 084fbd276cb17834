// Package driver asks a CSI driver over its socket.
package driver

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const callTimeout = 5 * time.Second

// Driver is a connection to a driver that may not be there yet.
type Driver struct {
	identity csi.IdentityClient
}

// Connect gives a connection; it is made, and made again, when it is needed.
func Connect(socket string) (*Driver, error) {
	connection, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &Driver{identity: csi.NewIdentityClient(connection)}, nil
}

// Name gives the driver's name.
func (d *Driver) Name() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	info, err := d.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return info.GetName(), err
}

// Ready says whether the driver answers, and that it can work.
func (d *Driver) Ready(ctx context.Context) (bool, error) {
	answer, err := d.identity.Probe(ctx, &csi.ProbeRequest{})
	if err != nil {
		return false, err
	}
	return answer.GetReady() == nil || answer.GetReady().GetValue(), nil
}
