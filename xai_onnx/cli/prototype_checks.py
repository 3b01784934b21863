"""What ``xai-onnx explain --check`` says of a ProtoPNet's matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xai_onnx.cli.output import table

if TYPE_CHECKING:
    from xai_onnx.model import Model
    from xai_onnx.protopnet import PrototypeExplanation


def checked(
    model: Model, image: str, explanation: PrototypeExplanation
) -> tuple[dict[str, Any], list[str]]:
    """Carry out the checks of `xai_onnx.protopnet.checks`; as data, and as lines."""
    from xai_onnx.protopnet.checks import occlusion, stability

    covered = occlusion(model, image, explanation.target)
    disturbed = stability(model, image, explanation.target)
    rows = [["  prototype", "similarity", "box covered", "all else covered", "box's share"]]
    rows += [
        [
            f"  {item.prototype}",
            f"{item.similarity:.3f}",
            f"{item.inside_covered:.3f} ({-item.drop_inside:+.3f})",
            f"{item.outside_covered:.3f} ({-item.drop_outside:+.3f})",
            f"{item.box_share:.1%}",
        ]
        for item in covered
    ]
    others = [["  disturbance", "class", "score", "similarity", "moved by", "same prototypes"]]
    others += [
        [
            f"  {item.disturbance}",
            "kept" if item.same_class else "LOST",
            f"{item.score_change:+.3f}",
            f"up to {item.similarity_change:.3f}",
            f"{item.moved:.1f} cells",
            f"{item.same_prototypes:.0%}",
        ]
        for item in disturbed
    ]
    data = {
        "occlusion": [item.to_dict() for item in covered],
        "stability": [item.to_dict() for item in disturbed],
    }
    return data, [*table(rows), *table(others)]
