// Pins the critest that the tests drive; `make critest` builds it.
module cri-imaged/tests/real/critest

go 1.26

require sigs.k8s.io/cri-tools v1.36.0
