"""Which sides of square pictures a generator that doubles its maps can make."""

from __future__ import annotations

from dlkit.errors import SpecError

# A map that a generator begins with has this side.
SMALLEST, LARGEST = 4, 7


def doublings(side: int) -> tuple[int, int] | None:
    """Return `(base, n)` with `side = base * 2**n`, base in [4, 7] and n at least 1, or None."""
    base, n = side, 0
    while base % 2 == 0 and base > LARGEST:
        base, n = base // 2, n + 1
    return (base, n) if n and SMALLEST <= base <= LARGEST else None


def doubled(side: int) -> int:
    """Return the side nearest to `side`, the larger of two, that doublings lead to."""
    return next(
        s
        for d in range(side + 8)
        for s in (side + d, side - d)
        if s > 0 and doublings(s) is not None
    )


def fours(side: int) -> int:
    """Return the multiple of 4 nearest to `side`, at least 8."""
    return max(8, (side + 2) // 4 * 4)


def doublings_of(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return `doublings` of pictures `(h, w, c)`.

    Raises:
        SpecError: they are not square, or of a side that doublings do not lead to.
    """
    height, width = shape[:2]
    found = doublings(height)
    if height != width or found is None:
        raise SpecError(
            f"{name} grows its pictures from a side of {SMALLEST} to {LARGEST} by doubling, and "
            f"these are {height} x {width}; nearest: --image-size {doubled(max(height, width))}"
        )
    return found
