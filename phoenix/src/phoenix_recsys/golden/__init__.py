"""Checks of this implementation against fixture files computed by the published one.

``python -m phoenix_recsys.golden FILE…`` takes .npz fixtures of either model, of single functions and of initial
parameters, and artifact directories with expected results. Exit status: 0 all within tolerance, 1 something is beyond
it, 2 a file cannot be used.
"""
