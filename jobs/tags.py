"""Show, check, suggest, merge, rename, split tags: python -m jobs.tags --model DIR [--merge A=B --out DIR]"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distributed.bundles.edit import BundleEdits, check_edited_out, edit_bundle
from distributed.bundles.locate import find_bundle, local_bundle, publish
from distributed.data.columns import Columns
from distributed.data.tag_reader import TagReader
from distributed.driver.tag_check import effect_lines, effects_of_model, rule_effects
from distributed.driver.tag_edit_files import edits_of, read_assigned, read_edits
from distributed.driver.tag_suggest import Text, kept_rows, suggest, suggestions_text, tag_latents
from distributed.driver.tag_view import shown, summary, tag_lines, text_lines
from distributed.runtime.progress import counted
from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder, check_file
from drel_core.bundle.format import read_rules, read_vocabulary
from drel_core.bundle.tag_edits import TagEdits, coming_back
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.tag_text import some_names
from jobs.cli import NOTHING, OneLineParser, build, piped, run_job, say

REPEATED = ("--merge", "--rename", "--remove", "--split")
_CHECKED = 20  # lines of a section where nobody says how many


@dataclass(kw_only=True)
class TagsConfig:
    """Whose tags, and what to do with them."""

    model: str | None = None
    """model bundle, training folder, or folder of versions with `latest`"""
    data: str | None = None
    """store: a Parquet file or folder; only its tags are read. With --check and --suggest it may stand \
    beside a model"""
    check: str | None = None
    """vocabulary file to look at: its faults, and how many images each rule is about"""
    suggest: bool = False
    """list likely other spellings and implications, with evidence, as a vocabulary file for a person to cut \
    down"""
    merge: list[str] = field(default_factory=list)
    """A=B: tag A becomes another spelling of tag B; may be given several times"""
    rename: list[str] = field(default_factory=list)
    """A=B: tag A gets the new name B, and A stays as another spelling of it"""
    remove: list[str] = field(default_factory=list)
    """a tag that is to be neither learned nor said"""
    split: list[str] = field(default_factory=list)
    """A=B,C: new tags B and C take the place of tag A; A=A,B: A stays, and B is new"""
    edits: str | None = None
    """CSV file of many edits with columns edit, tag and to"""
    assign: str | None = None
    """CSV file with columns image_id and tag: which images of a store have which part of a tag that is \
    split"""
    vocabulary: str | None = None
    """vocabulary file: with --model and --out its rules take the place of the model's; with --data and \
    --out they are applied to the store's tags; else they are shown, or known to --suggest"""
    out: str | None = None
    """new folder for the edited model or store; of --suggest the file to write"""
    publish: bool = False
    """let `latest` beside --out name the edited model: scorers that serve that folder move to it"""
    prefix: str = ""
    """show only tags that begin so, or have another spelling that does"""
    limit: int | None = None
    """most lines that are shown; of --check and --suggest for each kind of rule (of --check 20 where nobody \
    says it); 0: all"""
    sort: Literal["count", "name"] = "count"
    """order in which tags are shown"""
    json: str | None = None
    """file to write the shown tags into, such as tags.json, or /dev/stdout"""
    text: str | None = None
    """text vectors of tag names, which put suggestions in order: glove, minilm, a .parquet or .npy file, or \
    a sentence-transformers folder"""
    columns: Columns = field(default_factory=Columns)
    """names of the store's columns"""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit is {self.limit}; it must be 0 or more")

    @property
    def wants_edits(self) -> bool:
        every = (self.merge, self.rename, self.remove, self.split, self.edits)
        return any(every) or bool(self.vocabulary and self.out and not self.suggest)


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.tags",
        description="The tags of a model or store: shown, checked against a vocabulary file, suggested, or "
        "merged, renamed, removed and split into a new model or store. What there is never changes.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(TagsConfig)
    given = parser.parse_args(list(_each(arguments)))
    config = build(parser, given, TagsConfig)
    if not config.model and not config.data:
        parser.error("the following arguments are required: --model or --data")
    _check_together(config)
    with piped():
        if config.check:
            _check(config)
        elif config.suggest:
            _suggest(config)
        elif config.wants_edits:
            (_edit_model if config.model else _edit_store)(config, given.dry_run)
        else:
            _show(config)


def _each(arguments: Sequence[str]) -> Iterator[str]:
    """``--merge A=B`` as one more entry of its list, whatever is in the name."""
    left = iter(arguments)
    for argument in left:
        name, mark, value = argument.partition("=")
        if name not in REPEATED:
            yield argument
            continue
        if not mark and (after := next(left, None)) is not None:
            mark, value = "=", after
        yield f"{name}+={json.dumps([value], ensure_ascii=False)}" if mark else argument


