"""tenants.yaml and the environment → one frozen Config, or every mistake at once.

`load_config` is the way in. What can be set stands in tables, one line a setting: the keys of
the file in `file.py` and `tenants.py`, the variables in `environment.py` and
`single_tenant.py`.
"""

from ebus.config.file import FILE_KEYS
from ebus.config.load import ENVIRONMENT, Signature, load_again, load_config, signature
from ebus.config.mistakes import ConfigError, Mistake
from ebus.config.model import AdminKey, Config, KeyConfig, Rate, Scope, TenantConfig, TenantLimits

__all__ = [
    "ENVIRONMENT",
    "FILE_KEYS",
    "AdminKey",
    "Config",
    "ConfigError",
    "KeyConfig",
    "Mistake",
    "Rate",
    "Scope",
    "Signature",
    "TenantConfig",
    "TenantLimits",
    "load_again",
    "load_config",
    "signature",
]
