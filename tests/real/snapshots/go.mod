// containerd's own test suite for snapshotters, run against our socket; `make snapshots-suite`
// builds it.
module cri-imaged/tests/real/snapshots

go 1.26

require github.com/containerd/containerd/v2 v2.4.2
