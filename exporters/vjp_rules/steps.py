"""Steps: y stays as it is under small changes of x, so that nothing flows back.

At the steps themselves there is no derivative; there too it is taken for zero, as torch does.
"""

from __future__ import annotations

from exporters.cotangent import ZERO, Cotangent, Zero
from exporters.vjp_rules.registry import Site, vjp


@vjp("Round", "Floor", "Ceil", "Sign", sparse=True)
def step(site: Site, g: Cotangent) -> list[Zero]:
    """y = x, rounded, or its sign; dx = 0."""
    return [ZERO]


@vjp("Hardmax", sparse=True)
def hardmax(site: Site, g: Cotangent) -> list[Zero]:
    """y = 1 at the first largest x along an axis, else 0; dx = 0."""
    return [ZERO]


@vjp("EyeLike", sparse=True)
def eye_like(site: Site, g: Cotangent) -> list[Zero]:
    """y = ones on a diagonal, in the shape of x; dx = 0."""
    return [ZERO]
