// stargz serves stargz-snapshotter at a socket (`stargz SOCKET ROOT`), or makes an eStargz layer of
// an archive (`stargz -convert < ARCHIVE > LAYER`), whose table of contents it names on the last
// line of its standard error.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"
)

func main() {
	run := serve
	if os.Args[1] == "-convert" {
		run = convert
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	snapshotter, err := service.NewStargzSnapshotterService(
		context.Background(), os.Args[2], &service.Config{})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

func convert() error {
	archive, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	blob, err := estargz.Build(
		io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))))
	if err != nil {
		return err
	}
	defer blob.Close()
	if _, err := io.Copy(os.Stdout, blob); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, blob.TOCDigest())
	return nil
}
