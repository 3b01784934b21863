"""LIME inside the file: pictures are perturbed, classified and fitted where the model runs.

`perturbed`: the classifier in a Loop over batches of perturbed pictures. `surrogate`: the weighted
ridge regression of its scores on the masks. `build`: both put into a copy of the model.
"""

from exporters.lime.build import RETURNS, Fit, build

__all__ = ["RETURNS", "Fit", "build"]
