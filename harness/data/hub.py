"""The hub's dataset: which commit, which files, the sha256 the hub keeps of each (Git LFS).

huggingface_hub answers the questions; the bytes come through `transfer`, which resumes.
HF_ENDPOINT, HF_TOKEN and the library's own configuration are obeyed.
"""

from __future__ import annotations

import importlib
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

from harness.data.manifest import NAME_PATTERN
from harness.data.retry import reason_of, status_of, with_patience
from harness.data.source import Listing, OnBytes, RemoteFile, Say
from harness.data.transfer import Web, origin, shown, unreachable
from harness.errors import UnfitError, UsageError

DATASET = "kjj0/fineweb10B-gpt2"
DEFAULT_REVISION = "main"
INSTALL = 'pip install "speedrun[data]"  (or: pip install "huggingface_hub>=0.30")'


class Hub:
    """The FineWeb-10B shards at one revision: a branch, a tag or a commit."""

    def __init__(self, revision: str, say: Say, dataset: str = DATASET) -> None:
        self.dataset = dataset
        self.revision = revision
        self.commit = revision
        self._say = say
        self._library = _library()
        default = importlib.import_module("huggingface_hub.constants").ENDPOINT
        self.endpoint = (os.environ.get("HF_ENDPOINT") or str(default)).rstrip("/")

    def listing(self) -> Listing:
        """One question: the commit behind the revision, and its files with size and sha256."""
        api = self._library.HfApi(endpoint=self.endpoint)

        def ask() -> Any:
            return api.dataset_info(
                self.dataset, revision=self.revision, files_metadata=True, timeout=30.0
            )

        try:
            info = with_patience(ask, lambda: 0, self._say)
        # The library's errors derive from requests, httpx or httpx2, depending on its version.
        except Exception as error:
            raise self._failure(error) from error
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
            raise UnfitError("the hub names no commit", where=self.endpoint, why=f"{info.sha!r}")
        self.commit = info.sha
        files = {}
        for sibling in info.siblings or ():
            if not re.fullmatch(NAME_PATTERN, sibling.rfilename) or sibling.lfs is None:
                continue  # folders, README: not shards
            sha256, size = sibling.lfs.sha256, sibling.lfs.size
            files[sibling.rfilename] = RemoteFile(sibling.rfilename, size, sha256, "hub")
        named = "" if self.revision == self.commit else f" ({self.revision})"
        return Listing(
            title=f"{self.dataset} at {self.commit[:12]}{named}",
            source=f"{shown(self.endpoint)}/datasets/{self.dataset}",
            revision=self.commit,
            files=files,
        )

    def describe(self, name: str) -> RemoteFile:
        raise UnfitError(f"the hub's dataset has no {name}", where=self.dataset)

    def download(self, file: RemoteFile, partial: Path, on_bytes: OnBytes, say: Say) -> None:
        """The file at the commit that `listing` found, whatever the branch says by now."""
        url = self._library.hf_hub_url(
            self.dataset,
            file.name,
            repo_type="dataset",
            revision=self.commit,
            endpoint=self.endpoint,
        )
        token = self._library.get_token()
        same = origin(url) == origin(self.endpoint)
        headers = {"Authorization": f"Bearer {token}"} if token and same else {}
        Web(headers).download(url, partial, file.bytes, on_bytes, say)

    def _failure(self, error: Exception) -> Exception:
        where = f"{shown(self.endpoint)}/datasets/{self.dataset}"
        if type(error).__name__ == "RevisionNotFoundError":
            return UsageError(
                f"the hub's dataset has no revision {self.revision!r}",
                where=where,
                why=reason_of(error),
                fix="leave --revision out, or give a commit of the dataset",
            )
        if status_of(error) is not None:
            return unreachable(where, error)
        return UnfitError(
            "the hub cannot be reached",
            where=where,
            why=f"{type(error).__name__}: {reason_of(error)}",
            fix="check the network (HF_ENDPOINT, HTTPS_PROXY, HF_HUB_OFFLINE), "
            "or fetch from a mirror: speedrun data fetch --from DIR|URL",
        )


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UnfitError(
            "fetching from the hub needs the package huggingface_hub",
            why=str(error),
            fix=f"{INSTALL}; or fetch from a mirror with --from, which needs nothing",
        ) from error


def is_url(text: str) -> bool:
    """Whether `--from` names a web address; raises UsageError for other schemes than http(s)."""
    scheme = urllib.parse.urlsplit(text).scheme.lower() if "://" in text else ""
    if scheme and scheme not in ("http", "https"):
        raise UsageError(
            f"--from cannot fetch {scheme}://", fix="give a folder, http:// or https://"
        )
    return bool(scheme)
