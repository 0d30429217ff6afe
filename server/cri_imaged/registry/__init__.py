"""The distribution client: hosts, authentication, resolver, fetcher."""
