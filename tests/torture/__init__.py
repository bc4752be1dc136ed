"""Tests that break what ebus stands on: the power, its process, the disk."""
