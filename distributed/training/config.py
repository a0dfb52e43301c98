"""The configuration of a training run: few dials here, the rest beside what it configures."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

from distributed.data.columns import Columns
from distributed.data.epoch import Residency
from distributed.data.replay_buffer import ReservoirConfig
from distributed.data.survey import OnBadRow
from distributed.runtime.worker_range import ONE, Workers
from distributed.training.drel_learner import PoolConfig
from distributed.training.optim import OptimConfig
from drel_core.annotators.cnn import CNNConfig
from drel_core.annotators.knn import KNNConfig
from drel_core.annotators.svm import SVMConfig
from drel_core.auto import AUTO
from drel_core.decision.decider import Decide, DecisionConfig
from drel_core.decision.kernel import KernelConfig
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig

Method = Literal[
    "drel", "wsabie", "knn", "svm", "cnn-softmax", "cnn-hinge", "cnn-warp", "popularity"
]
PICTURE_METHODS = ("cnn-softmax", "cnn-hinge", "cnn-warp")
"""Those that take pictures instead of features."""
AUTO_TEXT, NO_TEXT = "auto", "none"
Kind = TypeVar("Kind")


@dataclass(kw_only=True)
class DataConfig:
    """The feature stores and how they are read."""

    train: str
    """training store: a Parquet file or folder, local or s3://"""
    test: str | None = None
    """test store; when given, metrics.json is written"""
    validation: float = 0.0
    """share of training rows held out for validation and early stopping; 0, or below 1"""
    watch: int | None = None
    """without validation, rows held out only to show F1 beside the popularity floor while training; 0 shows \
    none; null: 2% of 20,000 rows and more, at most 1000. Of fewer rows none are held out: training rows are \
    scored, at most 1000"""
    columns: Columns = field(default_factory=Columns)
    """names of the store's columns"""
    on_bad_row: OnBadRow = "fail"
    """fail: a bad row ends the run; skip: it is left out, counted and listed"""
    residency: Residency = "auto"
    """keep a worker's rows in memory after the first pass (resident), or read every epoch (stream)"""
    memory_gib: float = 2.0
    """with residency auto, largest size in GiB of a worker's rows that is kept in memory"""
    shuffle_rows: int = 16384
    """rows of the window in which a streamed epoch is shuffled"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation is {self.validation}; it must be in [0, 1)")
        if self.watch is not None and self.watch < 0:
            raise ValueError(f"data.watch is {self.watch}; it must be 0 or more, or null")


@dataclass(kw_only=True)
class TagsConfig:
    """What is known of tags beside their images."""

    text: str = NO_TEXT
    """where vectors of tags' names come from: glove, minilm, a .parquet (name, vector) or .npy file, or a \
    folder of sentence-transformers; none: names are not looked at; auto: glove where the extra `text` is \
    installed. Methods drel and wsabie"""
    vocabulary: str = ""
    """vocabulary.yaml, local or s3://: other spellings, implications, groups, blocked tags and display \
    names; the bundle keeps it"""


@dataclass(kw_only=True)
class CheckpointConfig:
    """When resumable state is written."""

    every: int = 500
    """steps between checkpoints; one is always written at the end"""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"checkpoint.every is {self.every}; it must be 1 or more")


@dataclass(kw_only=True)
class ClusterConfig:
    """How a run waits for a cluster, grows with it and outlives what it loses."""

    start_timeout: int = 900
    """seconds to wait at the start until the cluster has room for the (least) workers"""
    resize_every: int = 60
    """with --workers MIN:MAX, seconds between looks for room for more workers"""
    failures: int = 5
    """times in a row that a run may fail without a new checkpoint between; lost nodes count as well"""

    def __post_init__(self) -> None:
        for name in ("start_timeout", "resize_every", "failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(kw_only=True)
class RunConfig:
    """How a run goes, whatever it trains: the options that jobs.train and jobs.update share."""

    workers: Workers = ONE
    """data-parallel processes; 2:8 for as many as the cluster has"""
    epochs: int = 30
    """passes over the training rows; -1: by the size of the data"""
    seed: int = 0
    """whole number that decides first weights, the order of rows, candidates and dropout"""
    patience: int = 5
    """with validation, epochs without a better F1 after which training stops"""
    k: int = 5
    """tags predicted for each image when scoring"""
    decide: Decide = "top"
    """how these tags are chosen. top: the most probable ones; macro: those that maximise expected macro F1; \
    threshold: all that pass their tag's cut"""
    threads: int = 0
    """CPU threads of each worker; 0 shares the machine's cores among the workers"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU for each worker when the cluster has enough of them"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """when resumable state is written"""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """how a run waits, grows and goes on"""

    def __post_init__(self) -> None:
        self.workers = Workers(self.workers)  # bundles of before have a plain number
        for name in ("epochs", "k", "patience"):
            value, auto = getattr(self, name), name == "epochs"
            if value < 1 and not (auto and value == AUTO):
                raise ValueError(f"{name} is {value}; it must be 1 or more{', or -1' * auto}")


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """Everything that decides a training run."""

    data: DataConfig
    """feature stores"""
    out: str
    """folder for the model, checkpoints, TensorBoard and metrics; the same one resumes"""
    method: Method = "drel"
    """what to train"""
    workers: Workers = ONE
    """data-parallel processes, each holding 1/workers of the tag table; 2:8 for as many as the cluster has"""
    batch_size: int = 128
    """images in a step, over all workers together; -1: by the size of the data"""
    tags: TagsConfig = field(default_factory=TagsConfig)
    """what is known of tags by their names"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """sizes and parts of the model"""
    table: TableConfig = field(default_factory=TableConfig)
    """how tag embeddings learn"""
    loss: LossConfig = field(default_factory=LossConfig)
    """hinge and miner"""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """candidate tags of a step"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how the towers learn"""
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """how scores become probabilities; all methods but popularity"""
    kernel: KernelConfig = field(default_factory=KernelConfig)
    """kernel regression whose evidence is added to scores; methods drel and wsabie"""
    knn: KNNConfig = field(default_factory=KNNConfig)
    """method knn"""
    svm: SVMConfig = field(default_factory=SVMConfig)
    """method svm"""
    cnn: CNNConfig = field(default_factory=CNNConfig)
    """methods cnn-softmax, cnn-hinge, cnn-warp"""
    reservoir: ReservoirConfig = field(default_factory=ReservoirConfig)
    """training rows kept in the bundle for jobs.update"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 and self.batch_size != AUTO:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more, or -1")
        if self.pool.hard and self.loss.weighting == "warp":
            raise ValueError(
                f"pool.hard is {self.pool.hard} with loss.weighting warp, which reads ranks from tags that "
                "are drawn at random; give pool.hard 0, or loss.weighting none"
            )


def option(config: Any, name: str) -> Any:
    """The value of an option by its dotted name, ``model.latent``."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def with_option(config: Kind, name: str, value: Any) -> Kind:
    """The configuration with another value of one option, by its dotted name; checked as any other."""
    first, _, rest = name.partition(".")
    inner = with_option(getattr(config, first), rest, value) if rest else value
    return replace(config, **{first: inner})  # type: ignore[type-var]


def config_from(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """The configuration that ``dataclasses.asdict`` gave, as a bundle keeps it. What this version does
    not know is left out, what the bundle does not say takes its default."""
    hints = get_type_hints(kind)
    known = {name: values[name] for name in kind.__dataclass_fields__ if name in values}  # type: ignore[attr-defined]
    for name, value in known.items():
        if is_dataclass(hints[name]) and isinstance(value, dict):
            known[name] = config_from(hints[name], value)
    return kind(**known)
