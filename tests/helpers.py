"""What several test files build and compare with: encoders, files, photos, recipes and tokens."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from simpool_viz import errors, load_checkpoint
from simpool_viz.batch.preparing import Prepared
from simpool_viz.capture import kernels as fused
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.checkpoints.formats.timm import encoder_from_timm
from simpool_viz.cli.main import main
from simpool_viz.images import fit, preprocess, read_picture
from simpool_viz.maps import registry
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import Pooling, Tokens, create_pooling
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import Recording
from simpool_viz.scores.references import Reference
from simpool_viz.training.recipe import Recipe, Stage
from tests import made_files as made
from tests.oracles import attention
from tests.oracles import pooling as pooling_oracle
from tests.photos import CLASSES

# Every kind of error, and what they have in common.
KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.SimpoolError) and kind.__module__ == errors.__name__
]
BACKBONE = {"channels": (8, 8, 16, 16), "stem_type": "deep", "stem_width": 8, "output_stride": 16}


def small_spec(pooling: str = "simpool") -> EncoderSpec:
    """A ResNet-18 of 8 to 16 channels and stride 8."""
    return EncoderSpec("resnet18", pooling, 3, dict(BACKBONE), False, {"gamma": 2.0} if pooling == "simpool" else {})


def small_resnet(pooling: str = "simpool", name: str = "", seed: int = 0) -> Encoder:
    """An encoder of `small_spec` with random weights, whose maps are far from uniform."""
    torch.manual_seed(seed)
    name = name or f"small_{pooling}"
    encoder = small_spec(pooling).build(Facts(name, name.replace("_", " "), 64, classes=CLASSES, source="made up"))
    for key, parameter in encoder.named_parameters():
        if key.startswith("pooling.w"):
            parameter.data.mul_(4)
    return encoder.eval().requires_grad_(False)


def save_small(folder: Path, pooling: str = "simpool", name: str = "", seed: int = 0) -> Path:
    """A checkpoint folder of a `small_resnet`."""
    save_bundle(folder, small_resnet(pooling, name, seed), small_spec(pooling), "# made up\n")
    return folder


def make_photo(width: int = 91, height: int = 60, seed: int = 0) -> np.ndarray:
    """A noisy picture (H, W, 3) with a bright disc right of its middle, the object of `make_mask_file`."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(90, size=(height, width, 3), dtype=np.uint8)
    rgb[disc(width, height)] = (230, 200, 40)
    return rgb


