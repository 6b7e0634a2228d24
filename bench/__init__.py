"""Measurements of cmappd beside a floor and beside its peers, in one run on one machine.

``python -m bench`` prints one table. README.md says what each figure is, and how to get the peers.
"""
