// Package snapshots runs containerd's own test suite for snapshotters against our socket, through
// the client that containerd itself uses for a proxy plugin.
package snapshots

import (
	"context"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// SNAPSHOTS_ADDRESS is the socket's path.
func TestSuite(t *testing.T) {
	address := os.Getenv("SNAPSHOTS_ADDRESS")
	if address == "" {
		t.Skip("SNAPSHOTS_ADDRESS is not set")
	}
	connect := func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		connection, err := grpc.NewClient(
			"unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "cri-imaged")
		return snapshotter, func() error { return removeAll(snapshotter, connection) }, nil
	}
	// The name tells the suite what it is: an overlay that does not rename directories.
	testsuite.SnapshotterSuite(t, "overlayfs", connect)
}

// The suite wants an empty snapshotter for each case; ours is one daemon for all of them.
func removeAll(snapshotter snapshots.Snapshotter, connection *grpc.ClientConn) error {
	defer connection.Close()
	ctx := namespaces.WithNamespace(context.Background(), "testsuite")
	for {
		var names []string
		err := snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		})
		if err != nil || len(names) == 0 {
			return err
		}
		removed := 0
		for _, name := range names {
			if snapshotter.Remove(ctx, name) == nil {
				removed++
			}
		}
		if removed == 0 {
			return os.NewSyscallError("remove", os.ErrExist)
		}
	}
}

