"""What `events`, `explain` and `pulls` tell of the past, and `images` and `inspect` beside it."""

from __future__ import annotations

import json

from cri_imaged.rpc.node.v1 import history_pb2 as api
from cri_imaged.rpc.runtime.v1 import api_pb2
from tests.cli.peer import IMAGE, IMAGE_ID, Peer

SECOND = 10**9
BEGAN = 1_767_225_600 * SECOND
REFERENCE = "docker.io/library/a:1"
REPORT = api.PullReport(
    reference=REFERENCE,
    pod="default/web\x1b[31m",
    began=BEGAN,
    seconds=4.0,
    outcome="success",
    image_id=IMAGE_ID,
    image_bytes=3 << 20,
    bytes_fetched=2 << 20,
    bytes_reused=1 << 20,
    stages=[
        api.Stage(name="resolving", began=0, seconds=1),
        api.Stage(name="fetching", began=1, seconds=3),
    ],
    layers=[
        api.LayerReport(
            digest=IMAGE_ID,
            size=2 << 20,
            source="fetched",
            stages=[api.Stage(name="fetching", began=1, seconds=2)],
            account=api.Account(
                hosts={"mirror.example": 2 << 20},
                failures=[api.FailedRequest(host="m2.example", outcome="503", seconds=0.5)],
                failed=4,
            ),
        ),
        api.LayerReport(digest=IMAGE_ID, size=1 << 20, source="unpacked"),
    ],
    layers_left_out=7,
)
COUNT = api.PullCount(
    reference=REFERENCE, image_id=IMAGE_ID, pulls=3, fetched=1, bytes=2048, first=BEGAN, last=BEGAN
)


async def test_explain_draws_what_took_long(peer: Peer) -> None:
    peer.answers["ListReports"] = api.ListReportsResponse(reports=[REPORT])
    ran = await peer.run("explain", "a:1")
    assert (ran.code, ran.err) == (0, "")
    assert peer.requests[0] == api.ListReportsRequest(image="a:1", limit=1)
    assert ran.out.splitlines() == [
        f"{REFERENCE}: success in 4.00 s, 2026-01-01T00:00:00Z",
        "for:      default/web\\x1b[31m",
        f"image:    {IMAGE_ID}",
        "size:     3.0 MiB: 2.0 MiB fetched, 1.0 MiB of layers reused",
        "",
        f"  resolving                      1.00 s  |{'█' * 10}{' ' * 30}|",
        f"  fetching                       3.00 s  |{' ' * 10}{'█' * 30}|",
        "",
        f"{IMAGE_ID[:19]}  2.0 MiB  fetched from mirror.example (2.0 MiB, 1.0 MiB/s)",
        f"  fetching                       2.00 s  |{' ' * 10}{'█' * 20}{' ' * 10}|",
        "  failed: m2.example: 503 (0.5 s)",
        "  and 3 more failed requests",
        "",
        f"{IMAGE_ID[:19]}  1.0 MiB  was here, unpacked",
        "",
        "and 7 layers that took less time",
    ]
    shown = json.loads((await peer.run("explain", "-o", "json", "a:1")).out)
    assert shown["layers"][0]["account"]["hosts"] == {"mirror.example": 2 << 20}
    assert shown["stages"][1]["began"] == 1

    peer.answers["ListReports"] = api.ListReportsResponse()
    ran = await peer.run("explain", "b")
    assert (ran.code, ran.out) == (3, "")


async def test_pulls_tells_of_the_past(peer: Peer) -> None:
    peer.answers["ListReports"] = api.ListReportsResponse(reports=[REPORT])
    ran = await peer.run("pulls", "--last", "-n", "5")
    assert ran.out.splitlines()[1].split()[:3] == ["2026-01-01T00:00:00Z", REFERENCE, "success"]
    assert peer.requests[-1].limit == 5
    shown = json.loads((await peer.run("pulls", "--last", "-o", "json")).out)
    assert shown["reports"][0]["reference"] == REFERENCE

    failed = api.PullCount(reference=REFERENCE, pulls=2, first=BEGAN, last=BEGAN)
    peer.answers["CountPulls"] = api.CountPullsResponse(counts=[COUNT, failed])
    ran = await peer.run("pulls", "--of", "a:1")
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert [row[1:4] for row in rows] == [["0123456789abc", "3", "1"], ["(failed)", "2", "0"]]
    shown = json.loads((await peer.run("pulls", "--of", "a:1", "-o", "json")).out)
    assert shown["counts"][0]["pulls"] == 3
    peer.answers["CountPulls"] = api.CountPullsResponse()
    for form in ("text", "json"):
        ran = await peer.run("pulls", "--of", "a:1", "-o", form)
        assert (ran.code, ran.out) == (3, "")


async def test_images_and_inspect_say_how_often_an_image_was_pulled(peer: Peer) -> None:
    other = api.PullCount(reference=REFERENCE, image_id=IMAGE_ID, runtime_handler="kata", pulls=9)
    peer.answers["CountPulls"] = api.CountPullsResponse(counts=[COUNT, other])
    peer.answers["StreamImages"] = [api_pb2.StreamImagesResponse(images=[IMAGE])]
    shown = json.loads((await peer.run("images", "-o", "json")).out)
    assert [each["pulls"] for each in shown["images"][0]["pulls"]] == [3]
    peer.answers["ImageStatus"] = api_pb2.ImageStatusResponse(image=IMAGE)
    shown = json.loads((await peer.run("inspect", "a:1", "-o", "json")).out)
    assert [each["bytes"] for each in shown["pulls"]] == [2048]
    ran = await peer.run("inspect", "a:1")
    assert f"{REFERENCE} 3 times, 1 fetched 2.0 KiB" in ran.out


async def test_events_are_sentences_or_lines_of_json(peer: Peer) -> None:
    image = api.ImageEvent(image_id=IMAGE_ID, names=[REFERENCE])
    began = api.PullBegan(reference=REFERENCE)
    peer.answers["WatchEvents"] = [
        api.WatchEventsResponse(time=BEGAN),
        api.WatchEventsResponse(time=BEGAN, pull_began=began),
        api.WatchEventsResponse(time=BEGAN, image_created=image),
        api.WatchEventsResponse(time=BEGAN, pull_ended=REPORT),
        api.WatchEventsResponse(time=BEGAN, image_deleted=image),
        api.WatchEventsResponse(time=BEGAN, missed=api.Missed(events=3)),
    ]
    ran = await peer.run("events")
    stamp = "2026-01-01T00:00:00Z"
    assert ran.out.splitlines() == [
        f"{stamp}  pull began     {REFERENCE}",
        f"{stamp}  image created  0123456789abc  {REFERENCE}",
        f"{stamp}  pull ended     {REFERENCE}  success, 4.00 s, 2.0 MiB fetched",
        f"{stamp}  image deleted  0123456789abc  {REFERENCE}",
        f"{stamp}  missed 3 events: this reader is too slow",
    ]
    lines = [json.loads(line) for line in (await peer.run("events", "-o", "json")).out.splitlines()]
    assert [next(iter({*line} - {"time"}), None) for line in lines] == [
        None,
        "pull_began",
        "image_created",
        "pull_ended",
        "image_deleted",
        "missed",
    ]