def _check_together(config: TagsConfig) -> None:
    """
    Raises:
        InputError: options that do not go together.
    """
    both = bool(config.model) and bool(config.data)
    if both and not (config.check or config.suggest):
        raise InputError(
            "--model and --data: give one of them (both go together with --check and --suggest alone)"
        )
    asked = {"--check": config.check, "--suggest": config.suggest, "edits": config.wants_edits}
    if len(several := [name for name, value in asked.items() if value]) > 1:
        raise InputError(f"{' and '.join(several)}: give one of them a command")
    needs = {
        "--publish": (config.publish, config.model and config.wants_edits, "edits of a --model"),
        "--assign": (config.assign, config.data and config.wants_edits, "--split of a --data"),
        "--text": (config.text, config.suggest, "--suggest"),
        "--json": (config.json, not any(several), "tags that are shown"),
        "--prefix": (config.prefix, not any(several), "tags that are shown"),
        "--out": (config.out, config.suggest or config.wants_edits, "edits (--merge A=B) or --suggest"),
    }  # fmt: skip
    for option, (value, fits, what) in needs.items():
        if value and not fits:
            raise InputError(f"{option} is for {what}; leave it out here")


@dataclass(frozen=True)
class _Whose:
    """The tags that are asked about."""

    title: str
    names: tuple[str, ...]
    count_T: np.ndarray
    rules: TagRules
    ids: bool
    about: dict[str, Any]

    @staticmethod
    def of(config: TagsConfig) -> _Whose:
        given = TagRules.load(Path(config.vocabulary)) if config.vocabulary else None
        if config.model:
            place, version = find_bundle(config.model)
            folder = local_bundle(place.address)
            vocabulary = read_vocabulary(folder)
            rules = read_rules(folder) if given is None else given
            return _Whose(
                f"{place} (version {version})",
                vocabulary.names,
                vocabulary.counts,
                rules,
                True,
                {"model": version},
            )
        assert config.data is not None
        counts = TagReader.open(config.data, config.columns).counts()
        about = {"data": config.data, "images": counts.images, "tagless": counts.tagless}
        title = f"{config.data} ({counts.images:,} images, {counts.tagless:,} without a tag)"
        return _Whose(title, counts.names, counts.count_T, given or TagRules(), False, about)

    @property
    def living(self) -> list[str]:
        """Tags that are neither another spelling nor blocked."""
        blocked = set(self.rules.blocked)
        return [
            name for name in self.names if name not in blocked and name not in self.rules.aliases
        ]


def _show(config: TagsConfig) -> None:
    if config.json is not None:
        check_file(config.json, "--json", "tags.json")
    whose = _Whose.of(config)
    lines = tag_lines(
        whose.names, whose.count_T, whose.rules, whose.ids, config.prefix, config.sort == "name"
    )
    limit = config.limit or None
    if config.json is not None:
        tags = [line.to_dict() for line in lines[:limit]]
        write_json(config.json, {**whose.about, "tags": tags})
        return
    print(f"{whose.title}: {summary(whose.names, whose.count_T, whose.rules)}")
    if config.prefix:
        print(f"{len(lines):,} begin with {shown(config.prefix)!r}")
    print("\n".join(text_lines(lines, limit)))


def _check(config: TagsConfig) -> None:
    """Errors of the file itself end the job; all else is said."""
    assert config.check is not None
    rules = TagRules.load(Path(config.check))
    whose = _Whose.of(config)
    if config.data:
        effects = rule_effects(rules, TagReader.open(config.data, config.columns), say)
        where = f"of the {effects.images:,} images of {config.data}"
    else:
        effects = effects_of_model(rules, whose.names, whose.count_T)
        where = "of the model's training images; give --data STORE to count implications and groups"
    print(f"{config.check}: it holds. Counts {where}:")
    most = _CHECKED if config.limit is None else config.limit
    lines = effect_lines(effects, bool(config.data), most)
    print("\n".join(lines) or "no rule that asks for a count")
    for note in rules.check(whose.names):
        print(f"note: {note}")


def _suggest(config: TagsConfig) -> None:
    if config.out is not None:
        check_file(config.out, "--out", "suggested.yaml")
        file = Folder.of(config.out)
        if file.parent.has(file.name):
            raise InputError(
                f"{config.out}: --out is there already, and may have been cut down by hand; give another "
                "file, or delete this one"
            )
    whose = _Whose.of(config)
    names, latent_TL, where, columns = whose.living, None, config.data, config.columns
    about = f"{whose.title} and {where}" if config.model else whose.title
    if config.model:
        folder = local_bundle(config.model)
        latent_TL = tag_latents(folder, names)
        if where is None:
            where, columns = kept_rows(folder, config.model), Columns()
            about = f"{whose.title} and the training rows that it keeps"
    assert where is not None
    reader, text = (
        TagReader.open(where, columns),
        None if config.text is None else Text.of(config.text, names),
    )
    found = suggest(names, reader, whose.rules, latent_TL, text, say)
    suggested = suggestions_text(found, about, config.limit or None)
    if config.out is None:
        print(suggested, end="")
        return
    write_text(config.out, suggested)
    print(
        f"{config.out}: {len(found.aliases):,} other spellings, {len(found.implied):,} implications; delete "
        "what is wrong"
    )