def disc(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


LETTERS = tuple("abcde")  # the classes of `small_vit`


def small_vit(pooling: str = "cls", inside: str = "", seed: int = 0, **options: object) -> Encoder:
    torch.manual_seed(seed)
    kwargs = {"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 6}
    kwargs |= {} if pooling == "cls" else {"class_token": False, "global_pool": "avg", "fc_norm": False}
    spec = EncoderSpec(
        "vit_tiny_patch16_224", pooling, 5, kwargs, pooling_options=dict(options), norm="none", inside=inside
    )
    encoder = spec.build(Facts(f"small_{pooling}{inside}", f"small {pooling}", 64, classes=LETTERS))
    for name, parameter in encoder.named_parameters():
        if "qkv" in name or name.startswith("head"):
            parameter.data.mul_(12)
    return encoder.eval().requires_grad_(False)


SCENE_CLASSES = ("sky", "road", "car", "tree", "sign")


def dense_spec(**changes: Any) -> EncoderSpec:
    kwargs = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 6, "reg_tokens": 3}
    return dataclasses.replace(EncoderSpec("vit_tiny_patch16_224", "cls", 5, kwargs, dense=True), **changes)


def dense(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = dense_spec(**changes).build(Facts("dense", "Dense", 64, classes=SCENE_CLASSES))
    for name, parameter in encoder.named_parameters():
        if "qkv" in name or name.startswith("head"):
            parameter.data.mul_(2 if changes.get("inside") == "life" and "qkv" in name else 12)
    return encoder.eval().requires_grad_(False)


def token_scores(recording: Recording) -> np.ndarray:
    encoder, tokens = recording.encoder, recording.tokens.patches[0]
    return (tokens @ encoder.head.weight.T + encoder.head.bias).double().numpy()


def flat_rows(weights: np.ndarray) -> np.ndarray:
    return weights.reshape(len(weights), -1).astype(np.float64)


def noisy_photo(height: int = 60, width: int = 91) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def prepared(key: str, grid: tuple[int, int]) -> Prepared:
    one = prepare_shape(grid)
    return Prepared(key, one[0], one[1], one[2])


def prepare_shape(grid: tuple[int, int]) -> tuple[Any, Any, Any]:
    from simpool_viz.images import Geometry

    geometry = Geometry((grid[1] * 8, grid[0] * 8), grid, 8)
    pixels = make_photo(*geometry.input_size)
    return pixels, (geometry,), (pixels,)


SET_SIZES = [(91, 60), (64, 100), (80, 50), (50, 81)]


def make_mask_set(folder: Path) -> Path:
    """Photos of discs with their masks; one mask of another size and format than its photo."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i, (width, height) in enumerate(SET_SIZES):
        Image.fromarray(make_photo(width, height, i)).save(folder / "images" / f"{i}.jpg")
        scale, suffix = (2, "bmp") if i == 2 else (1, "png")
        Image.fromarray((255 * disc(scale * width, scale * height)).astype(np.uint8)).save(
            folder / "masks" / f"{i}.{suffix}"
        )
    return folder


def table_column(table: str, name: str) -> dict[str, str]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {row[0]: row[rows[0].index(name)] for row in rows[2:]}


PHOTO = np.random.default_rng(0).integers(256, size=(100, 150, 3), dtype=np.uint8)


def random_vit(
    pooling: str = "token", classes: int = 7, registers: int = 2, seed: int = 0, **pooling_options: object
) -> Encoder:
    """A small ViT with registers, and a class token where the pooling reads one."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    has_class = pooling == "token"
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=classes, reg_tokens=registers,
        class_token=has_class, global_pool="token" if has_class else "avg", dynamic_img_size=True, init_values=None,
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    facts = Facts("small_vit", "small ViT", 96, classes=("tench", "church", "lamp", "okapi", "cup", "ant", "emu"))
    if has_class or pooling == "avg":
        return encoder_from_timm(model, facts).eval().requires_grad_(False)
    model.norm, norm = nn.Identity(), nn.LayerNorm(24)
    encoder = Encoder(
        model, create_pooling(pooling, 24, **pooling_options), norm=norm, head=nn.Linear(24, classes), facts=facts
    )
    return encoder.eval().requires_grad_(False)


def random_cnn(pooling: str, **options: object) -> Encoder:
    torch.manual_seed(0)
    kwargs = {"channels": (8, 8, 16, 16), "stem_type": "deep", "stem_width": 8, "output_stride": 16}
    spec = EncoderSpec("resnet18", pooling, 5, kwargs, False, options)
    return (
        spec.build(Facts("small_cnn", "small CNN", 64, classes=("a", "b", "c", "d", "e"))).eval().requires_grad_(False)
    )


def eager_attention_of(recording: Recording) -> list[np.ndarray]:
    encoder = recording.encoder
    geometry = fit(recording.picture.size, 96, encoder.stride)
    images = preprocess(recording.picture, geometry, encoder.facts.mean, encoder.facts.std)[None]
    return [a[0].numpy() for a in attention.eager_attention(encoder, images)]


def to_grids(recording: Recording, rows: np.ndarray) -> np.ndarray:
    """Rows over P + N tokens to grids, prefixes dropped."""
    return rows[:, recording.encoder.num_prefix_tokens :].reshape(-1, *recording.geometry.grid)


def assert_close(found: AttentionMap, expected: np.ndarray) -> None:
    assert (
        found.weights.dtype == np.float32
        and found.weights.shape == expected.shape
        and found.weights.shape[1] != found.weights.shape[2]
    )
    np.testing.assert_allclose(found.weights, expected, atol=1e-5)


SMALL_PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))


def bare_cnn(pooling: str = "gap", **options: Any) -> Encoder:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet18", num_classes=0, channels=[8, 8, 16, 24], zero_init_last=False, **options)
    extra: dict[str, Any] = {"gamma": 2.0} if pooling == "simpool" else {}
    return Encoder(
        backbone, create_pooling(pooling, 24, **extra), head=nn.Linear(24, 5), facts=Facts("cnn", size=64)
    ).eval()


