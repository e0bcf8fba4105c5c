"""What `--augment` accepts: a name for a list of operations, or the list itself.

An operation is written `name` or `name=amount`. The list is checked without TensorFlow;
`dlkit.data.augment` carries it out.
"""

from __future__ import annotations

from typing import NamedTuple

from dlkit.errors import OptionError, nearest, one_of


class Operation(NamedTuple):
    """One operation of a policy and how far it goes, in the unit that `OPERATIONS` states."""

    name: str
    amount: float


# Operation: default amount, largest amount, what the amount is.
OPERATIONS: dict[str, tuple[float, float, str]] = {
    "flip": (0.5, 1.0, "share of the images mirrored left to right"),
    "alternating-flip": (1.0, 1.0, "every image mirrored in every second epoch (Jordan 2024)"),
    "crop": (0.07, 64.0, "reflected padding, cropped back at random: pixels, below 1 a share of the side"),
    "translate": (1 / 8, 0.5, "share of each side moved by at most, zeros coming in"),
    "rotate": (10.0, 180.0, "degrees turned by at most"),
    "zoom": (0.1, 0.5, "share magnified or shrunk by at most"),
    "jitter": (0.2, 1.0, "share that brightness, contrast and saturation change by at most"),
    "erase": (0.25, 1.0, "largest share of the area that half of the images lose (Zhong et al. 2017)"),
    "noise": (0.05, 1.0, "deviation of Gaussian noise, as a share of the full range"),
    "mixup": (0.2, 10.0, "alpha of the Beta that two images are mixed by (Zhang et al. 2018)"),
    "cutmix": (1.0, 10.0, "alpha of the Beta that sizes the pasted box (Yun et al. 2019)"),
}  # fmt: skip
PRESETS: dict[str, dict[str, str]] = {
    "characters": {
        "mirror": "translate=0.125,rotate=10,zoom=0.1",
        "light": "translate=0.125,rotate=10,zoom=0.1",
        "strong": "translate=0.125,rotate=15,zoom=0.15,erase=0.15",
    },
    "photo": {
        "mirror": "flip",
        "light": "alternating-flip,crop",
        "strong": "alternating-flip,crop,erase,cutmix",
    },
}
WHY = {
    "characters": "characters are moved, turned and zoomed, not mirrored: a mirrored one is another or none",
    "photo": "a photo mirrored, or moved a little, shows the same thing",
}


def policy(text: str, kind: str = "photo") -> tuple[Operation, ...]:
    """Read a policy.

    Args:
        text: "none", "mirror" (photos alone), "light", "strong", "auto" (light), or a list such as "flip,crop=2,mixup=0.2".
        kind: what the pictures show, "characters" or "photo": decides what the names stand for.
    Raises:
        OptionError: an unknown operation (with the nearest), an amount out of range, one twice.
    """
    if text == "none":
        return ()
    text = PRESETS[kind].get("light" if text == "auto" else text, text)
    found: list[Operation] = []
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in OPERATIONS:
            names = ["none", "mirror", "light", "strong", "auto", *OPERATIONS]
            raise OptionError(
                f"--augment: no operation '{name}'{nearest(name, names)}; accepted: none, mirror, "
                f"light, strong, or a list of {one_of(OPERATIONS)}"
            )
        default, largest, meaning = OPERATIONS[name]
        try:
            amount = float(value) if equals else default
        except ValueError:
            amount = -1.0
        if not 0 < amount <= largest:
            raise OptionError(
                f"--augment: {name} got '{value}'; accepted: above 0, at most {largest:g} ({meaning})"
            )
        if any(name == each.name for each in found):
            raise OptionError(f"--augment: {name} stands twice in '{text}'")
        found.append(Operation(name, amount))
    names = {each.name for each in found}
    for one, other in (("flip", "alternating-flip"), ("mixup", "cutmix")):
        if {one, other} <= names:
            raise OptionError(f"--augment: {one} and {other} exclude each other")
    return tuple(found)


def written(operations: tuple[Operation, ...]) -> str:
    """Write a policy as a list that `policy` reads."""
    return ",".join(f"{each.name}={each.amount:g}" for each in operations) or "none"
