"""HTTP/1.1 to registries, token servers and storage: a small client of our own.

From the outside in: `transport` (redirects, what goes to whom) → `sender` (a connection for each
request) → `pool` and `dial` (names, addresses, proxies, TLS) → `exchange`, `head` and `framing`
(what is said) over `connection` (bytes).

**Why not a library.** What we ask of it is narrow, GET, HEAD and small forms, and what we must be
sure of is what general clients leave open: every answer has a bound on its header bytes, fields and
interim responses; one call of the event loop handles one receive buffer and a bounded number of
lines, whatever was sent; each address is judged at the moment it is connected to, redirects
included; nothing is read that nobody waits for. aiohttp loops over interim responses without end,
and what it lacks took its private attributes. Parsers of others were measured, too: 2 GiB over
loopback under uvloop, the client's process alone, medians of three on a busy machine with two
cores.

| client | MiB for each CPU second | KiB of a chunk |
|---|---|---|
| aiohttp 3.14 (a C parser) | 870 | 250 |
| h11 over `connection` | 350 | 1,000 |
| httptools over `connection` | 1,160 | 1,000 |
| ours, with buffers of 1 MiB | 1,220 | 1,000 |
| ours, with buffers of 512 KiB, which we take | 990 | 500 |

A body's bytes need no parser, and a head is parsed once for many of them; so the one in C brings
nothing here, and is stricter than registries are. From a server that sends 100 MB a second in
pieces of 16 KiB, a chunk is 120 KiB with aiohttp, and 320 to 420 KiB here.
"""
