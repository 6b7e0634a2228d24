"""The floors: the least that a program in Python must do for the same effect."""
