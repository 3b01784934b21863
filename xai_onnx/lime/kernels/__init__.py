"""Numba loops, one file for each idea; nothing here knows of models or of pictures' files."""
