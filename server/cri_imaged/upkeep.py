"""What the node does by itself: what it brings in, how fast, and what it lets go."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping

from cri_imaged.config.options import ImageOptions
from cri_imaged.config.upkeep import BandwidthOptions, PreloadOptions
from cri_imaged.daytimes import second_of_day
from cri_imaged.images.archives.importer import Importer
from cri_imaged.images.policy.collector import ImageCollector
from cri_imaged.images.policy.decide import Rules
from cri_imaged.images.preload.archives import PreloadFolder
from cri_imaged.images.preload.prefetch import Prefetcher, PrefetchList
from cri_imaged.images.preload.shown import Shown
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.remove import Remover
from cri_imaged.ports import Runtime
from cri_imaged.registry.http.traffic import Caps
from cri_imaged.starting import Started


class Upkeep:
    """All of it, for one daemon."""

    def __init__(
        self,
        options: ImageOptions,
        base: Started,
        puller: Puller,
        importer: Importer,
        remover: Remover,
        runtimes: Mapping[str, Runtime],
    ) -> None:
        database, preload = base.stores.database, options.preload
        self._handlers = tuple(dict.fromkeys(("", *preload.runtime_handlers)))
        self._folder = preload.directory and PreloadFolder(
            preload.directory,
            importer,
            [puller.handlers.of(name) for name in self._handlers],
            database,
            base.publisher,
            base.pins,
            pinned=preload.pinned,
        )
        self._prefetcher = Prefetcher(puller, base.store, self._list(preload))
        metrics = base.metrics.upkeep
        self.images = ImageCollector(
            database, base.store, remover, runtimes, _rules(options), metrics.removed
        )
        self._settled = not preload.ready
        metrics.preloads(
            lambda state: sum(each.state.value == state for kind in self._kinds for each in kind)
        )

    @property
    def _kinds(self) -> list[Shown]:
        return [*([self._folder.shown] if self._folder else []), self.prefetched]

    @property
    def archives(self) -> Shown:
        """Those of the folder; none where there is no folder."""
        return self._folder.shown if self._folder else Shown()

    @property
    def prefetched(self) -> Shown:
        """The images of the list."""
        return self._prefetcher.shown

    async def load(self) -> None:
        """Know what was brought in before, and have it pinned."""
        if self._folder:
            await self._folder.load()

    async def configure(self, options: ImageOptions) -> None:
        """Take over what may change."""
        self._prefetcher.configure(self._list(options.preload))
        self.images.rules = _rules(options)
        if self._folder:
            self._folder.pinned = options.preload.pinned
            await self._folder.show_pins()

    def _list(self, options: PreloadOptions) -> PrefetchList:
        images = tuple(dict.fromkeys(map(str, options.images)))
        return PrefetchList(images, tuple(options.refresh), options.jitter, self._handlers)

    def work(self) -> list[Coroutine[None, None, None]]:
        """The background tasks."""
        folder = [self._folder.run()] if self._folder else []
        return [*folder, self._prefetcher.run(), self.images.run()]

    def why_not_ready(self) -> str:
        """What the node waits for; empty where it has all that it was to have. What is asked for
        later makes no node unready."""
        left = sum(each.unsettled for each in self._kinds)
        if self._settled or (not left and all(each.begun for each in self._kinds)):
            self._settled = True
            return ""
        return f"{left or 'some'} of what is to be preloaded is not here yet (image.preload)"


def caps(options: BandwidthOptions) -> Caps:
    """How many bytes a second may come from registries."""
    if not options.times:  # the clock is not asked for each chunk
        return Caps(lambda: options.bytes_per_second, options.registries)
    return Caps(lambda: options.at(int(second_of_day() // 60)), options.registries)


def _rules(options: ImageOptions) -> Rules:
    """What would be pulled again stays."""
    gc, keep = options.gc, [*options.gc.keep, *options.preload.images]
    return Rules(gc.max_age, gc.max_bytes, keep, gc.keep_imported)
