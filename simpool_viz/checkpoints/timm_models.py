"""Checkpoints named "timm:<tag>": any supported timm model, with its own pooling, norm, head and preprocessing."""

from __future__ import annotations

from typing import Any

from simpool_viz.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Facts, create_backbone, encoder_from_timm


def load_timm(tag: str, *, pretrained: bool = True, **kwargs: Any) -> Encoder:
    """A timm model as an encoder.

    Args:
        tag: as in `timm.create_model`.
        pretrained: fetch its weights from the Hugging Face hub (or its cache); random weights otherwise.
        kwargs: for `timm.create_model`, such as depth.

    Raises:
        ValueError: an unknown tag, an unsupported family, or weights that cannot be fetched.
    """
    try:
        model = create_backbone(tag, pretrained=pretrained, **kwargs)
    except ValueError:
        raise
    except TypeError as error:
        raise ValueError(f"timm:{tag} does not take these options: {', '.join(kwargs)} ({error})") from error
    except Exception as error:  # the hub client's own errors, of several libraries
        if not pretrained:
            raise
        told = f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}"
        raise ValueError(
            f"the weights of timm:{tag} could not be fetched from the Hugging Face hub ({told}); "
            "check the network, or choose a bundled checkpoint"
        ) from error
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {}) or {}
    facts = Facts(
        name=f"timm:{tag}",
        title=tag,
        size=int(config.get("input_size", (3, 224, 224))[-1]),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
        classes=_imagenet_classes(int(getattr(model, "num_classes", 0))),
        source=f"timm {config.get('hf_hub_id') or tag}" + ("" if pretrained else ", random weights"),
        license=str(config.get("license") or "see the model card"),
    )
    return encoder_from_timm(model, facts).eval().requires_grad_(False)


def _imagenet_classes(count: int) -> tuple[str, ...]:
    if count != 1000:
        return ()
    from timm.data import ImageNetInfo

    return tuple(name.split(",")[0] for name in ImageNetInfo().label_descriptions())
