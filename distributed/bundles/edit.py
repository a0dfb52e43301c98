"""A model whose vocabulary is edited: a new bundle beside the one that it was made from, which never changes.

Names and rules change; what was learned does not. Ids and rows of the table stay where they are, and a split
adds rows behind them.

Shapes: E embedding size, T tags, n new ones.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distributed.bundles.finish import write_card
from distributed.bundles.locate import CONFIG, find_bundle, local_bundle
from distributed.bundles.table_parts import TableParts
from distributed.bundles.unseen_tags import BundleText, NamedTags
from distributed.bundles.write import BundleWriter
from distributed.data.edited_tags import edited_column
from distributed.data.feature_store import one_chunk
from distributed.data.replay_buffer import RESERVOIR, write_kept_rows
from distributed.runtime.progress import Log, saying
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from distributed.storage.resume import digest
from drel_core.annotators.drel import prior_of, read_towers
from drel_core.annotators.load import load_bundle
from drel_core.bundle.card import CARD
from drel_core.bundle.format import parse_info, read_info, read_rules, read_vocabulary, write_bundle
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import check_files, load_tensors
from drel_core.bundle.tag_edits import EditedVocabulary, TagEdits, edited
from drel_core.bundle.tag_rules import VOCABULARY_FILE, TagRules
from drel_core.bundle.tensor_files import open_tensors, save_tensors
from drel_core.bundle.text_vectors import TAG_TEXT, TagText, text_source
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import KERNEL
from drel_core.errors import InputError
from drel_core.tag_text import some_names

SPLITTING = ("drel", "wsabie")


@dataclass(frozen=True)
class BundleEdits:
    """Edits of one model, checked.

    Attributes:
        place: the model's bundle.
        folder: the same on this machine.
        edits: what is to change.
        vocabulary: of before.
        after: names and rules of after.
    """

    place: Folder
    folder: Path
    info: BundleInfo
    edits: TagEdits
    vocabulary: Vocabulary
    after: EditedVocabulary

    @staticmethod
    def of(model: str, edits: TagEdits, rules: TagRules | None = None) -> BundleEdits:
        """
        Args:
            rules: to take the place of those that the model has, before the edits; None: they stay.

        Raises:
            InputError: there is no such model, or an edit of it cannot be made.
        """
        place, _ = find_bundle(model)
        folder = local_bundle(place.address)
        check_files(folder)
        info, vocabulary = read_info(folder), read_vocabulary(folder)
        if edits.split and info.method not in SPLITTING:
            raise InputError(
                f"{place}: a model of method {info.method} has no row of a tag to split; split the tag in "
                "the store (--data) and train again"
            )
        before = read_rules(folder) if rules is None else rules
        after = edited(vocabulary.names, before, edits)
        return BundleEdits(place, folder, info, edits, vocabulary, after)

    @property
    def counts(self) -> np.ndarray:
        """int64 ``[T + n]``: training images of each tag. Parts of a split tag share its images evenly."""
        count_T, start = self.vocabulary.counts, list(self.after.start)
        grown = np.concatenate([count_T, count_T[start]])
        for tag, into in self.families():
            grown[into] = -(-count_T[tag] // len(into))
        return grown

    def families(self) -> list[tuple[int, list[int]]]:
        """Each tag that is split, with the ids of its parts; its own where it stays."""
        first, start = len(self.vocabulary), self.after.start
        found = []
        for tag in dict.fromkeys(start):
            name = self.vocabulary.names[tag]
            into = [first + place for place, one in enumerate(start) if one == tag]
            found.append((tag, [tag, *into] if name in self.edits.split[name] else into))
        return found

    @property
    def made_from(self) -> str:
        """The same for the same edits of the same model."""
        return digest(self.info.version, list(self.after.names), self.after.rules.digest)


def check_edited_out(edits: BundleEdits, out: Folder) -> None:
    """
    Raises:
        InputError: a new model cannot go to ``out``.
    """
    out.check("--out")
    if edits.place in (out, out / "model"):
        raise InputError(
            f"{out}: --out holds the model itself; a bundle never changes, give a new folder"
        )
    target = out / "model"
    if target.has(CONFIG):
        config = (target.read(CONFIG) or b"").decode("utf-8", errors="replace")
        held = parse_info(config, str(target)).content.get("edited")
        if not isinstance(held, dict) or held.get("made_from") != edits.made_from:
            raise InputError(f"{target}: holds another model; give --out a new folder")


def edit_bundle(edits: BundleEdits, out: Folder, log: Log) -> str:
    """Leave the edited model in ``OUT/model``, unless it is there.

    Returns:
        its version.

    Raises:
        InputError: ``out`` holds another model.
    """
    check_edited_out(edits, out)
    target = out / "model"
    with owned(out, log):
        if target.has(CONFIG):
            log(f"{target} is there already")
            return find_bundle(target.address)[1]
        writer = BundleWriter(target)
        writer.clear()
        try:
            with saying(log, "writing the model"):
                version = _write(edits, writer.folder, log)
                writer.finish(version)
        except BaseException:
            shutil.rmtree(writer.folder, ignore_errors=True)
            raise
    return version


def _write(edits: BundleEdits, folder: Path, log: Log) -> str:
    info, after = edits.info, edits.after
    about = info.carried
    grown = bool(after.start)
    apart = {CONFIG, CARD, "vocabulary.json", VOCABULARY_FILE, RESERVOIR, TAG_TEXT}
    if grown:
        apart |= {DECISION, KERNEL, *TableParts.of(edits.folder, info).names}
    for path in sorted(edits.folder.iterdir()):
        if path.name not in apart and path.is_file():
            shutil.copyfile(path, folder / path.name)
    vocabulary = Vocabulary(after.names, edits.counts)
    if grown:
        about["table_parts"] = _grow(edits, folder, vocabulary)
    table = TableParts(folder, int(about.get("table_parts", 0)))
    text = _write_text(edits, table, log)
    if text is not None and (source := text_source(about)):
        about["text"] = text.describe(source)
    _edit_kept_rows(edits, folder)
    if after.rules:
        (folder / VOCABULARY_FILE).write_text(after.rules.to_yaml(), encoding="utf-8")
    made = edits.edits
    about["edited"] = {
        "merged": len(made.merge),
        "renamed": len(made.rename),
        "removed": len(made.remove),
        "split": len(made.split),
        "made_from": edits.made_from,
    }
    about |= {"parent": info.version, "new_images": 0, "new_tags": len(after.start)}
    version = write_bundle(folder, info.method, vocabulary, about)
    if grown:
        load_bundle(folder)  # new rows get no name before they have been loaded
    write_card(folder, vocabulary, info.images or 0, Decider.load(folder, len(vocabulary)))
    return version


def _grow(edits: BundleEdits, folder: Path, vocabulary: Vocabulary) -> int:
    """Rows, kernel and decisions with a place for every new tag: that of the tag it starts from.

    Returns:
        the number of the table's files.
    """
    start = torch.tensor(edits.after.start)
    table = TableParts.of(edits.folder, edits.info)
    parts = table.write_grown(folder, *table.rows(start))
    if (path := edits.folder / KERNEL).is_file():
        kernel = load_tensors(path)
        for key in ("weight_RT", "share_T", "noise"):
            # Older kernels have one noise for all tags, or none.
            if key in kernel and kernel[key].shape[-1] == len(edits.vocabulary):
                kernel[key] = _with_columns(kernel[key], start)
        save_tensors(kernel, folder / KERNEL)
    if (path := edits.folder / DECISION).is_file():
        with open_tensors(path) as file:
            header = file.metadata()
        decision = load_tensors(path)
        for key in ("shift_T", "gain_T", "offset_T", "cut_T", "slope_T"):
            if key in decision:
                decision[key] = _with_columns(decision[key], start)
        slope = decision.get("slope_T", decision["slope"])
        decision["shift_T"] += _less_sure(edits, slope, vocabulary)
        save_tensors(decision, folder / DECISION, header)
    return parts


def _write_text(edits: BundleEdits, table: TableParts, log: Log) -> TagText | None:
    """Text vectors of the names that tags have now, and rows of tags that are known by name alone. Where a
    new name has no vector, or their source is not here, that of the old name stays, and a line says so.

    Args:
        table: of the new bundle.

    Returns:
        the vectors; None of a bundle that keeps none.
    """
    text = TagText.load(edits.folder, len(edits.vocabulary))
    if text is None:
        return None
    before, names = edits.vocabulary.names, edits.after.names
    new = [tag for tag, name in enumerate(names) if tag >= len(before) or name != before[tag]]
    if not new:
        shutil.copyfile(edits.folder / TAG_TEXT, table.folder / TAG_TEXT)
        return text
    vector_Td = torch.cat([text.vector_Td, text.vector_Td[torch.tensor(edits.after.start).long()]])
    new_names = [names[tag] for tag in new]
    try:
        source = BundleText.of(edits.folder, edits.info, edits.vocabulary)
        vector_nd, has_n = source.vectors(new_names)
    except InputError as error:
        log(f"{some_names(new_names)}: the text vectors of the old names stay ({error})")
    else:
        tag_n = torch.tensor(new)[has_n]
        vector_Td[tag_n] = vector_nd[has_n].to(vector_Td.dtype)
        if len(tag_n) < len(new):
            none = [name for name, has in zip(new_names, has_n.tolist(), strict=True) if not has]
            log(f"{some_names(none)}: no text vector ({source.source}); that of the old name stays")
        _write_rows_by_name(edits, table, source, tag_n, vector_nd[has_n])
    text = replace(text, vector_Td=vector_Td)
    text.save(table.folder / TAG_TEXT)
    return text


def _write_rows_by_name(
    edits: BundleEdits, table: TableParts, source: BundleText, tag_n: Tensor, vector_nd: Tensor
) -> None:
    """What no image taught has the row that its name gives: by another name it is another row."""
    count_T = torch.from_numpy(edits.counts)
    unseen_n = count_T[tag_n] == 0
    if not unseen_n.any() or not NamedTags.possible(source, edits.vocabulary):
        return
    tag_n, vector_nd = tag_n[unseen_n], vector_nd[unseen_n]
    named = NamedTags.of(edits.folder, edits.info, edits.vocabulary, source)
    table.overwrite(tag_n, named.map.rows(vector_nd))


def _with_columns(value_T: Tensor, start: Tensor) -> Tensor:
    return torch.cat([value_T, value_T[..., start]], dim=-1).contiguous()


def _less_sure(edits: BundleEdits, slope: Tensor, vocabulary: Vocabulary) -> Tensor:
    """float32 ``[T + n]``: what is added to the log odds of tags that share the images of a split one.

    Nobody has said yet which image has which part, so each of n parts is the n-th part as probable as the
    whole was. Its smaller count must not make up for that by the prior.
    """
    before_T = torch.from_numpy(edits.vocabulary.counts)
    grown_T = torch.cat([before_T, before_T[list(edits.after.start)]])
    model = read_towers(edits.folder, edits.info)
    prior_T = prior_of(Vocabulary(vocabulary.names, grown_T.numpy()), model)
    shift_T = slope * (prior_T - prior_of(vocabulary, model))
    for _, into in edits.families():
        shift_T[into] -= math.log(len(into))
    return shift_T


def _edit_kept_rows(edits: BundleEdits, folder: Path) -> None:
    """The training rows that the bundle keeps, with the tags that they have now. Rows with a split tag go:
    nobody has said which of its parts they have, and without any an update would learn that they have none.
    """
    path = edits.folder / RESERVOIR
    if not path.is_file():
        return
    made, rows = edits.edits, pq.read_table(path)
    column = one_chunk(rows.column("tags"))
    split = edited_column(column, lambda tag: () if tag in made.split else (tag,)).changed_B
    if split.any():
        rows = rows.filter(pa.array(~split))
        column = one_chunk(rows.column("tags"))
    found = edited_column(column, made.becomes)
    if not split.any() and not found.changed_B.any():
        shutil.copyfile(path, folder / RESERVOIR)
        return
    place = rows.schema.names.index("tags")
    rows = rows.set_column(place, rows.schema.field(place), pa.chunked_array([found.column]))
    write_kept_rows(rows, folder / RESERVOIR)
