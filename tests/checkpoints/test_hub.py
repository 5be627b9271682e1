"""The hub, with its client replaced: what is asked of it, what is refused, and the sentences when it is out of
reach."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints import hub as hub_client
from simpool_viz.checkpoints import load as checkpoints
from simpool_viz.checkpoints.hub import split_address
from simpool_viz.checkpoints.load import load_for_visitor, load_offered
from simpool_viz.checkpoints.published import published
from simpool_viz.errors import DownloadError
from tests import made_files as made
from tests.helpers import simpool_vit


class Hub:
    """A hub that holds files in a folder and keeps a log of what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.error = folder, [], None

    def put(self, repository: str, file: str, content: Any) -> None:
        path = self.folder / repository / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content)) if file.endswith(".json") else torch.save(content, path)

    def model_info(self, repository: str, **_: Any) -> Any:
        if self.error:
            raise self.error
        files = [p for p in sorted((self.folder / repository).rglob("*")) if p.is_file()]
        siblings = [
            SimpleNamespace(rfilename=p.relative_to(self.folder / repository).as_posix(), size=p.stat().st_size)
            for p in files
        ]
        return SimpleNamespace(siblings=siblings)

    def download(self, repository: str, file: str, cache_dir: Any = None, token: Any = None, **_: Any) -> str:
        self.log.append((repository, file, cache_dir, token))
        if self.error:
            raise self.error
        source = self.folder / repository / file
        if not source.is_file():
            raise FileNotFoundError(file)
        if cache_dir is None:
            return str(source)
        target = Path(cache_dir) / file
        shutil.copy(source, target)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return hub


def test_repository_loads_by_its_one_file(hub: Hub) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    hub.put("user/repo", "README.json", {})
    encoder = load_checkpoint("hf:user/repo", device="cpu")
    assert encoder.facts.name == "hf:user/repo" and encoder.pooling.name == "simpool"
    assert ("user/repo", "repo.pth", None, None) in hub.log
    assert load_checkpoint("hf:user/repo/repo.pth?weights=student", device="cpu").pooling.beta is not None


def test_several_files_ask_for_one_and_safetensors_comes_first(hub: Hub, tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth.tar"):
        hub.put("user/repo", name, simpool_vit())
    with pytest.raises(
        ValueError,
        match=r"holds several weights: name one, as in hf:user/repo/a\.pth \(there are a\.pth, b\.pth\.tar\)",
    ):
        load_checkpoint("hf:user/repo", device="cpu")
    from safetensors.torch import save_file

    save_file(made.vit(), hub.folder / "user/repo/model.safetensors")
    assert load_checkpoint("hf:user/repo", device="cpu").pooling.name == "cls"
    with pytest.raises(ValueError, match=r"has no file 'c\.pth'; it has a\.pth, b\.pth\.tar, model\.safetensors"):
        load_checkpoint("hf:user/repo/c.pth", device="cpu")


@pytest.mark.parametrize(
    "name", ["vits_dino_simpool_ep100", "resnet50_dino_simpool_ep100", "vits_supervised_simpool_no_gamma_ep100"]
)
def test_published_name_loads_from_its_repository_with_its_gamma_and_accuracy(hub: Hub, name: str) -> None:
    entry = published()[name]
    vit = made.vit(cls=False, classes=3 if "supervised" in name else 0) | made.simpool(
        128, "gp.pool." if "supervised" in name else "simpool."
    )
    content = (
        made.self_supervised(made.resnet() | made.simpool(512, "simpool."))
        if "resnet" in name
        else made.self_supervised(vit)
    )
    hub.put(f"billpsomas/{name}", f"{name}.pth", made.supervised(vit) if "supervised" in name else content)
    encoder = load_checkpoint(name, device="cpu")
    assert (
        encoder.facts.title == entry.title
        and encoder.facts.accuracy == entry.accuracy
        and encoder.facts.license == "cc-by-4.0"
    )
    assert encoder.pooling.gamma == entry.options["gamma"]


def test_repository_in_timms_form_loads_with_its_preprocessing(hub: Hub) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3).eval()
    hub.put("timm/tiny", "pytorch_model.bin", model.state_dict())
    config = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 192, 192], "license": "mit"}
    hub.put("timm/tiny", "config.json", {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": config})
    facts = (encoder := load_checkpoint("hf:timm/tiny", device="cpu")).facts
    assert (facts.mean, facts.std, facts.size, facts.license) == ((0.5,) * 3, (0.25,) * 3, 192, "mit")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(encoder(x).logits, model(x), atol=1e-5)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ConnectionError("no route"),
            r"the Hugging Face hub cannot be reached for user/repo \(ConnectionError\); check the network",
        ),
        (OSError(28, "No space left on device"), r"there is no space left for hf:user/repo; free some, or let HF_HOME"),
        (type("RepositoryNotFoundError", (Exception,), {})("404"), r"has no repository 'user/repo' that can be read"),
        (type("GatedRepoError", (Exception,), {})("403"), r"asks for consent first"),
    ],
)
def test_hub_out_of_reach_is_a_sentence(hub: Hub, error: Exception, says: str) -> None:
    hub.error = error
    with pytest.raises(ValueError, match=says):
        load_checkpoint("hf:user/repo", device="cpu")


