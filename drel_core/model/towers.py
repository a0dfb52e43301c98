"""DREL: two towers into one latent space, and a metric matrix between them (He et al., 2015, Eq 1-4).

Shapes: B images, D feature size, P tags, E tag-embedding size, L latent size, T tags of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drel_core.auto import AUTO
from drel_core.model.start import start_centred, start_shallow
from drel_core.model.unit_rows import unit_rows

Activation = Literal["sigmoid", "gelu", "relu", "tanh"]
_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(kw_only=True)
class ModelConfig:
    """Sizes and parts of the model. The feature size D always comes from the data."""

    image_hidden: int = 0
    """hidden units of the image tower; 0: 2048 where D is 2048 or more, else 1024 (paper, section 3.2)"""
    tag_dim: int = 256
    """E, size of a tag embedding; with tag_tower none it is that of the latents"""
    tag_hidden: int = 512
    """hidden units of the tag tower"""
    latent: int = 1024
    """L, size of the latent space"""
    activation: Activation = "sigmoid"
    """non-linearity f of Eq 1-2, after each hidden layer"""
    latent_activation: bool = True
    """apply f to the second layer as well (Eq 1-2 as printed)"""
    layer_norm: bool = False
    """normalise each hidden layer"""
    linear_path: bool = False
    """add a linear map beside each tower, so that the shallow model (WSABIE) is contained in this one"""
    normalise: bool = False
    """scale latents to length 1 and learn one temperature for all scores"""
    scale: float = 10.0
    """initial value of that temperature; -1: by the number of tags"""
    tag_bias: bool = False
    """add a bias per tag, read from its embedding by one linear unit"""
    tag_prior: float = 0.0
    """when annotating, lower each tag's bias by this times log(training count); training does not see it \
    (logit adjustment, Menon et al., 2021): frequent tags give way to rare ones"""
    metric: Literal["normal", "identity", "none"] = "normal"
    """how the metric matrix M begins: normal is random, identity compares latents as they are; none: there \
    is no M"""
    image_tower: Literal["deep", "linear"] = "deep"
    """linear: an image latent is one matrix times the features, as in WSABIE (Weston et al., 2011)"""
    tag_tower: Literal["deep", "none"] = "deep"
    """none: tag embeddings are the latents, as in WSABIE"""
    max_norm: float = 0.0
    """largest norm of a tag embedding and of a column of the linear image map, enforced after each step \
    (WSABIE); 0: no limit"""
    power: float = 1.0
    """replace each feature x by sign(x)|x|^power first; 0.5 suits histograms (Perronnin et al., 2010); \
    -1: 0.5 where no feature is negative, else 1"""
    power_blocks: list[tuple[int, float]] = field(default_factory=list)
    """D and power of each of several features columns, in the place of model.power; empty: follows from \
    the data, where model.power is -1 and some of the columns alone have negative values"""
    standardise: bool = True
    """subtract the mean and divide by the standard deviation of each training feature"""
    input_dropout: float = 0.0
    """share of input features dropped in training; -1: by the size of the data"""
    input_noise: float = 0.0
    """standard deviation of Gaussian noise added to standardised features in training; -1: by the size of \
    the data"""
    dropout: float = 0.0
    """share of hidden units dropped in training; -1: by the size of the data"""
    embedding_std: float = 1.0
    """standard deviation of initial tag embeddings"""
    start: Literal["torch", "centred", "shallow"] = "torch"
    """first weights. torch: torch's own. centred: for sigmoid in both layers and metric normal; sums of \
    each layer centred, M orthogonal to the latents' mean (Glorot and Bengio, 2010; LeCun et al., 1998). \
    shallow: with linear_path; the deep path of a tower begins at 0"""

    def __post_init__(self) -> None:
        for name in ("tag_dim", "tag_hidden", "latent"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must be 1 or more")
        if self.image_hidden < 0:
            raise ValueError(
                f"model.image_hidden is {self.image_hidden}; it must be 0 (auto) or more"
            )
        if self.tag_tower == "none":
            self.tag_dim = self.latent  # one size is given, not two that must agree
        if self.start == "centred" and not self._logistic:
            raise ValueError(
                "model.start centred needs two deep towers with model.activation sigmoid, "
                "model.latent_activation true, model.linear_path false and model.metric normal; "
                "change these, or give model.start torch"
            )
        if self.start == "shallow" and not self.linear_path:
            raise ValueError("model.start shallow needs model.linear_path true")
        if self.max_norm < 0:
            raise ValueError(f"model.max_norm is {self.max_norm}; it must be 0 or more")
        if not 0 < self.power <= 1 and self.power != AUTO:
            raise ValueError(f"model.power is {self.power}; it must be in (0, 1], or -1")
        for dim, power in self.power_blocks:
            if dim < 1 or not 0 < power <= 1:
                raise ValueError(
                    f"model.power_blocks has D {dim} with power {power}; D must be 1 or more, a power in "
                    "(0, 1]"
                )
        for name in ("input_dropout", "dropout"):
            if not (0 <= getattr(self, name) < 1 or getattr(self, name) == AUTO):
                raise ValueError(
                    f"model.{name} is {getattr(self, name)}; it must be in [0, 1), or -1"
                )

    @property
    def _logistic(self) -> bool:
        """Whether the model is Eq 1-4 with a logistic f, which is what `start` centred knows."""
        deep = self.image_tower == "deep" and self.tag_tower == "deep" and not self.linear_path
        sigmoid = self.activation == "sigmoid" and self.latent_activation
        return deep and sigmoid and self.metric == "normal"

    def hidden_for(self, image_dim: int) -> int:
        """Hidden units of the image tower."""
        return self.image_hidden or (2048 if image_dim >= 2048 else 1024)


def prior_bias(count_T: Tensor, config: ModelConfig) -> Tensor:
    """float32 ``[T]``: ``-tag_prior log(count)``, the prior in each tag's bias; count 0 is taken as 1."""
    return -config.tag_prior * count_T.clamp(min=1).double().log().float()


def signed_power(value: Tensor, power: float) -> Tensor:
    """``sign(x) |x|^power``, elementwise (Perronnin et al., 2010); with power 1 the same tensor."""
    if power == 1.0:
        return value
    size = value.abs()
    return torch.copysign(size.sqrt() if power == 0.5 else size.pow(power), value)


def blocks_power(value_BD: Tensor, config: ModelConfig) -> Tensor:
    """``signed_power`` with each features column's own power, where they have one."""
    if not config.power_blocks:
        return signed_power(value_BD, config.power)
    parts = value_BD.split([dim for dim, _ in config.power_blocks], dim=1)
    powers = (power for _, power in config.power_blocks)
    return torch.cat([signed_power(*part) for part in zip(parts, powers, strict=True)], dim=1)


class Tower(nn.Module):
    """``f(W2 f(W1 x + b1) + b2)`` (Eq 1-2), with the optional parts of ``ModelConfig``."""

    def __init__(self, inputs: int, hidden: int, latent: int, config: ModelConfig) -> None:
        super().__init__()
        activation = _ACTIVATIONS[config.activation]
        layers: list[nn.Module] = [nn.Linear(inputs, hidden)]
        if config.layer_norm:
            layers.append(nn.LayerNorm(hidden))
        layers += [activation(), nn.Dropout(config.dropout), nn.Linear(hidden, latent)]
        if config.latent_activation:
            layers.append(activation())
        self.deep = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, latent, bias=False) if config.linear_path else None

    def forward(self, input_NI: Tensor) -> Tensor:
        latent_NL = self.deep(input_NI)
        return latent_NL if self.linear is None else latent_NL + self.linear(input_NI)


