"""The gRPC faces over the use cases, and the socket that they are served on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cri_imaged import __version__
from cri_imaged.config import Config
from cri_imaged.cri.archives_service import ArchivesService
from cri_imaged.cri.calls import Calls
from cri_imaged.cri.catalog_service import CatalogService
from cri_imaged.cri.history_service import HistoryService
from cri_imaged.cri.image_service import Answers, ImageService
from cri_imaged.cri.names import ClientNames
from cri_imaged.cri.node_service import NodeService
from cri_imaged.cri.registries_service import RegistriesService
from cri_imaged.cri.runtime_service import RuntimeService
from cri_imaged.cri.runtimes_service import RuntimesService
from cri_imaged.cri.server import CriServer, Services
from cri_imaged.cri.unread import UnreadAnswers
from cri_imaged.cri.upkeep_service import UpkeepService
from cri_imaged.images.archives.exporter import Exporter
from cri_imaged.images.archives.importer import Importer
from cri_imaged.images.descriptions import Descriptions
from cri_imaged.images.events import Events
from cri_imaged.images.gc import GarbageCollector
from cri_imaged.images.health.check import Checker
from cri_imaged.images.health.durability import Durability
from cri_imaged.images.health.rebuild import Rebuilder
from cri_imaged.images.history import PullHistory
from cri_imaged.images.inspect import Inspector
from cri_imaged.images.pinning import Pinner
from cri_imaged.images.pull.progress import RunningPulls
from cri_imaged.images.pull.puller import Puller
from cri_imaged.images.remove import Remover
from cri_imaged.images.store import ImageStore
from cri_imaged.images.tagging import Tagger
from cri_imaged.images.usage import UsageMeter
from cri_imaged.images.verification.standing import Standing
from cri_imaged.images.verification.verifier import Demands
from cri_imaged.images.views import Views
from cri_imaged.obs.metrics import Metrics
from cri_imaged.ports import Runtime
from cri_imaged.registry.distribution import DistributionClient
from cri_imaged.starting import Started
from cri_imaged.unix_sockets import UnixSocket
from cri_imaged.upkeep import Upkeep

Reload: TypeAlias = Callable[[], Awaitable[tuple[Sequence[str], Sequence[str]]]]


@dataclass(frozen=True, slots=True)
class UseCases:
    """Everything a daemon is made of but its sockets."""

    base: Started
    client: DistributionClient
    names: ClientNames
    store: ImageStore
    events: Events
    running: RunningPulls
    puller: Puller
    remover: Remover
    inspector: Inspector
    views: Views
    meter: UsageMeter
    collector: GarbageCollector
    durability: Durability
    rebuilder: Rebuilder
    checker: Checker
    demands: Demands
    importer: Importer
    exporter: Exporter
    history: PullHistory
    metrics: Metrics


def server_of(
    config: Config,
    parts: UseCases,
    runtimes: Mapping[str, Runtime],
    upkeep: Upkeep,
    reload: Reload,
) -> CriServer:
    """The server that `config` wants. `reload` reads the configuration again."""
    options, unread = config.grpc, UnreadAnswers()
    return CriServer(
        UnixSocket(options.address, "grpc.address", 0o660, options.uid, options.gid),
        max_receive_bytes=options.max_recv_message_size,
        max_send_bytes=options.max_send_message_size,
        calls=Calls(parts.metrics),
        services=Services(
            images=ImageService(
                puller=parts.puller,
                remover=parts.remover,
                store=parts.store,
                inspector=parts.inspector,
                meter=parts.meter,
                names=parts.names,
                answers=Answers(
                    options.max_send_message_size, config.runtime.image_id_format == "hex"
                ),
                unread=unread,
            ),
            runtime=RuntimeService(__version__, {"root": str(config.root)}),
            node=NodeService(
                running=parts.running,
                events=parts.events,
                views=parts.views,
                pinner=Pinner(parts.base.stores.database, parts.base.pins, parts.base.publisher),
                collector=parts.collector,
                checker=parts.checker,
                names=parts.names,
                reload=reload,
            ),
            runtimes=RuntimesService(runtimes, parts.collector),
            archives=ArchivesService(
                parts.importer, parts.exporter, parts.puller.handlers, parts.names
            ),
            history=HistoryService(parts.events, parts.history, parts.names, unread),
            upkeep=UpkeepService(upkeep.archives, upkeep.prefetched, upkeep.images),
            catalog=_catalog(parts),
            registries=RegistriesService(parts.client, parts.names),
        ),
    )


def _catalog(parts: UseCases) -> CatalogService:
    database = parts.base.stores.database
    tagger = Tagger(database, parts.base.publisher, Standing(parts.demands, database))
    return CatalogService(
        parts.puller, tagger, Descriptions(parts.base.stores, parts.store), parts.names
    )
