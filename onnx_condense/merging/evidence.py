"""What is known of how inputs of weights vary, and from where."""

from __future__ import annotations

from enum import StrEnum


class Evidence(StrEnum):
    """What the moments of a consumer's input follow from."""

    CALIBRATION = "calibration"
    """Inputs that were given."""
    BATCH_NORMALIZATION = "batch-normalization"
    """The means and deviations that the file states."""
    WEIGHTS = "weights"
    """Nothing states them: they are assumed to be what the weights make of noise."""
