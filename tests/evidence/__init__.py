"""Manipulating a trail in every way that is known, to see that each is found and rightly named.

`python -m tests.evidence --each 2000 --store both --seed 1` says how often that was so.
"""