def test_repository_fetched_earlier_loads_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())

    def gone(repository: str, **_: Any) -> Any:
        raise ConnectionError("no route")

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(hub, "model_info", gone)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kwargs: asked.append(kwargs) or str(hub.folder / name)
    )
    assert load_checkpoint("hf:user/repo", device="cpu").pooling.name == "simpool"
    assert asked == [{"local_files_only": True, "cache_dir": None}], "nothing is fetched by this way"


@pytest.mark.parametrize(
    "config",
    [
        {"mean": 3},
        {"mean": [0.5]},
        {"std": [0.0, 1, 1]},
        {"input_size": []},
        {"input_size": [3, 9999, 9999]},
        {"std": ["a"] * 3},
    ],
)
def test_description_that_cannot_be_meant_is_told(hub: Hub, config: dict[str, Any]) -> None:
    hub.put("user/tiny", "model.bin", timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict())
    hub.put("user/tiny", "config.json", {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": config})
    with pytest.raises(
        ValueError, match=r"hf:user/tiny: config\.json does not describe a model: .*; name its file instead"
    ):
        load_for_visitor("hf:user/tiny", device="cpu")


def test_file_that_arrives_short_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("user/repo", "a.pth", simpool_vit())

    def cut(repository: str, file: str, **_: Any) -> str:
        path = hub.folder / "cut.pth"
        path.write_bytes((hub.folder / repository / file).read_bytes()[:1000])
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cut)
    with pytest.raises(ValueError, match=r"a\.pth of hf:user/repo arrived with 1,000 of [\d,]+ bytes; delete"):
        load_checkpoint("hf:user/repo", device="cpu")


def test_address_without_a_repository_is_told() -> None:
    assert split_address("user/repo/sub/a.pth") == ("user/repo", "sub/a.pth")
    for address in ("user", "", "user/"):
        with pytest.raises(ValueError, match="is not hf:<user>/<repository>"):
            split_address(address)


def test_visitor_downloads_as_a_stranger_into_a_folder_that_goes(hub: Hub) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    encoder, report = load_for_visitor("hf:user/repo", device="cpu")
    assert encoder.pooling.name == "simpool" and "3 blocks" in report.architecture
    for _, _, cache, token in hub.log:
        assert cache is not None and not Path(cache).exists() and token is False


def test_visitor_is_held_to_the_limit_and_to_names_on_the_network(hub: Hub, tmp_path: Path) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    with pytest.raises(ValueError, match=r"hf:user/repo/repo\.pth has \d+ MB; at most 0 MB are fetched here"):
        load_for_visitor("hf:user/repo", device="cpu", limit=1000)
    assert all(file != "repo.pth" for _, file, _, _ in hub.log), "refused before it is fetched"
    torch.save(made.vit(), tmp_path / "local.pth")
    for name in (str(tmp_path / "local.pth"), "resnet_gap", "../models/resnet_gap"):
        with pytest.raises(ValueError, match="is neither hf:"):
            load_for_visitor(name, device="cpu")
    with pytest.raises(ValueError, match="a probing head needs a backbone"):
        load_for_visitor(f"hf:user/repo?backbone={tmp_path / 'local.pth'}", device="cpu")
    with pytest.raises(ValueError, match="has no weights for 'nothing'"):
        load_for_visitor("timm:nothing", device="cpu")


def tell_sizes(hub: Hub, monkeypatch: pytest.MonkeyPatch, **sizes: int | None) -> None:
    """Let the hub tell other sizes of files, by the first part of their names, than they have."""
    own = hub.model_info

    def told(repository: str, **options: Any) -> Any:
        info = own(repository, **options)
        for sibling in info.siblings:
            sibling.size = sizes.get(sibling.rfilename.partition(".")[0], sibling.size)
        return info

    monkeypatch.setattr(hub, "model_info", told)


@pytest.mark.parametrize(("size", "says"), [(None, "an unknown size"), (2**33, "8,192 MB"), (2**30 + 1, "1,024 MB")])
def test_visitor_gets_no_file_whose_size_is_unknown_or_beyond_the_limit(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, size: int | None, says: str
) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    tell_sizes(hub, monkeypatch, repo=size)
    for name in ("hf:user/repo", "hf:user/repo/repo.pth"):
        with pytest.raises(ValueError, match=rf"hf:user/repo/repo\.pth has {says}; at most 1,024 MB are fetched here"):
            load_for_visitor(name, device="cpu")
    assert all(file != "repo.pth" for _, file, _, _ in hub.log), "refused before it is fetched"


def test_limit_is_the_largest_size_that_is_fetched(hub: Hub) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    size = (hub.folder / "user" / "repo" / "repo.pth").stat().st_size
    assert load_for_visitor("hf:user/repo", device="cpu", limit=size)[0].pooling.name == "simpool"
    with pytest.raises(ValueError, match="at most"):
        load_for_visitor("hf:user/repo", device="cpu", limit=size - 1)


def test_on_ones_own_machine_a_file_of_unknown_size_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("user/repo", "repo.pth", simpool_vit())
    tell_sizes(hub, monkeypatch, repo=None)
    assert load_checkpoint("hf:user/repo", device="cpu").pooling.name == "simpool"


@pytest.mark.parametrize("size", [None, 2**21])
def test_visitor_gets_no_description_whose_size_is_unknown_or_beyond_its_limit(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    hub.put("user/tiny", "model.bin", timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict())
    hub.put("user/tiny", "config.json", {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"license": "mit"}})
    assert load_for_visitor("hf:user/tiny", device="cpu")[0].facts.license == "mit"
    hub.log.clear()
    tell_sizes(hub, monkeypatch, config=size)
    encoder, _ = load_for_visitor("hf:user/tiny", device="cpu")
    assert encoder.facts.license != "mit" and [file for _, file, _, _ in hub.log] == ["model.bin"]


def test_published_checkpoints_may_be_as_large_as_they_are(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor's limit is for files that nobody knows; those in the list are whole training checkpoints."""
    name = "vits_dino_simpool_ep100"
    hub.put(f"billpsomas/{name}", f"{name}.pth", simpool_vit())
    assert load_for_visitor(name, device="cpu", limit=1000)[0].facts.title == published()[name].title
    monkeypatch.setattr(checkpoints, "PUBLISHED_LIMIT", 2000)
    with pytest.raises(ValueError, match="at most 0 MB are fetched here"):
        load_for_visitor(name, device="cpu", limit=1000)


def test_visitors_timm_tag_comes_from_timms_repository(hub: Hub) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    hub.put("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.bin", model.state_dict())
    hub.put("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "config.json", {"architecture": "vit_tiny_patch16_224"})
    for tag in ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        assert load_for_visitor(tag, device="cpu")[0].depth == 12


def test_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer waits for one time limit, not for one per file that might be there."""
    asked: list[bytes] = []
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.05)
        closed = threading.Event()

        def accept() -> None:
            while not closed.is_set():
                with contextlib.suppress(TimeoutError):
                    held.append(silent.accept()[0])
                    asked.append(held[-1].recv(4096).partition(b"\r\n")[0])

        listening = threading.Thread(target=accept)
        listening.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub_client, "ANSWER", 0.3)
        try:
            with pytest.raises(DownloadError, match=r"hub cannot be reached for user/tiny"):
                load_for_visitor("hf:user/tiny")
        finally:
            closed.set()
            listening.join()
    assert [line for line in asked if b"/api/models/" in line] == [b"GET /api/models/user/tiny?blobs=true HTTP/1.1"]


def test_progress_of_a_download_is_told_and_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    bar = hub_client._bar_for(lambda now, of: told.append((now, of)))
    with bar(total=100, unit="B", disable=True, name="huggingface_hub.http_get", desc="model.bin") as shown:
        for _ in range(4):
            shown.update(25)
    assert told == [(25, 100), (50, 100), (75, 100), (100, 100)]
    assert capsys.readouterr() == ("", "")


def test_listed_weights_come_without_a_login_named_as_listed_and_stay_in_the_cache(hub: Hub) -> None:
    name, told = "vits_dino_simpool_ep100", []
    hub.put(f"billpsomas/{name}", f"{name}.pth", simpool_vit())
    encoder = load_offered(name, device="cpu", progress=lambda now, of: told.append(now))
    assert (encoder.facts.name, encoder.facts.title) == (name, published()[name].title)
    assert hub.log[-1] == (f"billpsomas/{name}", f"{name}.pth", None, False)
    with pytest.raises(ValueError, match="parameters; at most 1,000 are taken here"):
        load_offered(name, device="cpu", parameters=1000)


def test_hub_counts_as_out_of_reach_where_it_is_switched_off_or_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        def head(self, address: str, timeout: float) -> Any:
            assert timeout <= 5
            raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    assert not hub_client.is_reachable()
    monkeypatch.setattr(
        huggingface_hub, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: SimpleNamespace(status_code=200))
    )
    assert hub_client.is_reachable()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not hub_client.is_reachable()
