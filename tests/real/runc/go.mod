// Pins the runc that containerd and podman start in the tests; `make runc` builds it.
module cri-imaged/tests/real/runc

go 1.26

tool github.com/opencontainers/runc

require github.com/opencontainers/runc v1.4.0
