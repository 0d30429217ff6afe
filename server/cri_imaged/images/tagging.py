"""Giving an image that is here one more name, and taking one away."""

from __future__ import annotations

from cri_imaged.errors import InvalidRequestError, NotFoundError
from cri_imaged.images.publishing import Publisher
from cri_imaged.images.store import Image
from cri_imaged.images.verification.standing import Standing
from cri_imaged.metadata import images
from cri_imaged.metadata.database import Database
from cri_imaged.oci.digest import Digest
from cri_imaged.oci.reference import Reference
from cri_imaged.shielding import to_the_end


class Tagger:
    """Names images."""

    def __init__(self, database: Database, publisher: Publisher, standing: Standing) -> None:
        self._database = database
        self._publisher = publisher
        self._standing = standing

    async def tag(self, name: str, handler: str, new: str) -> tuple[Image, Reference]:
        """Have the reference `new` mean the image that `name` means for `handler`, whatever it
        meant before; returns both.

        Raises:
            NotFoundError: no image `name` is here, or it means another one than was judged.
            InvalidRequestError: a name is malformed, `new` has a digest, or `name` is an ambiguous
                truncated ID.
            SignatureRejectedError: the policy for the repository of `new` does not let it in.
        """
        reference = Reference.parse(new).canonical()
        if reference.digest is not None:
            raise InvalidRequestError(f"{new}: an image's digest is what it is; give a tag")
        image = self._publisher.store.get(name, handler)
        if image is None:
            raise NotFoundError(f"no image {name} is present; pull it before it is tagged")
        known = self._publisher.store.known_as(image, name)
        target = await self._standing.admit(known, image.record.handler, reference)
        await to_the_end(self._add(known, image.record.handler, target, str(reference)))
        return image, reference

    async def untag(self, name: str, handler: str) -> tuple[Image, str]:
        """Take the tag `name` from the image that has it, which stays; returns both.

        Raises:
            NotFoundError: no image that is here has this tag.
            InvalidRequestError: `name` is malformed.
        """
        image = self._publisher.store.get(name, handler)
        tag = self._publisher.store.known_as(image, name) if image else name
        if image is None or tag not in image.repo_tags:
            raise NotFoundError(f"{name} is no tag of an image that is present")
        await to_the_end(self._remove(image, tag))
        return image, tag

    async def _remove(self, image: Image, tag: str) -> None:
        handler = image.record.handler
        if not await self._database.write(
            lambda db: images.remove_name(db, tag, handler, image.id)
        ):
            raise NotFoundError(f"{tag} was removed or moved meanwhile")
        await self._publisher.update((tag,), handler)

    async def _add(self, known: str, handler: str, target: Digest | None, new: str) -> None:
        if target is None or not await self._database.write(
            lambda db: images.add_name(db, known, handler, target, new)
        ):
            raise NotFoundError(f"image {known} was removed or pulled anew meanwhile; try again")
        await self._publisher.update((new,), handler)
