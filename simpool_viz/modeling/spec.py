"""Builds an encoder from a description: backbone by its timm name, layers inside it, pooling, norm and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, get_type_hints

from pydantic import WrapValidator
from torch import nn
from typing_extensions import NotRequired, TypedDict

from simpool_viz.errors import CheckpointError, OptionError, SimpoolError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.layers.life import insert_life
from simpool_viz.modeling.layers.sar import remove_last_skip
from simpool_viz.modeling.layers.spe import insert_spe
from simpool_viz.modeling.layers.squeeze import CHANNEL_ATTENTIONS
from simpool_viz.modeling.layers.stem import ResidualStem, hybrid_embed
from simpool_viz.modeling.pooling import create_pooling
from simpool_viz.settings import CLOSED, Flag, Natural, Positive, Table, check_arguments, fields_of

SIZES = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "stem_width", "channels", "layers", "depths")

MOST = {"depth": 256, "depths": 256, "layers": 256, "img_size": 4096}  # blocks of a backbone, pixels
WIDEST = 16_384  # channels, and whatever else is a size


class Stem(TypedDict):
    """The table `stem` of an `EncoderSpec`; an empty one stands for no stem.

    Attributes:
        backbone: timm's name of a ResNet.
        blocks: number of its residual blocks.
        backbone_kwargs: for `timm.create_model`.
        stem_pool: False removes its max-pooling.
    """

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    backbone: str
    blocks: Positive
    backbone_kwargs: NotRequired[Table]
    stem_pool: NotRequired[Flag]


@dataclass(frozen=True)
class EncoderSpec:
    """The description of an encoder, as in `config.json` and in recipes.

    Recipes and `config.json` are checked against the annotations; the constructor checks nothing.

    Attributes:
        backbone: name of a timm model.
        pooling: name of a registered pooling.
        num_classes: number of outputs of the head; 0 for no head.
        backbone_kwargs: for `timm.create_model`.
        stem_pool: False removes a ResNet's max-pooling after the stem, which halves its stride.
        pooling_options: for the pooling.
        norm: between pooling and head: "none", "layer" or "batch" (without affine parameters, as is usual in probes).
        inside: layer that is built into the backbone: "" (none), "spe", "se", "cbam", "eca" or "srm" (ResNet), "life"
            or "nosn" (ViT).
        inside_options: for that layer.
        dense: whether the head classifies every token, for segmentation, rather than the pooled vector.
        stem: a `Stem`, whose features are the tokens of a ViT in place of its patches; {} for patches.
    """

    __pydantic_config__ = CLOSED

    backbone: str
    pooling: str
    num_classes: Natural
    backbone_kwargs: Table = field(default_factory=dict)
    stem_pool: Flag = True
    pooling_options: Table = field(default_factory=dict)
    norm: str = "none"
    inside: str = ""
    inside_options: Table = field(default_factory=dict)
    dense: Flag = False
    stem: Annotated[
        dict[str, Any], fields_of(Stem), WrapValidator(lambda given, check: given if given == {} else check(given))
    ] = field(default_factory=dict)

    def build(self, facts: Facts, backbone: nn.Module | None = None) -> Encoder:
        """Build the encoder, with random weights.

        Args:
            facts: name, preprocessing and classes.
            backbone: of `build_backbone` of this spec or one of the same `backbone_key`; made anew where None.

        Raises:
            CheckpointError: the parts do not fit one another, or timm has no such backbone or option.
            OptionError: an option of the backbone, the pooling or the layer inside has the wrong type.
        """
        backbone = self.build_backbone() if backbone is None else backbone
        dim = int(backbone.num_features)  # type: ignore[arg-type]
        pooling = create_pooling(self.pooling, dim, **self.pooling_options)
        width = pooling.out_dim
        norms: dict[str, Callable[[int], nn.Module]] = {
            "none": nn.Identity,
            "layer": partial(nn.LayerNorm, eps=1e-6),
            "batch": partial(nn.BatchNorm1d, affine=False, eps=1e-6),
        }
        if self.norm not in norms:
            raise CheckpointError(f"the norm between pooling and head is one of {', '.join(norms)}, not {self.norm!r}")
        if self.dense and (width != dim or not self.num_classes or self.norm == "batch"):
            raise CheckpointError(
                "a dense head reads tokens: it needs num_classes, a pooling of the backbone's width, and norm none or "
                "layer"
            )
        head = nn.Linear(width, self.num_classes) if self.num_classes else None
        return Encoder(backbone, pooling, norm=norms[self.norm](width), head=head, facts=facts, dense=self.dense)

    def build_backbone(self) -> nn.Module:
        """Build the backbone, with random weights and with what stands inside it.

        Raises:
            CheckpointError: as in `build`.
            OptionError: as in `build`.
        """
        if self.stem and "patch_size" in self.backbone_kwargs:
            raise CheckpointError(
                "a ViT on a stem takes no patch_size, since the stem's own stride makes the tokens; leave it out"
            )
        extra = {"embed_layer": hybrid_embed(_stem(self.stem)), "patch_size": 1} if self.stem else {}
        backbone = _described(self.backbone, self.backbone_kwargs, self.stem_pool, "backbone_kwargs", **extra)
        self._insert(backbone)
        return backbone

    @property
    def backbone_key(self) -> str:
        """What the backbone is made of: equal for specs whose backbones are alike."""
        parts = (self.backbone, self.backbone_kwargs, self.stem_pool, self.stem, self.inside, self.inside_options)
        return repr(parts)

    def _insert(self, backbone: nn.Module) -> None:
        inserts: dict[str, Callable[..., None]] = {"spe": insert_spe, "life": insert_life, "nosn": remove_last_skip}
        inserts |= CHANNEL_ATTENTIONS
        if self.inside and self.inside not in inserts:
            raise CheckpointError(f"inside a backbone goes one of {', '.join(inserts)}, not {self.inside!r}")
        if self.inside:
            check_arguments(inserts[self.inside], self.inside_options, "inside_options.{} is")
            try:
                inserts[self.inside](backbone, **self.inside_options)
            except TypeError as error:
                raise CheckpointError(f"inside_options do not fit {self.inside}: {error}") from error


def _described(tag: str, kwargs: dict[str, Any], stem_pool: bool, key: str, **extra: Any) -> nn.Module:
    """The backbone of a description, which must not use the network or other files. key: of its kwargs, for errors."""
    fetching = [key for key in kwargs if key.startswith("pretrained") or key in ("checkpoint_path", "cache_dir")]
    if fetching:
        raise CheckpointError(f"{key} may not hold {', '.join(fetching)}: weights come from the checkpoint itself")
    if "num_classes" in kwargs:
        raise CheckpointError(f"{key} may not hold num_classes: the head is described beside the backbone")
    check_backbone_options(tag, kwargs, f"{key}.{{}} is")
    try:
        backbone = create_backbone(tag, num_classes=0, **kwargs, **extra)
    except SimpoolError:
        raise
    except Exception as error:  # sizes that contradict one another raise many kinds of errors inside timm
        options = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise CheckpointError(f"{key} do not fit {tag}: {options} ({type(error).__name__}: {error})") from error
    if not stem_pool:
        _remove_stem_pool(backbone)
    return backbone


def _stem(stem: dict[str, Any]) -> ResidualStem:
    resnet = _described(
        stem["backbone"], stem.get("backbone_kwargs", {}), stem.get("stem_pool", True), "stem.backbone_kwargs"
    )
    if type(resnet).__name__ != "ResNet":
        raise CheckpointError(f"a stem is made of a ResNet's blocks, and {stem['backbone']} is none")
    return ResidualStem(resnet, stem["blocks"])


def check_backbone_options(tag: str, options: Mapping[str, Any], form: str) -> None:
    """Check options of a backbone against timm's annotations, and that sizes are positive.

    Args:
        tag: name of a timm model; an unknown one is left to `create_backbone`.
        options: for `timm.create_model`.
        form: beginning of the error's sentence, such as "backbone_kwargs.{} is", where {} is the option's name.

    Raises:
        OptionError: an option of the wrong type, a size below 1 or above all that is known, or an unknown layer.
    """
    import timm

    made = get_type_hints(timm.model_entrypoint(tag)).get("return") if timm.is_model(tag) else None
    if made is None:
        return
    check_arguments(made, options, form)
    for key in (size for size in SIZES if size in options):
        value, most = options[key], MOST.get(key, WIDEST)
        sizes = value if isinstance(value, (list, tuple)) else [value]
        numbers = [size for size in sizes if isinstance(size, (int, float))]
        if any(size < 1 for size in numbers):
            raise OptionError(f"{form.format(key)} at least 1, not {value!r}")
        if any(size > most for size in numbers):
            raise OptionError(f"{form.format(key)} at most {most:,}, not {value!r}")
    for key in ("norm_layer", "act_layer"):
        if isinstance(options.get(key), str) and not _is_layer(key, options[key]):
            raise OptionError(f"{form.format(key)} the name of one of timm's layers, not {options[key]!r}")


def _is_layer(key: str, name: str) -> bool:
    from timm.layers import get_act_layer, get_norm_layer

    try:
        return (get_norm_layer if key == "norm_layer" else get_act_layer)(name) is not None
    except (KeyError, AssertionError):
        return False


def create_backbone(tag: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a timm model that takes pictures of any size.

    Args:
        tag: name of the model.
        pretrained: whether to load timm's weights.
        kwargs: for `timm.create_model`.

    Raises:
        CheckpointError: timm has no such model.
    """
    import timm

    if not timm.is_model(tag):
        raise CheckpointError(
            f"timm {timm.__version__} has no model called {tag!r}; `timm.list_models()` lists those it has"
        )
    try:
        return timm.create_model(tag, pretrained=pretrained, dynamic_img_size=True, **kwargs)
    except TypeError:  # CNNs and BEiT have no such option
        return timm.create_model(tag, pretrained=pretrained, **kwargs)


def _remove_stem_pool(backbone: Any) -> None:
    if not isinstance(getattr(backbone, "maxpool", None), nn.Module):
        raise CheckpointError(
            f"{type(backbone).__name__} has no max-pooling after its stem to remove; leave stem_pool out"
        )
    backbone.maxpool = nn.Identity()
    for stage in backbone.feature_info[1:]:
        stage["reduction"] //= 2
