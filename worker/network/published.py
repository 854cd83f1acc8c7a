"""The networks that astroNN's authors published, by the git names of their weights.

They are folders of the public repository henrysky/astroNN_APOGEE_VAC. Git knows the content of a
file by the SHA-1 of the word blob, its size, a zero byte and its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.network.checkpoint import Metadata


@dataclass(frozen=True)
class PublishedNetwork:
    """A published folder and the git blob SHA-1 of its ``model_weights.h5``."""

    release: str
    folder: str
    git_blob_sha1: str


PUBLISHED = (
    PublishedNetwork("DR17", "astroNN_0512_run002", "f99f4b521e317bc55a9506245bc84321d24a5322"),
    PublishedNetwork("DR16", "astroNN_0617_run001", "ea6080362b8545d505e2f3bcabecdf49d32996ea"),
)


def published_network(metadata: Metadata) -> PublishedNetwork | None:
    """The published network that converted weights come from, by their content."""
    sha1 = metadata.get("model_weights_git_blob_sha1")
    return next((each for each in PUBLISHED if each.git_blob_sha1 == sha1), None)


def pretended_network(metadata: Metadata) -> PublishedNetwork | None:
    """The published network after which a folder with other content is named, if there is one."""
    folder = metadata.get("folder")
    named = next((each for each in PUBLISHED if each.folder == folder), None)
    return None if named is published_network(metadata) else named