def bare_vit(tag: str = "vit_tiny_patch16_224", pooling: str = "cls", **options: Any) -> Encoder:
    torch.manual_seed(0)
    kwargs = {} if tag.startswith("beit") else {"dynamic_img_size": True}
    backbone = timm.create_model(
        tag, num_classes=0, embed_dim=24, depth=3, num_heads=3, img_size=64, patch_size=8, **kwargs, **options
    )
    return Encoder(backbone, create_pooling(pooling, 24), head=nn.Linear(24, 5), facts=Facts("vit", size=64)).eval()


def image_of(recording: Recording) -> Tensor:
    facts = recording.encoder.facts
    return preprocess(recording.picture, recording.geometry, facts.mean, facts.std)[None]


def attention_and_lse(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    logits = query.double() @ key.double().transpose(2, 3) * scale + (0 if bias is None else bias.double())
    return logits.softmax(-1) @ value.double(), logits.logsumexp(-1)


class Operator:
    """Stands for a CUDA operator: checks what such an operator asks for, computes on the CPU, and pads what it gives as
    they do."""

    def __init__(self, takes_bias: bool, padding: int) -> None:
        self.takes_bias, self.padding, self.calls = takes_bias, padding, 0

    def default(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, scale: float, **options: Any
    ) -> tuple[Any, ...]:
        self.calls += 1
        for x in (query, key, value):
            assert x.shape[-1] == query.shape[-1] and x.shape[-1] % 8 == 0 and x.stride(-1) == 1
        bias = args[0] if args else None
        if self.takes_bias:
            assert options == {"compute_log_sumexp": True} and len(args) == 1
        else:
            assert not args and not options and query.dtype in (torch.float16, torch.bfloat16)
        if bias is not None:
            assert bias.dtype == query.dtype and bias.shape == (*query.shape[:3], key.shape[2])
            assert all(s % 16 == 0 for s in bias.stride()[:3]) and bias.stride(3) == 1
        out, lse = attention_and_lse(query, key, value, bias, scale)
        rest = lse.new_full((*lse.shape[:2], -lse.shape[2] % self.padding), float("inf"))
        return out.to(query.dtype), torch.cat([lse, rest], 2).float(), None, None


def put_operator(monkeypatch: pytest.MonkeyPatch, name: str, operator: Operator) -> None:
    class Aten:
        pass

    setattr(Aten, name, operator)
    monkeypatch.setattr(fused.torch.ops, "aten", Aten)


TAGS = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "vit_base_patch16_siglip_224",
]


def random_timm(tag: str, **options: object) -> Encoder:
    torch.manual_seed(0)
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, depth=2, **options)
    for (
        name,
        parameter,
    ) in encoder.named_parameters():  # relative position tables start at zero, which would hide their effect
        if "relative_position_bias_table" in name:
            parameter.copy_(torch.randn_like(parameter))
    return encoder


