"""LIME: which superpixels of a picture speak for a class, told by perturbed pictures of it.

Ribeiro, Singh and Guestrin 2016, "Why Should I Trust You?". Importing this package loads nothing;
its modules load Numba, and scikit-image where they segment.
"""
