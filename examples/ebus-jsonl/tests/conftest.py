"""`EBUS_HYPOTHESIS` says how long the suite looks for sequences of operations that go wrong."""

from ebus.testing import load_profile

load_profile()