def noisy_photos(count: int, size: tuple[int, int] = (150, 100), seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(256, size=(size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


def inputs_of(encoder: Encoder, pictures: list[np.ndarray], size: int) -> torch.Tensor:
    read = [read_picture(p) for p in pictures]
    return torch.stack(
        [preprocess(p, fit(p.size, size, encoder.stride), encoder.facts.mean, encoder.facts.std) for p in read]
    )


INPUT_SIZES = [(224, 224), (160, 256)]


State = dict[str, Tensor]


def random_images(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def double(state: State) -> State:
    return {k: v.double() for k, v in state.items()}


def save_weights(folder: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def pooling_weights(encoder: Encoder, size: tuple[int, int]) -> Tensor:
    """The pooling's weights (N,) of the encoder for `images`, in float64."""
    with torch.inference_mode():
        weights = encoder(random_images(*size)).pooled.weights
    assert weights is not None
    return weights[0, 0].double()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape and (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.max()))
    assert wanted.max() > 1.5 / len(wanted), "a map far from uniform, or nothing is proven"


def simpool_vit() -> dict[str, Any]:
    return made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool.", beta=True), gamma=None)


TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def vit_spec(pooling: str = "cls", **changes: Any) -> EncoderSpec:
    return dataclasses.replace(EncoderSpec("vit_tiny_patch16_224", pooling, 3, dict(TINY_VIT)), **changes)


def vit_recipe(data: Path, spec: EncoderSpec, photos: int = 32 * 4, **changes: Any) -> Recipe:
    stage = Stage(32, photos, 0.004, warmup=32)
    return dataclasses.replace(
        Recipe("mine", "Mine", str(data), spec, (stage,), 48, batch_size=32, precision="no"), **changes
    )


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write_recipe(folder: Path, name: str = "mine", **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "name": name,
        "title": "Mine",
        "data": str(folder),
        "encoder": {
            "backbone": "resnet18",
            "pooling": "simpool",
            "num_classes": 3,
            "backbone_kwargs": {k: list(v) if isinstance(v, tuple) else v for k, v in BACKBONE.items()},
            "stem_pool": False,
            "pooling_options": {"gamma": 2.0},
        },
        "stages": [{"size": 32, "photos": 128, "lr": 0.004, "warmup": 64}],
        "map_size": 48,
        "batch_size": 32,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder / f"{name}.yaml"


def logged_losses(folder: Path, stage: int = 1) -> list[float]:
    with (folder / f"log_stage{stage}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def short_recipe(shapes: Path, **changes: Any) -> Recipe:
    stage = Stage(32, 96, 0.004, warmup=32)
    recipe = Recipe("short", "Short", str(shapes), small_spec(), (stage,), 48, batch_size=32)
    return dataclasses.replace(recipe, **changes)


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, device="cpu").state_dict()


STEM: dict[str, Any] = {"backbone": "resnet18", "backbone_kwargs": dict(BACKBONE), "stem_pool": False, "blocks": 5}


SMALL_VIT = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}


def hybrid(pooling: str = "cls", **changes: Any) -> EncoderSpec:
    return dataclasses.replace(
        EncoderSpec("vit_tiny_patch16_224", pooling, 3, dict(SMALL_VIT), stem=dict(STEM)), **changes
    )


CHANNELS, GRID = 12, (3, 5)


def make_tokens(batch: int = 3, prefix: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    sequence = torch.randn(batch, prefix + GRID[0] * GRID[1], CHANNELS, generator=generator, dtype=torch.float64) * 1.5
    return Tokens.from_sequence(sequence.to(dtype), GRID, prefix)


def make_pooling(
    name: str, dtype: torch.dtype = torch.float64, dim: int = CHANNELS, seed: int = 1, **options: object
) -> Pooling:
    """A pooling with parameters and running statistics away from their initial values."""
    torch.manual_seed(seed)
    pooling = create_pooling(name, dim, **options).to(dtype).eval()
    statistics = [buffer for key, buffer in pooling.named_buffers() if key.endswith(("running_mean", "running_var"))]
    with torch.no_grad():
        for tensor in [*pooling.parameters(), *statistics]:
            tensor.add_(torch.rand_like(tensor) * 0.5)
    return pooling


def each_picture(tokens: Tokens) -> list[np.ndarray]:
    return [x.numpy() for x in tokens.patches]


def assert_vectors(found: torch.Tensor, expected: list[np.ndarray], tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), rtol=tolerance, atol=tolerance)


ROW = 1e-10  # how close a row is to its reference


def state_of(pooling: Pooling) -> pooling_oracle.State:
    return {key: tensor.detach().numpy().copy() for key, tensor in pooling.state_dict().items()}


def assert_row(pooling: Pooling, tokens: Tokens, results: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The vectors and the weights, (N,) or (M, N), of every picture."""
    pooled = pooling(tokens)
    assert pooled.weights is not None
    assert_vectors(pooled.vector, [vector for vector, _ in results], ROW)
    assert_vectors(pooled.weights, [np.atleast_2d(weights) for _, weights in results], ROW)


def plant_bug(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a registered map divide by zero."""

    def divide(recording: Any) -> Any:
        return 1 // 0

    method = registry.map_methods()[name]
    monkeypatch.setitem(registry._METHODS, name, dataclasses.replace(method, make=divide))


def one_object(shape: tuple[int, int] = (90, 140)) -> Reference:
    objects = np.zeros(shape, bool)
    objects[40:50, 60:80] = True
    return Reference(objects, np.zeros(shape, bool))


def change_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """What changes config.json in a checkpoint folder."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


@contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, at: int, stage: int = 1) -> Iterator[None]:
    """A context whose training ends by Ctrl-C at step `at` of a stage."""
    from simpool_viz.training.step import Step

    step = Step.__call__

    def breaking(self: Step, batch: Any, index: Any, stream: Any) -> Any:
        if (self.number, stream.step) == (stage, at):
            raise KeyboardInterrupt
        return step(self, batch, index, stream)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Step, "__call__", breaking)
        yield