def _edits(config: TagsConfig) -> TagEdits:
    typed = edits_of(config.merge, config.rename, config.remove, config.split)
    if config.edits is None:
        return typed
    if typed:
        raise InputError("--edits and single edits: put all into the file, or give them one by one")
    return read_edits(config.edits)


def _needs_out(config: TagsConfig, dry: bool, what: str) -> Folder | None:
    if config.out is not None:
        return Folder.of(config.out)
    if dry:
        return None
    raise InputError(
        f"give --out a new folder for the edited {what}; the one there is never changes (--dry_run says what "
        "would change)"
    )


def _edit_model(config: TagsConfig, dry: bool) -> None:
    assert config.model is not None
    out = _needs_out(config, dry, "model")
    if config.publish and out is not None and ".." in out.address.split("/"):
        raise InputError(f"{out}: with --publish give --out without `..`")
    rules = TagRules.load(Path(config.vocabulary)) if config.vocabulary else None
    made = BundleEdits.of(config.model, _edits(config), rules)
    if out is not None:
        check_edited_out(made, out)
    count = dict(zip(made.vocabulary.names, made.vocabulary.counts.tolist(), strict=True))
    place = {name: tag for tag, name in enumerate(made.after.names)}
    before = {name: tag for tag, name in enumerate(made.vocabulary.names)}
    for line in _said(made.edits, lambda tag: f"id {before[tag]}, {count[tag]:,} images"):
        print(line)
    for part, _ in made.edits.appended():
        print(f"new tag {shown(part)} (id {place[part]})")
    if rules is not None:
        print(f"rules of {config.vocabulary} take the place of the model's")
        if back := coming_back(made.after.names, read_rules(made.folder), made.after.rules):
            print(f"WARNING: {config.vocabulary}: {back}")
    if dry:
        say(NOTHING)
        return
    assert out is not None
    version = edit_bundle(made, out, say)
    print(f"model        {out / 'model'} (version {version}, from {made.info.version})")
    if config.publish:
        publish(out.parent.address, out.name)
        print(f"published    {out.parent / 'latest'} names {out.name}")


def _edit_store(config: TagsConfig, dry: bool) -> None:
    from distributed.ingest.edit_store import StoreEdits, check_out, dry_edit, edit_store

    assert config.data is not None
    out = _needs_out(config, dry, "store")
    edits, rules = _edits(config), TagRules()
    if config.vocabulary:
        rules = TagRules.load(Path(config.vocabulary))
    if out is not None:
        check_out(config.data, out)
    counts = TagReader.open(config.data, config.columns).counts()
    after_rules = {tag for name in counts.names for tag in rules.applied([name], keep_split=True)}
    checked = edits.checked(after_rules)
    assigned = []
    if checked.split:
        if config.assign is None:
            raise InputError(
                "--split of a store: give --assign a CSV file with columns image_id and tag, which says "
                "which images have which part"
            )
        assigned = read_assigned(config.assign, checked)
    elif config.assign is not None:
        raise InputError("--assign is for --split; leave it out, or split a tag")

    def becomes(name: str) -> list[str]:
        tags = rules.applied([name], keep_split=True)
        return [
            new
            for tag in tags
            for new in ((tag,) if tag in checked.split else checked.becomes(tag))
        ]

    count = dict(zip(counts.names, counts.count_T.tolist(), strict=True))
    for line in _said(checked, lambda tag: f"{count.get(tag, 0):,} images"):
        print(line)
    todo = StoreEdits(becomes, assigned)
    about = {"store": config.data, **{key: len(getattr(checked, key)) for key in _KINDS}}
    if dry:
        changes = dry_edit(config.data, config.columns, todo)
    else:
        assert out is not None
        changes = edit_store(config.data, config.columns, todo, out.address, about, say)
    print(
        f"{changes.changed:,} of {changes.images:,} images {'would have' if dry else 'have'} other tags, "
        f"{changes.bare:,} of them none"
    )
    if changes.unassigned:
        print(
            f"{changes.unassigned:,} images keep a tag that is split: {config.assign} has no part for them"
        )
    if changes.unknown:
        print(
            f"{config.assign}: {counted(len(changes.unknown), 'image')} that the store does not have: "
            f"{some_names(changes.unknown)}"
        )
    if dry:
        say(NOTHING)
    else:
        print(f"store        {out}")


_KINDS = ("merge", "rename", "remove", "split")


def _said(edits: TagEdits, of: Any) -> Iterator[str]:
    """A line for each edit."""
    for tag, into in edits.merge.items():
        yield f"merge {shown(tag)} ({of(tag)}) into {shown(into)}"
    for tag, new in edits.rename.items():
        yield f"rename {shown(tag)} ({of(tag)}) to {shown(new)}"
    for tag in edits.remove:
        yield f"remove {shown(tag)} ({of(tag)})"
    for tag, parts in edits.split.items():
        yield f"split {shown(tag)} ({of(tag)}) into {', '.join(map(shown, parts))}"


if __name__ == "__main__":
    run_job(main, goes_on=False)
