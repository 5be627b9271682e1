"""What was recognised of a checkpoint that was loaded."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """The description of a checkpoint that was loaded.

    Attributes:
        source: name of the checkpoint.
        container: kind of file or folder.
        architecture: of the backbone, a phrase.
        pooling: its title.
        parameters: number of parameters of the encoder.
        used: number of tensors used.
        dropped: number of tensors that were not used, by reason.
        notes: assumptions, a sentence each.
    """

    source: str
    container: str
    architecture: str
    pooling: str
    parameters: int
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as sentences."""
        sentences = [
            f"{self.source}: {self.architecture} with {self.pooling}, {self.parameters:,} parameters ({self.container})"
        ]
        sentences.append(
            f"{self.used} tensors used" + "".join(f"; {count} dropped: {why}" for why, count in self.dropped.items())
        )
        return sentences + list(self.notes)
