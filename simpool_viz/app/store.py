"""The checkpoints that all visitors share: the bundled ones and those published on the hub, loaded at first use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.hub import Progress
from simpool_viz.checkpoints.load import at_size, load_checkpoint, load_offered, share_backbones, split_size
from simpool_viz.checkpoints.published import is_offered
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import choose_device, precision_name

MOST_PARAMETERS = 120_000_000  # of a checkpoint that is no bundled one


class EncoderStore:
    """Checkpoints in memory. Safe between threads.

    Args:
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.
        limit: how many are kept; beyond it the least recently used is dropped.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", limit: int = 8) -> None:
        self.device, self.precision, self.limit = device, precision, limit
        self._loaded: OrderedDict[str, Encoder] = OrderedDict()
        self._sized: dict[str, Encoder] = {}  # by name with its size, of those that are loaded
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    def where(self) -> str:
        """Device and precision, such as "cpu, float32"."""
        device, dtype = choose_device(self.device, self.precision)
        return f"{device}, {precision_name(dtype)}"

    def has(self, name: str) -> bool:
        """Whether `get` needs nothing from the hub."""
        plain, _ = split_size(name)
        with self._lock:
            return plain in self._loaded or not is_offered(plain)

    def get(self, name: str, progress: Progress | None = None) -> Encoder:
        """A bundled checkpoint or one that is offered on the hub.

        Args:
            name: as in the catalogue, in `offered` or of a timm model with weights; "?size=448" may follow.
            progress: is told of a download.

        Raises:
            CheckpointError: none of that name is offered, or its file cannot be read.
            DownloadError: it cannot be fetched.
            OptionError: a size out of range.
        """
        plain, size = split_size(name)
        encoder = self._fetched(plain, progress) if is_offered(plain) else self._kept(plain, self._read)
        if size is None:
            return encoder
        with self._lock:
            known = self._sized.get(name)
            if known is None or known.backbone is not encoder.backbone:
                known = self._sized[name] = at_size(encoder, size)
            return known

    def _read(self, name: str) -> Encoder:
        # What a visitor sends must not name a file of this machine, or a place on the network.
        if name not in catalogue():
            raise CheckpointError(f"no bundled checkpoint is called {name!r}; add your own under 'Your own checkpoint'")
        return load_checkpoint(name, device=self.device, precision=self.precision)

    def _fetched(self, name: str, progress: Progress | None) -> Encoder:
        """One visitor fetches, the others who want the same wait; whoever wants another does not."""
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            turn = self._fetching.setdefault(name, threading.Lock())
        with turn:
            with self._lock:
                known = self._loaded.get(name)
            if known is not None:
                return known
            where = {"device": self.device, "precision": self.precision}
            encoder = load_offered(name, **where, parameters=MOST_PARAMETERS, progress=progress)
            return self._kept(name, lambda _: encoder)

    def _kept(self, name: str, load: Callable[[str], Encoder]) -> Encoder:
        """The checkpoint of that name, loaded where it is not yet; the oldest makes room."""
        with self._lock:
            if name not in self._loaded:
                in_use = list(self._loaded.values())
                self._loaded[name] = load(name)
                share_backbones([*in_use, self._loaded[name]], in_use)
            self._loaded.move_to_end(name)
            while len(self._loaded) > self.limit:
                gone, _ = self._loaded.popitem(last=False)
                self._sized = {key: one for key, one in self._sized.items() if split_size(key)[0] != gone}
            return self._loaded[name]
