// stargz-snapshotter as a program, and its converter: its own main package is a module that only
// git has.
module cri-imaged/tests/real/stargz

go 1.26

require (
	github.com/containerd/stargz-snapshotter v0.19.1
	github.com/containerd/stargz-snapshotter/estargz v0.19.1
)
