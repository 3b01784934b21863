"""What a report says in words: the same in the picture and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from xai_onnx.protopnet.explanation import PrototypeExplanation, PrototypeMatch

COLUMNS = {
    "located": "this part of it",
    "part": "enlarged",
    "patch": "that training patch",
    "source": "training picture",
    "similarity": "similar where",
    "sum": "similarity x weight = points",
}
_WORTH = 0.01
WITHHELD = ("not in", "the prototype", "bank")


def number(value: float) -> str:
    """Two decimals; what rounds to zero has no sign."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00")


def title(explanation: PrototypeExplanation) -> str:
    """The class, as a heading."""
    return f"Why {explanation.title}?"


def verdict(explanation: PrototypeExplanation) -> list[str]:
    """The score, a line or two."""
    count, first = len(explanation.evidence), int(explanation.scores.argmax())
    rank = "" if first != explanation.target else f", the highest of {len(explanation.scores)}"
    lines = [
        f"Score {number(explanation.score)}{rank}: the sum of {count} prototypes' points, for and "
        "against."
    ]
    if first != explanation.target:
        score = number(float(explanation.scores[first]))
        lines.append(f"The model prefers {explanation.label_of(first)}, with a score of {score}.")
    return lines


def share(explanation: PrototypeExplanation, target: int) -> str:
    """A class's score and probability."""
    score = f"score {number(float(explanation.scores[target]))}"
    if explanation.probabilities is None:
        return score
    return f"{explanation.probabilities[target]:.1%}, {score}"


def doubt(explanation: PrototypeExplanation) -> str | None:
    """What speaks against trusting the class, if something does."""
    if explanation.familiar:
        return None
    best, least = float(explanation.similarities.max()), explanation.familiar_at
    return (
        f"No familiar part: the largest similarity is {number(best)}, below {number(least)}. "
        "Distrust the class."
    )


def rows(explanation: PrototypeExplanation) -> tuple[PrototypeMatch, ...]:
    """The matches that are worth a row: none at the end that counts for less than 1 % of the best.

    What the left-out ones add is in the line of the total.
    """
    sizes = [abs(match.evidence) for match in explanation.matches]
    told = [rank for rank, size in enumerate(sizes) if size >= max(sizes) * _WORTH]
    return explanation.matches[: told[-1] + 1]


def points(match: PrototypeMatch) -> str:
    """The row's product."""
    factors = f"{number(match.similarity)} x {number(match.weight)}"
    return f"{factors} = {number(match.evidence)} points"


def about(explanation: PrototypeExplanation, match: PrototypeMatch) -> list[str]:
    """What else is to be said of a match, a line each."""
    own = explanation.label_of(match.prototype_class)
    lines = [f"prototype {match.prototype} of {own}"]
    if match.source.image_id:
        lines.append(f"from {match.source.image_id}")
    share = _area(match.receptive_box) / max(_area(_seen(explanation)), 1e-9)
    lines.append(f"receptive field: {min(share, 1):.0%} of the picture")
    if not match.familiar:
        lines.insert(0, f"no familiar part: similarity below {number(explanation.familiar_at)}")
    return lines


def total(explanation: PrototypeExplanation, matches: Sequence[PrototypeMatch]) -> str:
    """How the rows, with the prototypes that aren't shown, add up to the score."""
    rows = "1 row" if len(matches) == 1 else f"{len(matches)} rows"
    parts = [f"{rows}: {number(sum(match.evidence for match in matches))}"]
    own, points_own, other, points_other = explanation.beyond(len(matches))
    if own:
        label = explanation.label_of(explanation.target)
        parts.append(f"{own} more of {label}: {number(points_own)}")
    if other:
        parts.append(f"{other} of other classes: {number(points_other)}")
    return f"{'   +   '.join(parts)}   =   score {number(explanation.score)}"


def notes(explanation: PrototypeExplanation) -> list[str]:
    """How to read the pictures, without promising more than they show; a line each."""
    return [
        "Numbers in the large picture: where each row's similarity is largest.",
        "Yellow frame: around the highest 5 % of the enlarged similarity map. It is a location in "
        "the latent grid, not an outline of what the model looked at.",
        "Dashed frame: the receptive field. Every pixel inside may have had a part in the match.",
        "Similar where: location in the latent grid, each map scaled by itself. Similar for the "
        "model need not be similar for the eye.",
    ]


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _seen(explanation: PrototypeExplanation) -> tuple[float, float, float, float]:
    height, width = explanation.input_size
    return explanation.box or (0.0, 0.0, float(width), float(height))
