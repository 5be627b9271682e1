"""Finds a model inside the module of a training, by the names of its first layers, and removes their common prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from simpool_viz.checkpoints.formats import torchvision_cnns
from simpool_viz.errors import CheckpointError

# Names that a known model has side by side; what stands before all of them is a prefix.
SIGNS = (
    ("patch_embed.proj.weight",),
    ("conv1.weight", "layer1.0.conv1.weight"),
    ("downsample_layers.0.0.weight",),
    ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
    ("embeddings.patch_embeddings.projection.weight",),
    ("embeddings.patch_embeddings.weight",),
    ("embeddings.patch_embedding.weight",),
    ("conv_proj.weight", "class_token"),
    ("features.0.0.weight", "features.1.0.layer_scale"),
    ("embedding.kernel",),
    ("class_embedding", "conv1.weight", "transformer.resblocks.0.ln_1.weight"),
    ("0.weight", "1.running_mean", "4.0.conv1.weight"),
    *torchvision_cnns.SIGNS.values(),
)
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")
# Of several copies of a model, the first of these is taken, as their papers evaluate them; they may be parts
# of words, as in teacher_backbone.
FIRST = ("teacher", "ema", "swa", "encoder_q", "base_encoder", "online", "student")
# Copies beside the model itself, which is taken.
BESIDE = ("encoder_k", "momentum_encoder", "momentum")
COPIES = (*FIRST, *BESIDE)
# Of contrastive trainings: what follows the backbone is a projection, not a classifier.
CONTRASTIVE = ("encoder_q", "encoder_k", "base_encoder", "momentum_encoder", "momentum", "online")
# Names of classifiers: timm's, torchvision's, transformers' and those of LightningModules.
HEADS = (
    r"(head|head\.fc|heads|heads\.head|fc|classifier|cls_head|linear|linear_head|cls_classifier|visual_projection"
    r"|online_classifier|online_classifier\.linear)"
)
TRAINING = {
    r"(?:.*\.)?\w*head\.(mlp\.\d|last_layer\.)": "projection head of the self-supervised training",
    r"(\w+_)?(dino_head|ibot_head|projection_head|prediction_head|projector|proj_head|predictor|prototypes)(_\w+)?\b": (
        "projection head of the self-supervised training"
    ),
    r"(student|teacher|online|target)_head\b": "projection head of the self-supervised training",
    r"decoder\.(cls_emb$|proj_dec\.|proj_patch$|proj_classes$|decoder_norm\.|mask_norm\.|blocks\.)": (
        "Segmenter's mask transformer, which mixes tokens, so that no token has scores of its own"
    ),
    r"decoder": "decoder of the masked training",
    r"(criterion|loss|\w*_loss|loss_fn|\w*metrics?|\w*_?acc(uracy)?\d*|mixup|cutmix)\b": "part of a loss or a metric",
    r"queue|queue_ptr|center$": "memory of the contrastive training",
    r"(prompt_encoder|mask_decoder)\.|pixel_(mean|std)$": "the part of SAM that makes masks",
}
# What stands beside the part for pictures in a model of pictures and texts.
TEXTS = (
    r"(text|text_model|transformer|token_embedding|ln_final)\.|(text_projection|positional_embedding)\b"
    r"|logit_(scale|bias)$|attn_mask$|(input_resolution|context_length|vocab_size)$"
)
SEVERAL_LAYERS = "a head of several layers, since no tensor says what is between them"


def unwrap(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Remove what compilation and distributed training put into names.

    Args:
        state: tensors by name.

    Returns:
        The tensors by their names without it, and what was removed, for the report.
    """
    inside = [w for w in WRAPPERS[:-1] if any(w in key for key in state)]
    plain = {_without(key, inside): value for key, value in state.items()}
    removed = list(inside)
    while plain and all(key.startswith("module.") for key in plain):
        plain = {key.removeprefix("module."): value for key, value in plain.items()}
        removed.append("module.")
    if len(plain) != len(state):
        return dict(state), ""
    return plain, ", ".join(dict.fromkeys(removed))


def _without(key: str, parts: list[str]) -> str:
    for part in parts:
        key = key.replace(part, "")
    return key


def prefixes_of(state: Mapping[str, Tensor]) -> list[str]:
    """The prefixes before which known models stand in a state dict, the one to take first.

    Args:
        state: tensors by name.
    """
    found: dict[str, None] = {}
    for first, *others in SIGNS:
        for key in state:
            prefix = key.removesuffix(first)
            if (
                key.endswith(first)
                and (not prefix or prefix.endswith("."))
                and all(prefix + o in state for o in others)
            ):
                found[prefix] = None
    inner = [p for p in found if p and not any(q != p and p.startswith(q) for q in found)]
    return sorted(found if "" in found else inner, key=rank)


def _words(prefix: str) -> set[str]:
    """The words between dots, and those between underscores in them."""
    whole = prefix.split(".")
    return {*whole, *(part for word in whole for part in word.split("_"))}


def rank(prefix: str) -> tuple[int, str]:
    """The place of a prefix: no prefix, those of `FIRST` in their order, the model itself, those of `BESIDE`.

    Args:
        prefix: ends in a point, or is empty.
    """
    words = _words(prefix)
    order = (*FIRST, "", *BESIDE)
    found = next((n for n, copy in enumerate(order) if copy and copy in words), len(FIRST))
    return (found if prefix else -1), prefix


