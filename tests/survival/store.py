"""A store with images in it, and a look at what is where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.support import oracle
from tests.support.oracle import Oracle, Sample
from tests.support.registry import BLOB
from tests.survival.conftest import SEED
from tests.survival.samples import family
from tests.survival.victim import Source, Victim


@dataclass
class Store:
    """A store with the three images of a family in it, all on the disk."""

    victim: Victim
    source: Source
    samples: list[Sample] = field(default_factory=lambda: family(SEED))
    references: list[str] = field(init=False)
    oracle: Oracle = field(init=False)

    def __post_init__(self) -> None:
        place = self.source.place()
        self.references = [
            self.source.add(sample, f"{place}/s{number}:1")
            for number, sample in enumerate(self.samples)
        ]
        self.oracle = Oracle(self.samples)
        self.victim.start()
        self.pull_all()
        oracle.all_durable(self.victim)

    @property
    def database(self) -> Path:
        return self.victim.root / "metadata.db"

    @property
    def ids(self) -> set[str]:
        return {sample.image.id for sample in self.samples}

    def pull_all(self) -> None:
        for reference in self.references:
            self.victim.pull(reference)

    def shown_whole(self) -> set[str]:
        return self.oracle.check(self.victim)

    def blob(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        return self.victim.root / "content/blobs" / algorithm / value

    def snapshots(self) -> list[Path]:
        """Their places, by number: the base comes first."""
        found = (self.victim.root / "snapshots" / self.victim.snapshotter).iterdir()
        return sorted(found, key=lambda path: int(path.name))

    def fetched(self) -> set[str]:
        """Digests of the blobs that were asked for."""
        return {seen.path.rpartition("/")[2] for seen in self.source.registry.gets(BLOB)}