class DREL(nn.Module):
    """The model without the tag-embedding table, whose rows are kept apart (``TagEmbedding``).

    A score is ``s(i, t) = scale * y_t^T M x_i + bias_t`` (Eq 3-4; scale 1 and bias 0 as printed).
    M is applied to the images or to the tags, whichever are fewer: exactly one of ``encode_images`` and
    ``encode_tags`` must be called with ``with_metric``.

    Args:
        image_dim: D.
        config: sizes and parts.
        mean_D, std_D: statistics of the training features after ``signed_power``; None: 0 and 1.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(
        self,
        image_dim: int,
        config: ModelConfig,
        mean_D: Tensor | None = None,
        std_D: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_dim = image_dim
        widths = [dim for dim, _ in config.power_blocks]
        if widths and sum(widths) != image_dim:
            raise ValueError(
                f"model.power_blocks has D {widths}, which do not add up to {image_dim}"
            )
        use = config.standardise
        mean = mean_D.float() if use and mean_D is not None else torch.zeros(image_dim)
        std = std_D.float() if use and std_D is not None else torch.ones(image_dim)
        self.register_buffer("mean_D", mean.clone())
        self.register_buffer("std_D", std.clone())
        self.image_tower: nn.Module
        if config.image_tower == "linear":
            self.image_tower = nn.Linear(image_dim, config.latent, bias=False)
        else:
            self.image_tower = Tower(image_dim, config.hidden_for(image_dim), config.latent, config)
        self.tag_tower: nn.Module = nn.Identity()
        if config.tag_tower == "deep":
            self.tag_tower = Tower(config.tag_dim, config.tag_hidden, config.latent, config)
        self.metric_LL: nn.Parameter | None = None
        if config.metric == "identity":
            self.metric_LL = nn.Parameter(torch.eye(config.latent))
        elif config.metric == "normal":
            self.metric_LL = nn.Parameter(torch.randn(config.latent, config.latent) / config.latent)
        # math.log: on "meta", where models are loaded, torch's own imports its compiler, which takes seconds.
        self.log_scale = (
            nn.Parameter(torch.tensor(math.log(config.scale))) if config.normalise else None
        )
        self.bias_head = nn.Linear(config.tag_dim, 1, bias=False) if config.tag_bias else None
        if self.bias_head is not None:
            nn.init.zeros_(self.bias_head.weight)
        if config.start == "centred":
            assert isinstance(self.image_tower, Tower) and isinstance(self.tag_tower, Tower)
            assert self.metric_LL is not None
            start_centred(self.image_tower.deep, self.tag_tower.deep, self.metric_LL)
        if config.start == "shallow":
            for tower in (self.image_tower, self.tag_tower):
                if isinstance(tower, Tower):
                    start_shallow(tower.deep)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For an optimiser: the weights, then scale and bias head, which weight decay leaves alone.

        A temperature that decays cannot become as high as clean data need.
        """
        free = [p for p in (self.log_scale,) if p is not None]
        if self.bias_head is not None:
            free += self.bias_head.parameters()
        kept = {id(p) for p in free}
        weights = [p for p in self.parameters() if id(p) not in kept]
        return [{"params": weights}, *([{"params": free, "weight_decay": 0.0}] if free else [])]

    def standardised(self, features_BD: Tensor) -> Tensor:
        """``[B, D]``: ``(signed_power(features) - mean) / std``."""
        input_BD = blocks_power(features_BD.to(self.mean_D.dtype), self.config)
        return (input_BD - self.mean_D).div_(self.std_D)  # in place: features need no gradient

    def check_size(self, features_BD: Tensor) -> None:
        """Raises:
        ValueError: the features are no ``[B, D]``.
        """
        if features_BD.dim() != 2 or features_BD.shape[1] != self.image_dim:
            raise ValueError(
                f"features are {tuple(features_BD.shape)}; this model takes [B, {self.image_dim}]"
            )

    def encode_images(self, features_BD: Tensor, *, with_metric: bool) -> Tensor:
        """Latents ``[B, L]`` of raw features ``[B, D]``, with M applied where asked (Eq 1, 3).

        Raises:
            ValueError: the features have another size.
        """
        self.check_size(features_BD)
        input_BD = self.standardised(features_BD)
        if self.training and self.config.input_noise:
            input_BD = torch.addcmul(
                input_BD, torch.randn_like(input_BD), input_BD.new_tensor(self.config.input_noise)
            )
        if self.training and self.config.input_dropout:
            input_BD = F.dropout(input_BD, self.config.input_dropout)
        image_BL = self.image_tower(input_BD)
        if self.config.normalise:
            image_BL = unit_rows(image_BL)
        if with_metric and self.metric_LL is not None:
            image_BL = image_BL @ self.metric_LL.T
        return image_BL

    def encode_tags(self, embedding_PE: Tensor, *, with_metric: bool) -> Tensor:
        """``[P, L + 1]`` of embeddings ``[P, E]``: scaled latents, then the bias (Eq 2, 3)."""
        tag_PL = self.tag_tower(embedding_PE)
        if self.config.normalise:
            tag_PL = unit_rows(tag_PL)
        if with_metric and self.metric_LL is not None:
            tag_PL = tag_PL @ self.metric_LL
        if self.log_scale is not None:
            tag_PL = tag_PL * self.log_scale.exp()
        if self.bias_head is None:
            bias_P1 = tag_PL.new_zeros(len(tag_PL), 1)
        else:
            bias_P1 = self.bias_head(embedding_PE).to(tag_PL.dtype)
        return torch.cat([tag_PL, bias_P1], dim=1)

    @torch.no_grad()
    def limit_norms(self) -> None:
        """Scale columns of a linear image map down to ``max_norm`` (Weston et al., 2011, Eq 3)."""
        if self.config.max_norm and isinstance(self.image_tower, nn.Linear):
            weight_LD = self.image_tower.weight
            weight_LD.copy_(weight_LD.renorm(2, 1, self.config.max_norm))

    @staticmethod
    def score(image_BL: Tensor, tag_PL1: Tensor) -> Tensor:
        """``[B, P]`` scores of encoded images and tags (Eq 4)."""
        return torch.addmm(tag_PL1[:, -1], image_BL, tag_PL1[:, :-1].T)

    def to_dict(self) -> dict[str, Any]:
        return {"image_dim": self.image_dim, **asdict(self.config)}


