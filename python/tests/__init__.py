"""Tests of the installed package. `python3 -m tests` in the folder above runs them all."""
