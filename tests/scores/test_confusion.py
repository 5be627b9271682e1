"""Mean IoU against torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz.scores.confusion import count_pixels, mean_ious


def test_mean_iou_is_that_of_torchmetrics_and_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(3, 4, 8, 8, generator=rng), torch.randint(4, (3, 8, 8), generator=rng)
    labels[:, 0] = 9
    table = count_pixels(logits, labels, 9)
    counted = labels != 9
    truth, found = labels[counted].numpy(), logits.argmax(1)[counted].numpy()
    assert np.array_equal(table.numpy(), confusion_matrix(truth, found))
    theirs = MulticlassJaccardIndex(4, ignore_index=9)(logits.argmax(1), labels)
    assert float(mean_ious(table.numpy())) == pytest.approx(float(theirs))
