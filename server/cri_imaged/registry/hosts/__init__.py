"""Which hosts serve a registry: hosts.toml and its folders."""
