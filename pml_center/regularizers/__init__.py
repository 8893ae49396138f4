"""Regularizers for PML's two slots: terms that look only at lengths, or only at class rows."""

from pml_center.regularizers.center_invariant_regularizer import CenterInvariantRegularizer
from pml_center.regularizers.center_repulsion_regularizer import CenterRepulsionRegularizer
from pml_center.regularizers.magnitude_regularizer import MagnitudeRegularizer
from pml_center.regularizers.ring_regularizer import RingRegularizer

__all__ = [
    "CenterInvariantRegularizer",
    "CenterRepulsionRegularizer",
    "MagnitudeRegularizer",
    "RingRegularizer",
]
