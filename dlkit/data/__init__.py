"""Sources of data, their splits, and the deterministic training stream."""

from dlkit.data.spec import Data, Spec, Split

__all__ = ["Data", "Spec", "Split"]