def choose_prefix(prefixes: list[str], which: str, source: str) -> str:
    """The prefix of the model to take.

    Args:
        prefixes: from `prefixes_of`.
        which: a word of it, such as "encoder_k"; "" for the usual one.
        source: name of the file, for errors.

    Raises:
        CheckpointError: there are several, and none is usual or has that word.
    """
    if which:
        named = [prefix for prefix in prefixes if which in prefix.split(".") or which == prefix.rstrip(".")]
        if len(named) == 1:
            return named[0]
    elif len(prefixes) == 1 or (prefixes and rank(prefixes[0])[0] < len(FIRST)):
        return prefixes[0]
    elif [place for prefix in prefixes if (place := rank(prefix)[0]) <= len(FIRST)] == [len(FIRST)]:
        return prefixes[0]  # the model itself, and copies beside it
    listed = ", ".join(prefix.rstrip(".") or "(no prefix)" for prefix in prefixes)
    raise CheckpointError(f"{source} holds several models: name one with weights=, of {listed}")


def take(state: Mapping[str, Tensor], prefix: str, others: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model without its prefix, the classifier beside it, and what is left out, with the reason.

    Args:
        state: tensors by name.
        prefix: of the model.
        others: prefixes of other models in it.
    """
    contrastive = bool(_words(prefix) & set(CONTRASTIVE))
    kept: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for key, value in state.items():
        inside = bool(prefix) and key.startswith(prefix)
        name = key.removeprefix(prefix) if inside else _beside(key, prefix)
        copy = next((other for other in others if other != prefix and other and key.startswith(other)), "")
        reason = next((why for start, why in TRAINING.items() if re.match(start, name)), "")
        beside = prefix and not inside
        if beside and not reason and prefix.startswith("visual.") and re.match(TEXTS, name):
            reason = "the part for texts"
        if copy:
            reason = f"another copy of the model, {copy.rstrip('.')}"
        elif beside and key.split(".")[0] in COPIES and key.split(".")[0] != prefix.split(".")[0]:
            reason = f"another copy of the model, {key.split('.')[0]}"
        elif contrastive and not reason and re.match(HEADS + r"\.|mlp\.", name):
            reason = "projection head of the self-supervised training"
        elif beside and not reason and _words(key.split(".")[0]) & set(COPIES) - {"online"} - _words(prefix):
            reason = f"another copy of the model, {key.split('.')[0]}"
        if reason:
            dropped[key] = reason
        elif name in kept:
            kept[key] = value  # two of one name: the error lists it
        else:
            kept[name] = value
    return kept, dropped


def _beside(key: str, prefix: str) -> str:
    """The name of a tensor beside the model, without the parts that both of them stand in.

    Classifiers of transformers' models for pictures and texts get a name of their own, since they read other tokens
    than those that are trained beside such a model.
    """
    parts = prefix.split(".")[:-1]
    around = next((p for n in range(len(parts) - 1, 0, -1) if key.startswith(p := ".".join(parts[:n]) + ".")), "")
    name = key.removeprefix(around)
    own = parts[-1:] == ["vision_model"] and around == "".join(f"{part}." for part in parts[:-1])
    return f"image_{name}" if own and name.startswith("classifier.") else name


def without_deep_head(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Leave out a head of several linear layers in a row, as of MLPs and of contrastive projections.

    Args:
        state: of a model without its prefix.

    Returns:
        The other tensors, and those of the head, with the reason.
    """
    found = {key: m for key in state if (m := re.fullmatch(rf"{HEADS}\.(\d+)(?:\.\d+)*\.\w+", key))}
    layers = [m[1] for key, m in found.items() if key.endswith(".weight") and state[key].ndim == 2]
    deep = {head for head in layers if layers.count(head) > 1}
    dropped = {key: SEVERAL_LAYERS for key, m in found.items() if m[1] in deep}
    return {key: value for key, value in state.items() if key not in dropped}, dropped


def without_hidden_layer(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Leave out a ViT's layer of pretraining between class token and head, and the head that reads it.

    Args:
        state: of a model without its prefix, by timm's names.

    Returns:
        The other tensors, and these, with the reason.
    """
    hidden = [key for key in state if re.match(r"(heads\.)?pre_logits\.", key)]
    if hidden:
        hidden += [key for key in state if re.fullmatch(r"head\.(weight|bias)", key)]
    dropped = dict.fromkeys(hidden, SEVERAL_LAYERS)
    return {key: value for key, value in state.items() if key not in dropped}, dropped


def with_plain_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a classifier in timm's way: one linear layer of a sequence, as after dropout, and other words for a head.

    Args:
        state: of a model without its prefix.
    """
    found = {key: re.fullmatch(HEADS + r"((?:\.\d+)*)\.(weight|bias)", key) for key in state}
    heads = {m[1] + m[2] for key, m in found.items() if m and m[3] == "weight" and state[key].ndim == 2}
    if len(heads) != 1:
        return state
    (head,) = heads
    if head == "visual_projection":
        return state
    plain = "head.fc" if head.startswith("head.fc") else "fc" if "conv1.weight" in state else "head"
    return {
        f"{plain}.{m[3]}" if (m := found[key]) and m[1] + m[2] == head else key: value for key, value in state.items()
    }