def init_embedding_rows(tag_ids: Tensor, config: ModelConfig, seed: int) -> Tensor:
    """Normal random rows ``[len(tag_ids), E]`` that depend on (seed, tag id) alone.

    A tag therefore has the same first row at every world size, and in a table that grows later. The numbers
    come from a counter-based hash (the splitmix64 finaliser, Steele et al., 2014) and the Box-Muller
    transform.
    """
    dim = config.tag_dim
    rows = torch.empty(len(tag_ids), dim)
    block = 2048  # the int64 counters of a block stay in cache, and out of the peak memory
    for start in range(0, len(tag_ids), block):
        tag_n = tag_ids[start : start + block]
        counter_nE = (tag_n[:, None] * dim + torch.arange(dim)) * 2
        radius, angle = _uniform(counter_nE, seed), _uniform(counter_nE + 1, seed)
        rows[start : start + block] = (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()
    return rows.mul_(config.embedding_std)


def _uniform(counter: Tensor, seed: int) -> Tensor:
    """splitmix64 of int64 counters, as float32 in (0, 1). int64 wraps around as uint64 does."""

    def logical_shift(value: Tensor, bits: int) -> Tensor:
        return (value >> bits) & ((1 << (64 - bits)) - 1)

    state = (counter + seed * 1_000_003 + 1) * -7046029254386353131  # 0x9E3779B97F4A7C15
    state = (state ^ logical_shift(state, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    state = (state ^ logical_shift(state, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    state = state ^ logical_shift(state, 31)
    return (logical_shift(state, 40).float() + 0.5) / (1 << 24)
