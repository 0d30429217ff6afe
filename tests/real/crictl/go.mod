// Pins the crictl that the tests drive; `make crictl` builds it.
module cri-imaged/tests/real/crictl

go 1.26

tool sigs.k8s.io/cri-tools/cmd/crictl

require sigs.k8s.io/cri-tools v1.37.0
