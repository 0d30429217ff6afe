"""The additional image store on disk: layers, images, and the order in which they come and go.

Directories and links come first, then the layers' list, then the images'; they go the other way
round. A reader that looks in between finds less, never something that is not there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from cri_imaged.oci.chain import chain_ids
from cri_imaged.oci.digest import Digest
from cri_imaged.runtimes.containers_storage.files import (
    link,
    locked,
    read_list,
    replace,
    write_list,
)
from cri_imaged.runtimes.containers_storage.records import (
    Entry,
    Layer,
    file_name,
    link_of,
    without_names,
)
from cri_imaged.runtimes.containers_storage.users import Users

_OPAQUE = "trusted.overlay.opaque"


class AdditionalStore:
    """One directory. Its methods touch the disk, and are called one at a time."""

    def __init__(self, path: Path) -> None:
        self._driver = path / "overlay"
        self._layer_records = path / "overlay-layers"
        self._image_records = path / "overlay-images"
        self._layers: dict[str, Entry] = {}
        self._images: dict[str, Entry] = {}

    def open(self) -> None:
        """Make the directories and locks that readers cannot do without, and read what is here."""
        for directory in (self._driver / "l", self._layer_records, self._image_records):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layers = {each["id"]: each for each in read_list(self._layer_records, "layers")}
        self._images = {each["id"]: each for each in read_list(self._image_records, "images")}
        for directory, name in ((self._layer_records, "layers"), (self._image_records, "images")):
            with locked(directory / f"{name}.lock", exclusive=True):
                pass
            if not (directory / f"{name}.json").exists():
                write_list(directory, name, [])

    def publish(
        self, image: Entry, items: Mapping[str, bytes], layers: Sequence[tuple[Layer, Path]]
    ) -> bool:
        """Show an image; its names are taken from others. `layers`: lowest first, each with the
        directory of its snapshot. False where it is shown just so.

        Raises:
            InUseError: a reader holds a lock for long.
        """
        if self._images.get(image["id"]) == image and all(
            self._is_placed(layer, directory) for layer, directory in layers
        ):
            return False
        below: list[str] = []
        for layer, directory in layers:
            self._place(layer, directory, below)
            below.insert(0, layer.link)
        place = self._image_records / image["id"]
        place.mkdir(mode=0o700, exist_ok=True)
        for key, data in items.items():
            replace(place / file_name(key), data)
        entries = {layer.id: layer.entry(image["created"]) for layer, _ in layers}
        self._show_layers(entries | self._layers)
        names = set(image["names"])
        others = {id: without_names(each, names) for id, each in self._images.items()}
        self._show_images(others | {image["id"]: image})
        return True

    def _show_layers(self, layers: dict[str, Entry]) -> None:
        write_list(self._layer_records, "layers", list(layers.values()))
        self._layers = layers

    def _show_images(self, images: dict[str, Entry]) -> None:
        write_list(self._image_records, "images", list(images.values()))
        self._images = images

    def unneeded(self, known: Set[str], users: Users) -> tuple[list[str], list[str]]:
        """The images that are not `known`, and the layers that no other image stands on: without
        those that `users` use."""
        images = [id for id in self._images if id not in known and id not in users.images]
        wanted = [
            each["layer"]
            for id, each in self._images.items()
            if id not in images and "layer" in each
        ]
        wanted += [id for id in self._layers if link_of(id) in users.links]
        needed: set[str] = set()
        for id in wanted:
            needed.update(self._line(id))
        return images, [id for id in self._layers if id not in needed]

    def chains(self) -> set[Digest]:
        """The chainIDs of every layer that is shown."""
        found: set[Digest] = set()
        for id in self._layers:
            line = [self._layers[each] for each in self._line(id)]
            found.add(chain_ids(Digest(each["diff-digest"]) for each in reversed(line))[-1])
        return found

    def _line(self, id: str) -> list[str]:
        """A layer and its parents, topmost first."""
        line: list[str] = []
        while id in self._layers and id not in line:
            line.append(id)
            id = self._layers[id].get("parent", "")
        return line

    def withdraw(self, images: Sequence[str], layers: Sequence[str]) -> None:
        """Take images and layers away that nobody uses.

        Raises:
            InUseError: a reader holds a lock for long.
        """
        self._show_images({id: each for id, each in self._images.items() if id not in images})
        self._show_layers({id: each for id, each in self._layers.items() if id not in layers})
        for image in images:
            shutil.rmtree(self._image_records / image, ignore_errors=True)
        for layer in layers:
            (self._driver / "l" / link_of(layer)).unlink(missing_ok=True)
            shutil.rmtree(self._driver / layer, ignore_errors=True)

    def _is_placed(self, layer: Layer, directory: Path) -> bool:
        try:
            diff = os.readlink(self._driver / layer.id / "diff")
        except OSError:
            return False
        return layer.id in self._layers and diff == str(directory)

    def _place(self, layer: Layer, directory: Path, below: Sequence[str]) -> None:
        place = self._driver / layer.id
        place.mkdir(mode=0o700, exist_ok=True)
        link(place / "diff", str(directory))
        replace(place / "link", layer.link.encode())
        # The kernel does not look for the opaque mark on a layer's root.
        lower = [] if _is_opaque(directory) else below
        if lower:
            shown = self._visible(lower)
            replace(place / "lower", ":".join(f"l/{short}" for short in shown).encode())
        link(self._driver / "l" / layer.link, f"../{layer.id}/diff")

    def _visible(self, below: Sequence[str]) -> Sequence[str]:
        for number, short in enumerate(below, start=1):
            if _is_opaque(self._driver / "l" / short):
                return below[:number]
        return below


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False
