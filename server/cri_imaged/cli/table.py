"""The commands by name. Each one's module is imported when the command is asked for: what one of
them needs costs the others nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "serve": "serve.serve",
    "pull": "pull.pull",
    "images": "images.images",
    "inspect": "inspect.inspect",
    "history": "image_history.history",
    "tag": "tag.tag",
    "untag": "tag.untag",
    "rm": "rm.rm",
    "df": "df.df",
    "fs": "space.fs",
    "login": "login.login",
    "logout": "login.logout",
    "pin": "pins.pin",
    "unpin": "pins.unpin",
    "import": "archives.import_images",
    "export": "archives.export",
    "mount": "mount.mount",
    "umount": "mount.umount",
    "views": "mount.views",
    "bundle": "bundle.bundle",
    "pulls": "pull.pulls",
    "explain": "history.explain",
    "events": "history.events",
    "gc": "gc.gc",
    "check": "check.check",
    "status": "status.status",
    "doctor": "doctor.doctor",
    "config": "config.app",
    "runtime": "runtime.app",
    "setup": "setup.app",
    "version": "version.version",
}
"""Module and function, or a group's app, in the order of `--help`."""
SUMMARIES = {
    "serve": "Run the daemon in the foreground, until SIGTERM or Ctrl-C.",
    "pull": "Pull images and print their IDs.",
    "images": "List the images that are present.",
    "inspect": "Show all that is known about an image.",
    "history": "Show how an image was built, the newest step first.",
    "tag": "Give an image one more name.",
    "untag": "Take names from images, which stay.",
    "rm": "Remove images, each with all its names.",
    "df": "Show what each image takes on the disk, the largest first.",
    "fs": "Show the disk space that images and containers take.",
    "login": "Log the node in to a registry, for all that is pulled from it.",
    "logout": "Forget the node's login to a registry.",
    "pin": "Keep images from the kubelet's garbage collection.",
    "unpin": "Let the kubelet's garbage collection have images again.",
    "import": "Bring images in from a file, without a registry.",
    "export": "Write images to a file that other nodes and tools can take.",
    "mount": "Mount an image's root file system on DIR.",
    "umount": "Unmount DIR, and give its view back to the daemon.",
    "views": "List mounted images.",
    "bundle": "Write an OCI bundle in DIR, which runc and crun run.",
    "pulls": "Watch the pulls that run now, or tell of those that are over.",
    "explain": "Show where the time of an image's last pull went.",
    "events": "Tell what happens to images and pulls, as it happens.",
    "gc": "Remove what nothing needs any more.",
    "check": "Verify the store: every blob and every snapshot.",
    "status": "Show the daemon, its runtimes, and what is preloaded.",
    "doctor": "Find what is wrong on this node, and say what to do.",
    "config": "Show, check and reload the configuration.",
    "runtime": "Show and forget what the runtimes of this node hold.",
    "setup": "Have a runtime of this node run the images that are pulled here.",
    "version": "Show the version of this program and of the daemon.",
}
"""What `--help` says of each: as the command's own help begins, which would have to be imported."""
ALIASES = {
    "rmi": "rm",
    "ls": "images",
    "info": "status",
    "prune": "gc",
    "load": "import",
    "save": "export",
}
"""What people type by habit. Not listed."""


class Commands(TyperGroup):
    """The commands of the table."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Their names."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """One of them; None where there is none of this name."""
        if cmd_name == "image":  # `image ls`, as elsewhere
            return self
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].rpartition(".")
        found = getattr(import_module(f"cri_imaged.cli.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app = found
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(found)
        command = typer.main.get_command(app)
        command.name = name
        return command
