"""`cri-imaged mount`, `umount` and `views`: root file systems of images."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cri_imaged import mounting
from cri_imaged.cli.client import ANSWER_SECONDS, Daemon, call
from cri_imaged.cli.failure import ExitCode, Failure
from cri_imaged.cli.options import Address, Format, Handler
from cri_imaged.cli.output import Output, document, show, show_columns, show_data, time
from cri_imaged.ports import Mount
from cri_imaged.rpc.node.v1 import node_pb2


def mount(
    image: Annotated[str, typer.Argument(help="A name, or a full or truncated ID.")],
    directory: Annotated[Path, typer.Argument(help="An existing directory.", metavar="DIR")],
    rw: Annotated[
        bool, typer.Option("--rw", help="Writable; what is written is lost at umount.")
    ] = False,
    suid: Annotated[
        bool, typer.Option("--suid", help="Let the image's set-user-ID programs take effect.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="Let the image's device nodes be used.")
    ] = False,
    no_mount: Annotated[
        bool,
        typer.Option("--no-mount", help="Only keep the view and print how to mount it."),
    ] = False,
    runtime_handler: Handler = "",
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Mount an image's root file system on DIR.

    It is mounted in this shell's mount namespace, which needs root. Its set-user-ID programs and
    device nodes have no power there, as every local user could use them, unless --suid or --dev
    says otherwise. The daemon keeps a view of the image under DIR's absolute path, so that the
    image may be removed while it is mounted. `cri-imaged umount DIR` gives it back.

    \b
    Examples:
      mkdir /tmp/rootfs
      cri-imaged mount busybox /tmp/rootfs
      cri-imaged mount --rw busybox /tmp/rootfs
      cri-imaged mount --no-mount -o json busybox /tmp/rootfs | jq .mounts
    """
    target = directory.resolve()
    if not target.is_dir() and not no_mount:
        raise Failure(ExitCode.USAGE, f"{target} is not a directory", f"mkdir -p {target}")
    request = node_pb2.CreateViewRequest(
        image=image, runtime_handler=runtime_handler, key=key_of(target), writable=rw
    )
    forbidden = [option for option, wanted in (("nosuid", suid), ("nodev", dev)) if not wanted]
    where = None if no_mount else target
    view = call(address, lambda daemon: mount_view(daemon, request, where, forbidden))
    if output.structured:
        show_data(document(view), output)
    elif no_mount:
        for each in view.mounts:
            show(f"mount -t {each.type} -o {','.join(each.options)} {each.source} {target}")
    else:
        show(f"mounted {view.image_id} on {target}")


async def mount_view(
    daemon: Daemon,
    request: node_pb2.CreateViewRequest,
    target: Path | None,
    options: Sequence[str] = (),
) -> node_pb2.CreateViewResponse:
    """Have the daemon give out a view, and mount it on `target` here, where there is one, with
    `options` besides the view's own.

    Raises:
        Failure: something is mounted there already, or the kernel refuses.
    """
    if target and _mounted(target) and await _find(daemon, request.key):
        raise Failure(
            ExitCode.FAILED, f"{target} is mounted already", f"cri-imaged umount {target}"
        )
    view = await daemon.node.CreateView(request, timeout=ANSWER_SECONDS)
    for each in view.mounts:
        each.options.extend(options)
    if target:
        try:
            _perform(view, target)
        except OSError as error:
            release = node_pb2.ReleaseViewRequest(key=request.key)
            await daemon.node.ReleaseView(release, timeout=ANSWER_SECONDS)
            raise _refused(error) from None
    return view


def _perform(view: node_pb2.CreateViewResponse, target: Path) -> None:
    """Do all mounts of `view` on `target`, or none."""
    done = 0
    try:
        for each in view.mounts:
            mounting.mount(Mount(each.type, each.source, tuple(each.options)), target)
            done += 1
    except OSError:
        for _ in range(done):
            mounting.unmount(target)
        raise


def _refused(error: OSError) -> Failure:
    if error.errno in (errno.EPERM, errno.EACCES):
        return Failure(
            ExitCode.DENIED, str(error.strerror), "mounting needs root; see also --no-mount"
        )
    if error.errno == errno.EBUSY:
        return Failure(
            ExitCode.FAILED,
            str(error.strerror),
            "leave the directory and stop what runs in it, or use `umount --lazy`",
        )
    return Failure(ExitCode.FAILED, str(error.strerror or error), "the kernel's log may say more")


def umount(
    directory: Annotated[Path, typer.Argument(help="Where it is mounted.", metavar="DIR")],
    lazy: Annotated[
        bool, typer.Option("--lazy", "-l", help="Detach now, even where it is in use.")
    ] = False,
    output: Format = Output.TEXT,
    address: Address = None,
) -> None:
    """Unmount DIR, and give its view back to the daemon.

    \b
    Examples:
      cri-imaged umount /tmp/rootfs
      cri-imaged umount --lazy /tmp/rootfs
    """
    target = directory.resolve()
    call(address, lambda daemon: unmount_view(daemon, target, lazy=lazy))
    if output.structured:
        show_data({"key": key_of(target)}, output)
    else:
        show(f"unmounted {target}")


async def unmount_view(daemon: Daemon, target: Path, *, lazy: bool) -> None:
    """Unmount `target`, and give its view back.

    Raises:
        Failure: it is not a view's, or the kernel refuses.
    """
    if not await _find(daemon, key_of(target)):
        raise Failure(
            ExitCode.NOT_FOUND,
            f"cri-imaged mounted nothing on {target}",
            "`cri-imaged views` lists what it did",
        )
    if _mounted(target):
        try:
            mounting.unmount(target, lazy=lazy)
        except OSError as error:
            raise _refused(error) from None
    request = node_pb2.ReleaseViewRequest(key=key_of(target))
    await daemon.node.ReleaseView(request, timeout=ANSWER_SECONDS)


def views(output: Format = Output.TEXT, address: Address = None) -> None:
    """List mounted images.

    Shows every view that was given out, to `cri-imaged mount` and to other clients.

    \b
    Examples:
      cri-imaged views
      cri-imaged views -o json | jq -r '.views[].key'
    """
    answer = call(address, _views)
    if output.structured:
        show_data(document(answer), output)
        return
    show_columns(
        ("KEY", "SNAPSHOTTER", "ACCESS", "CREATED", "CHAIN ID"),
        [
            (
                view.key,
                view.snapshotter,
                "rw" if view.writable else "ro",
                time(view.created_at),
                view.chain_id,
            )
            for view in answer.views
        ],
    )


async def _views(daemon: Daemon) -> node_pb2.ListViewsResponse:
    return await daemon.node.ListViews(node_pb2.ListViewsRequest(), timeout=ANSWER_SECONDS)


def _mounted(target: Path) -> bool:
    # os.path.ismount does not see a bind mount within one file system.
    return any(info.mount_point == str(target) for info in mounting.mounts())


async def _find(daemon: Daemon, key: str) -> bool:
    return any(view.key == key for view in (await _views(daemon)).views)


def key_of(target: Path) -> str:
    """The key of the view that is mounted on `target`, an absolute path."""
    return f"mount:{target}"
