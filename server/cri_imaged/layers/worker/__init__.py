"""The worker processes: zygote, confinement, protocol, pool.

Both are confined (`worker/confine.py`) before they read a byte: no capabilities but those to set
owners and modes, Landlock, a list of system calls (`worker/seccomp.py`), no imports, a limit of
memory; the writer is chrooted into its target, on a mount without devices, and an ordinary user's
in a user namespace, where the kernel gives one. The zygote has mount, UTS, IPC, network and
(root's) PID namespaces. What of this the kernel refuses is left out and logged at the start.
Device nodes are reported and made at the seal, by the daemon. Each process shows every second
that it runs; one that does not for ten is killed, as is a zygote that does not obey for five.
They die with their parent and when their pipe closes. A death fails that attempt, which is
repeated once. What a layer leaves to its seal waits in a file without a name, not in memory.

A decoder may go on to the next small layer of the same origin. What it does to that but to decode
it is not believed: the layer is applied anew, with a decoder of its own.

Layers that are here get a worker in turn, and no pull has more than a few in the queue; those
that still arrive need none of these places, so that a registry that stalls holds up only its own
pulls.
"""
